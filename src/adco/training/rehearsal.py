"""Estimate the time and memory that a run will take, by training a few steps first. Nothing is written.

print(dry_run(settings))                  what would be done, and its cost
settings = fit_epochs(settings, source)   `minutes` → `epochs`
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch

from adco.config.pretrain import Given, Resolved
from adco.config.resolve import default_workers, images_per_forward, processes_of, resolve, resolve_for_images
from adco.config.topics import MOST
from adco.data.batch import Batch
from adco.data.loader import Loader, Order
from adco.data.sources.protocol import Source
from adco.devices import placement, training_device
from adco.errors import InputError, same_in_all_processes
from adco.launcher import layout
from adco.training.bare import BareTraining
from adco.training.build import check_fits_memory, make_method, make_views
from adco.training.console import WARM_UP, duration, lines, rank_zero_info, summary
from adco.training.online_knn import online_knn
from adco.training.opening import log_and_open_training_images, log_images_and_warnings, open_training_images
from adco.training.own_process import in_a_process
from adco.words import counted

STEPS = 8  # steps per call of `TrialTraining`, by default
MEASURING = 30.0  # approximate limit in seconds for the steps that are measured before a run
RESERVE = 0.05  # share of the time kept for saving, drawing, and steps slower than those measured


class TrialTraining:
    """A trial of training on this process's device: views, forward, backward and step, without records and checkpoints.

    For a run on several devices, this trains only one device's share, without communication.

    Args:
        asked: settings of the run.
        source: its images.
        steps: steps per call; with loader workers, at least four per worker. Fewer if there are not enough images.
        processes: that train together, one per device; by default as asked for.
    """

    def __init__(self, asked: Given, source: Source, steps: int = STEPS, processes: int | None = None) -> None:
        self.processes = processes or processes_of(asked)
        self.settings = settings = share_of(asked, source, self.processes)
        self.device, self.batch_size = training_device(settings.accelerator, asked.devices), settings.batch_size
        torch.manual_seed(0)
        check_fits_memory(settings)
        self.method = make_method(settings, len(source) // self.batch_size).to(self.device)
        self.bare = BareTraining(self.method, settings.optimizer, settings.precision)
        workers = settings.workers
        # An epoch of this loader has only the images of one call. Otherwise, its workers would prefetch more while
        # another row of a comparison is timed.
        self.steps = min(max(steps, 4 * workers), len(source) // self.batch_size)
        some = np.random.default_rng(0).permutation(len(source))[: self.steps * self.batch_size]
        order = Order(len(some), batch_size=self.batch_size // settings.accumulate, seed=settings.seed)
        self.loader = Loader(
            source.subset(some), make_views(settings), order, workers=workers, pin_memory=self.device.type == "cuda"
        )

    def __call__(self) -> float:
        """Train and return the seconds per image."""
        start = time.perf_counter()
        for _ in self._train():
            pass
        return (self._now() - start) / (self.steps * self.batch_size)

    def seconds_per_step(self, budget: float) -> float:
        """Return the seconds per step, over enough steps for a stable figure, or as many as fit in the budget.

        Args:
            budget: approximate seconds to spend, warm-up included.
        """
        ahead = 2 * self.settings.workers  # batches that loader workers have made before the first step
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
        """Train on each image once; yield after each step."""
        for batch in map(self._to_device, self.loader):
            self.bare(batch)
            if self.bare.ends_step(batch):
                yield

    def _now(self) -> float:
        """Return the time in seconds after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _to_device(self, batch: Batch) -> Batch:
        views = [view.to(self.device, non_blocking=True) for view in batch.views]
        return Batch(views, batch.indices.to(self.device), batch.position)

    def extra_parameters(self) -> int:
        """Return the number of trained parameters outside backbone and projector: adversaries, or a predictor."""
        return self.trained_parameters() - sum(p.numel() for p in self.method.encoder.parameters())

    def trained_parameters(self) -> int:
        """Return the number of trained parameters."""
        return sum(p.numel() for player in self.method.players() for p in player.parameters if p.requires_grad)

    def exchanged_parameters(self) -> int:
        """Return the number of parameters whose gradients devices exchange: all trained ones but the negatives."""
        banks = sum(bank.weight.numel() for bank in self.method.banks() if bank.weight.requires_grad)
        return self.trained_parameters() - banks


