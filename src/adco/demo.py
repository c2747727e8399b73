"""The demo: as many epochs of its recipe as fit the time on this machine, then both evaluations beside the floors."""

import time
from pathlib import Path
from typing import Any

import torch

from adco.api import pretrain
from adco.configure import pretrain_settings
from adco.data.loader import Loader, Order
from adco.data.sources import Source, open_source
from adco.evaluation.runs import Kind, evaluate_kinds
from adco.pretraining import make_method, make_views
from adco.resolve import resolve
from adco.settings import AdCoSettings, EvaluateSettings

RECIPE = "cifar10_demo"
MOST_EPOCHS = 30  # a fast machine need not use all of the time


def run_demo(out: Path, minutes: float) -> dict[Kind, dict[str, Any]]:
    """Pretrain, or go on where a demo in `out` was stopped, and evaluate.

    Raises:
        ValueError: if the data cannot be had.
        adco.callbacks.Interrupted: if a signal stopped it; the same call goes on.
    """
    if not (out / "config.yaml").is_file():
        settings = pretrain_settings(RECIPE)
        source = open_source(settings.data)
        epochs = int(minutes * 60 * images_per_second(settings, source) / len(source))
        pretrain(RECIPE, out=str(out), epochs=max(1, min(epochs, MOST_EPOCHS)))
    elif not (out / "backbone.safetensors").is_file():
        pretrain(resume=out)
    return evaluate_kinds(["knn", "linear"], out, EvaluateSettings(floors=True))


def images_per_second(settings: AdCoSettings, source: Source, steps: int = 12) -> float:
    """How fast this machine trains, views included, by the median of some steps."""
    settings = resolve(settings, source)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method = make_method(settings, steps_per_epoch=1).to(device)
    optimizer = method.configure_optimizers()["optimizer"]
    order = Order(len(source), batch_size=settings.batch_size, seed=settings.seed)
    seconds = []
    start = time.perf_counter()
    for _, batch in zip(range(steps), Loader(source, make_views(settings), order), strict=False):
        batch = method.transfer_batch_to_device(batch, device, 0)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
            loss = method.training_step(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return settings.batch_size / sorted(seconds)[len(seconds) // 2]
