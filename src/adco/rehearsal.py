"""Steps of a run before the run: what it will cost, in seconds and memory. Nothing is written.

print(dry_run(settings))                  what would be done, and its cost
settings = fit_epochs(settings, source)   `minutes` → `epochs`
"""

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from adco.console import WARM_UP, duration, lines, outline, say
from adco.data.loader import Batch, Loader, Order
from adco.data.sources import Source
from adco.pretraining import announce, make_method, make_views, online_knn, open_images, training_images
from adco.resolve import count_processes, resolve, resolve_for_images, training_device
from adco.settings import AdCoSettings, PretrainSettings, QueryKeySettings, known
from adco.words import counted

STEPS = 8  # of a call of `Training`, if not said otherwise
MEASURING = 30.0  # seconds at most, about, for the steps that are measured before a run
RESERVE = 0.05  # share of the time kept for saving, drawing, and steps that take longer than those measured
Found = TypeVar("Found")


class Training:
    """Training on this process's device: views, forward, backward and step; neither records nor checkpoints.

    Of a run on several devices it is one device's share, without their communication.

    Args:
        settings: the run's.
        source: its images.
        steps: of a call, as far as the images suffice; with loader workers it takes four batches of each at least.
    """

    def __init__(self, settings: PretrainSettings, source: Source, steps: int = STEPS) -> None:
        settings = resolve_for_images(settings, source)
        processes = count_processes(settings)
        alone = replace(settings, devices=1, num_nodes=1, batch_size=known(settings.batch_size) // processes)
        shuffles = ("shuffle", "auto") if processes > 1 else ("shuffle",)
        if isinstance(alone, QueryKeySettings) and alone.batch_norm in shuffles:
            alone = replace(alone, batch_norm="split", split_groups=1)  # its share stays one group
        self.settings = settings = resolve(alone, source)
        self.device, self.batch_size = training_device(settings), known(settings.batch_size)
        torch.manual_seed(0)
        self.method = make_method(settings, len(source) // self.batch_size).to(self.device).train()
        self.optimizer = self.method.configure_optimizers()["optimizer"]
        workers = known(settings.workers)
        # An epoch over what a call needs: a worker that looked ahead would do so in another's turn.
        self.steps = min(max(steps, 4 * workers), len(source) // self.batch_size)
        chosen = np.random.default_rng(0).permutation(len(source))[: self.steps * self.batch_size]
        order = Order(len(chosen), batch_size=self.batch_size // settings.accumulate, seed=settings.seed)
        self.loader = Loader(source.subset(chosen), make_views(settings), order, workers=workers)

    def __call__(self) -> float:
        """Seconds of an image, over the steps."""
        start = time.perf_counter()
        for _ in self._train():
            pass
        return (self._now() - start) / (self.steps * self.batch_size)

    def seconds_per_step(self, budget: float) -> float:
        """Seconds of a step: of as many as a stable figure needs, or as fit in the budget, behind a warm-up.

        Args:
            budget: seconds to spend in about, warm-up included.
        """
        ahead = 2 * known(self.settings.workers)  # batches that loader workers have made before the first step
        start, warm, warm_steps = self._now(), 0.0, 0
        for step, _ in enumerate(chain.from_iterable(self._train() for _ in repeat(None)), start=1):
            now = self._now()
            if not warm_steps:
                if step >= WARM_UP and (step >= ahead or now - start > budget / 2):
                    warm, warm_steps = now, step
            elif step - warm_steps >= max(STEPS, ahead) or now - start > budget:
                break
        return (now - warm) / (step - warm_steps)

    def _train(self) -> Iterator[None]:
        """Train on each image once; yields after each step."""
        for batch in map(self._to_device, self.loader):
            half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.settings.precision)
            with torch.autocast(self.device.type, half, enabled=half is not None):
                loss = self.method.training_step(batch, 0)["loss"]
            loss.backward()
            if (batch.position + 1) % self.settings.accumulate == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
                yield

    def _now(self) -> float:
        """Seconds, when all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _to_device(self, batch: Batch) -> Batch:
        views = [view.to(self.device, non_blocking=True) for view in batch.views]
        return Batch(views, batch.indices.to(self.device), batch.position)

    def extra_parameters(self) -> int:
        """Of what is trained, how many are in neither backbone nor projector: adversaries, or a predictor."""
        return self.trained_parameters() - sum(p.numel() for p in self.method.encoder.parameters())

    def trained_parameters(self) -> int:
        """How many there are."""
        return sum(p.numel() for player in self.method.players() for p in player.parameters if p.requires_grad)


@dataclass(frozen=True)
class Cost:
    """Seconds of a run's parts."""

    start: float  # before the first step
    step: float
    epoch: float  # all steps of an epoch, and the kNN at its end

    def seconds(self, epochs: int) -> float:
        return self.start + epochs * self.epoch


def measure(settings: PretrainSettings, source: Source, training: Training, budget: float = MEASURING) -> Cost:
    """What a run will cost, from some of its steps and a part of its kNN.

    Args:
        settings: resolved.
        source: the images.
        training: of the same settings and source.
        budget: seconds for the steps, about.
    """
    step = training.seconds_per_step(budget)
    start = 0.0
    if isinstance(settings, AdCoSettings) and settings.warm_start and not settings.warm_start_trains:
        start = step / 2 * known(settings.adversaries) / training.batch_size  # keys of one view, without a backward
    return Cost(start, step, len(source) // training.batch_size * step + _knn_seconds(settings, source, training))


def _knn_seconds(settings: PretrainSettings, source: Source, training: Training) -> float:
    """Seconds of the kNN at an epoch's end, from a tenth of its images or so."""
    images = min(settings.knn_images, len(source))
    took = 0.0
    part = min(images, 512)
    for some in (64, part):  # the first call compiles
        knn = online_knn(replace(settings, knn_images=min(some, part)), source)
        if knn is None:
            return 0.0
        start = time.perf_counter()
        knn(training.method)
        took = time.perf_counter() - start
    return took * images / part


def fit_epochs(settings: PretrainSettings, source: Source, spent: float = 0.0) -> PretrainSettings:
    """The settings with as many whole epochs as fit into their `minutes`, at least one, in place of these.

    Args:
        settings: with `minutes`.
        source: the images.
        spent: seconds of the minutes that are over.

    Raises:
        ValueError: if several processes train: each would measure something else.
    """
    assert settings.minutes is not None
    minutes, settings = settings.minutes, replace(settings, minutes=None)
    if count_processes(settings) > 1:
        raise ValueError(f"minutes {minutes:g} needs a run on one device: give --epochs, or --devices 1")
    begun = time.perf_counter()
    resolved = resolve(settings, source)
    cost = measure(resolved, source, Training(settings, source), min(MEASURING, 6 * minutes))
    left = 60 * minutes * (1 - RESERVE) - spent - (time.perf_counter() - begun)
    epochs = max(1, int((left - cost.start) / cost.epoch))
    if cost.seconds(epochs) > left:
        say(f"one epoch takes about {duration(cost.seconds(1))}, longer than minutes {minutes:g} allows: training one")
    else:
        say(f"minutes {minutes:g} allows for {counted(epochs, 'epoch')} of about {duration(cost.epoch)}")
    return replace(settings, epochs=epochs)


def dry_run(settings: PretrainSettings) -> str:
    """What a run would do, how long it would take, and how much memory, as lines of text. Nothing is written.

    Raises:
        ValueError: if a setting is impossible.
    """
    source = open_images(settings)
    if settings.minutes is not None:
        settings = fit_epochs(settings, source)
    resolved = resolve(settings, source)
    announce(resolved, source)
    training = Training(settings, source)
    cost = measure(resolved, source, training)
    memory = peak_since(0.0, training.device)
    facts = outline(resolved, source, training.method, training.device, count_processes(settings))
    total = duration(cost.seconds(resolved.epochs))
    return lines(
        {
            **facts,
            "time": f"about {total}: {cost.step:.3g} s a step, {duration(cost.epoch)} an epoch with its kNN",
            "memory": "unknown" if memory is None else f"{memory / 1024:.2f} GB of {training.device.type} at the peak",
        }
    )


def peak_megabytes(settings: PretrainSettings) -> float | None:
    """What two steps take at their highest, weights and views included: of the GPU, or of a process of its own."""
    return in_a_process(_peak, settings)


def in_a_process(function: Callable[[PretrainSettings], Found], settings: PretrainSettings) -> Found:
    """What a function returns in a process of its own, in which Lightning does not say what it has found."""
    context = multiprocessing.get_context("spawn")  # a Pool's processes may not start loader workers, these may
    with ProcessPoolExecutor(1, context, initializer=logging.disable, initargs=(logging.INFO,)) as executor:
        return executor.submit(function, settings).result()


def _peak(settings: PretrainSettings) -> float | None:
    source = training_images(settings)
    before = high_water()
    training = Training(settings, source, steps=2)
    training()
    return peak_since(before, training.device)


def peak_since(before: float | None, device: torch.device) -> float | None:
    """MB at the highest: of a GPU since the process began, else of the process beyond what it had held before."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    after = high_water()
    return None if before is None or after is None else after - before


def high_water() -> float | None:
    """The most memory this process has held so far, in MB; Linux only."""
    if sys.platform != "linux":
        return None
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