def share_of(asked: Given, source: Source, processes: int) -> Resolved:
    """Return the settings with which one device trains its share of a run on several.

    Args:
        asked: settings of the run.
        source: its images.
        processes: that train together, one per device.

    Raises:
        InputError: if the images of a step cannot be divided among them.
    """
    chosen = resolve_for_images(asked, source)
    batch_size = images_per_forward(chosen, processes) * chosen.accumulate
    workers = chosen.workers
    if workers is None:  # the processes of a machine share its cores
        nodes = placement(asked.devices, asked.num_nodes)[1]
        workers = default_workers(source, processes_of(asked) // nodes)
    share = replace(chosen, devices=1, num_nodes=1, batch_size=batch_size, workers=workers)
    return resolve(share.for_one_device(processes), source)


@dataclass(frozen=True)
class Cost:
    """The duration of the parts of a run, in seconds."""

    before_first_step: float
    step: float
    epoch: float  # including the kNN at its end

    def seconds(self, epochs: int) -> float:
        return self.before_first_step + epochs * self.epoch


def measure(source: Source, training: TrialTraining, budget: float = MEASURING) -> Cost:
    """Estimate the cost of a run from some of its steps and a part of its kNN.

    Args:
        source: the images.
        training: of the run's settings, on these images.
        budget: approximate seconds for the steps.
    """
    step, images = training.seconds_per_step(budget), training.batch_size * training.processes
    start = step / 2 * training.settings.images_before_first_step / images  # one view, no backward pass
    return Cost(start, step, len(source) // images * step + _knn_seconds(source, training))


def _knn_seconds(source: Source, training: TrialTraining) -> float:
    """Estimate the seconds of the kNN at the end of an epoch, from about a tenth of its images."""
    settings = training.settings
    images = min(settings.knn_images, len(source))
    took = 0.0
    part = min(images, 512)
    for some in (64, part):  # the first call compiles
        knn = online_knn(replace(settings, knn_images=min(some, part)), source)
        if knn is None:
            return 0.0
        start = time.perf_counter()
        knn(training.method.encoder.backbone)
        took = time.perf_counter() - start
    return took * images / part


def fit_epochs(settings: Given, source: Source, spent: float = 0.0) -> Given:
    """Return the settings with as many whole epochs as fit into their `minutes`, but at least one.

    Args:
        settings: the settings. If `minutes` is not set, they are returned unchanged.
        source: the images.
        spent: seconds of the limit that have passed.

    Raises:
        InputError: if several processes train: each would measure a different time.
    """
    if settings.minutes == math.inf:
        return settings
    minutes, settings = settings.minutes, replace(settings, minutes=math.inf)
    if processes_of(settings) > 1:
        raise InputError(f"minutes {minutes:g} needs a run on one device: give --epochs, or --devices 1")
    begun = time.perf_counter()
    cost = measure(source, TrialTraining(settings, source), min(MEASURING, 6 * minutes))
    left = 60 * minutes * (1 - RESERVE) - spent - (time.perf_counter() - begun)
    epochs = max(1, int(min(MOST, (left - cost.before_first_step) / cost.epoch)))
    if cost.seconds(epochs) > left:
        rank_zero_info(
            f"one epoch takes about {duration(cost.seconds(1))}, longer than minutes {minutes:g} allows: "
            "training one epoch anyway"
        )
    else:
        rank_zero_info(f"minutes {minutes:g} allows for {counted(epochs, 'epoch')} of about {duration(cost.epoch)}")
    return replace(settings, epochs=epochs)


def dry_run(settings: Given) -> str:
    """Describe a run, and the time and memory it would take, as lines of text. Nothing is written.

    Raises:
        InputError: if a setting is impossible, or a launcher has started several processes.
    """
    with same_in_all_processes():
        _require_no_launcher()
    source = log_and_open_training_images(settings)
    settings = fit_epochs(settings, source)
    resolved = resolve(settings, source)
    log_images_and_warnings(resolved, source)
    training = TrialTraining(settings, source)
    cost = measure(source, training)
    memory = peak_since(0.0, training.device)
    facts = summary(resolved, source, training.method, training.device, processes_of(settings))
    total = duration(cost.seconds(resolved.epochs))
    return lines(
        {
            **facts,
            "time": f"about {total}: {cost.step:.3g} s per step, {duration(cost.epoch)} per epoch with its kNN",
            "memory": "unknown" if memory is None else f"{memory / 1024:.2f} GB of {training.device.type} at the peak",
        }
    )


def _require_no_launcher() -> None:
    """Raise an InputError if a launcher has started several processes, each of which would measure."""
    started = layout()
    if started and started.nodes * started.per_node > 1:
        of_a_node = "" if started.nodes == 1 else ", and the images of a step on one node as --batch_size"
        raise InputError(
            f"a dry run measures the share of one device: leave {started.launcher} out, and give "
            f"--devices {started.per_node}{of_a_node}"
        )


def peak_megabytes(settings: Given) -> float | None:
    """Return the peak memory of two training steps in MB, including weights and views.

    The steps run in a subprocess. On a GPU its GPU memory is measured, otherwise its main memory.
    """
    return in_a_process(_peak, settings)


def _peak(settings: Given) -> float | None:
    source = open_training_images(settings)
    before = high_water()
    training = TrialTraining(settings, source, steps=2)
    training()
    return peak_since(before, training.device)


def peak_since(before: float | None, device: torch.device) -> float | None:
    """Return the peak memory of this process in MB: its allocations on a GPU, else its peak minus `before`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    after = high_water()
    return None if before is None or after is None else after - before


def high_water() -> float | None:
    """Return the most memory this process has held so far, in MB; None except on Linux."""
    if sys.platform != "linux":
        return None
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
