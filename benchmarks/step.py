"""Overhead of AdCo's loss and adversaries over the encoder's passes: ResNet-50, 224 px.

    python benchmarks/step.py [BATCH]

Three kinds of step are timed in turns in one process, with views that are already made: a training step with 65 536
adversaries, one with 8 192, and the bare passes. The bare passes are the query's forward and backward, the key's
forward, the encoder's SGD step and the update of the momentum encoder, without loss and adversaries. Ratios are medians
over rounds.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from adco.comparison.timing import relative_time
from adco.data.batch import Batch
from adco.methods.adco import AdCo, AdCoSettings
from adco.training.bare import BareTraining
from adco.training.build import make_method
from adco.training.module import autocast
from measure import in_turns, save, show

ROUNDS = 5


def method(adversaries: int) -> AdCo:
    """Return AdCo with the paper's network and constants."""
    torch.manual_seed(0)
    settings: AdCoSettings[Any] = AdCoSettings(
        backbone="resnet50",
        image_size=224,
        test_image_size=224,
        adversaries=adversaries,
        batch_size=256,
        optimizer="sgd",
        weight_decay=1e-4,
        ema_decay=0.999,
        projector_norm=False,
        adversary_learning_rate=3.0,
        learning_rate=0.03,
        final_learning_rate=6e-4,
        warmup_epochs=0,
        split_groups=1,
        channels_last=True,
        batch_norm="split",
    )
    made = make_method(settings, steps_per_epoch=1)
    assert isinstance(made, AdCo)
    return made


class BarePasses:
    """The passes of the same encoder, without a loss."""

    def __init__(self) -> None:
        self.method = method(1)
        self.optimizer = BareTraining(self.method).optimizer

    def __call__(self, batch: Batch) -> None:
        bare_step(self.method, self.optimizer, batch)


def bare_step(method: AdCo, optimizer: torch.optim.Optimizer, batch: Batch, precision: str = "32-true") -> None:
    """Do the encoder's passes of a batch, its optimizer step and the momentum encoder's update, without a loss."""
    with autocast(batch.indices.device, precision):
        method.update_momentum_encoder(batch)
        method.embed_keys(batch, 0)
        queries = method.embed_queries(batch.views[1])
    optimizer.zero_grad()
    queries.backward(torch.ones_like(queries))  # type: ignore[no-untyped-call]
    optimizer.step()  # skips the adversaries, which have no gradient


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    generator = np.random.default_rng(0)
    views = [torch.from_numpy(generator.integers(0, 256, (images, 3, 224, 224), np.uint8)) for _ in range(2)]
    batch = Batch(views, torch.arange(images), 0)
    steps: dict[str, Callable[[Batch], object]] = {
        "bare passes": BarePasses(),
        **{f"K {count}": BareTraining(method(count)) for count in (8192, 65536)},
    }
    seconds = in_turns({name: partial(step, batch) for name, step in steps.items()}, ROUNDS)
    bare, small = seconds["bare passes"], seconds["K 8192"]
    figures = {
        name: {
            "milliseconds": 1e3 * sorted(times)[len(times) // 2],
            "this_over_bare_passes": relative_time(times, bare),
            "this_over_8192": relative_time(times, small),
        }
        for name, times in seconds.items()
    }
    rows = [[name, *(f"{value:.4g}" for value in figure.values())] for name, figure in figures.items()]
    show(f"a step, ResNet-50, 224 px, batch {images}", ["", "ms", "this / bare passes", "this / K 8192"], rows)
    save("step", {"batch": images, "rounds": ROUNDS, "figures": figures})


if __name__ == "__main__":
    main()
