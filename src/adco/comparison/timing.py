"""What a row costs: images a second, measured in turns with the other rows, and memory, in a process of its own.

Training runs are no measure of it: whatever else the machine does slows one and not the other.
"""

import hashlib
import json
import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from adco.comparison.plan import Row
from adco.data.loader import Batch, Loader, Order
from adco.data.sources import Source, open_source
from adco.pretraining import make_method, make_views
from adco.resolve import count_processes, resolve
from adco.run_directory import environment, write_json
from adco.settings import PretrainSettings, QueryKeySettings, to_dict

ROUNDS, STEPS = 9, 8
Found = TypeVar("Found")


class Training:
    """A row's training on this process's device: views, forward, backward and step; neither records nor checkpoints.

    Of a row on several devices it is one device's share, without what they tell each other.

    Args:
        settings: the row's.
        source: its images.
        steps: of a call, as far as the images suffice; with loader workers it takes four batches of each at least.
    """

    def __init__(self, settings: PretrainSettings, source: Source, steps: int = STEPS) -> None:
        processes = count_processes(settings)
        alone = replace(settings, devices=1, num_nodes=1, batch_size=settings.batch_size // processes)
        shuffles = ("shuffle", "auto") if processes > 1 else ("shuffle",)
        if isinstance(alone, QueryKeySettings) and alone.batch_norm in shuffles:
            alone = replace(alone, batch_norm="split", split_groups=1)  # its share stays one group
        self.settings = settings = resolve(alone, source)
        self.device = _device(settings)
        torch.manual_seed(0)
        self.method = make_method(settings, len(source) // settings.batch_size).to(self.device).train()
        self.optimizer = self.method.configure_optimizers()["optimizer"]
        assert settings.workers is not None
        # An epoch over what a call needs: a worker that looked ahead would do so in another row's turn.
        self.steps = min(max(steps, 4 * settings.workers), len(source) // settings.batch_size)
        chosen = np.random.default_rng(0).permutation(len(source))[: self.steps * settings.batch_size]
        order = Order(len(chosen), batch_size=settings.batch_size // settings.accumulate, seed=settings.seed)
        self.loader = Loader(source.subset(chosen), make_views(settings), order, workers=settings.workers)

    def __call__(self) -> float:
        """Seconds of an image, over the steps."""
        start = time.perf_counter()
        for batch in map(self._to_device, self.loader):
            half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.settings.precision)
            with torch.autocast(self.device.type, half, enabled=half is not None):
                loss = self.method.training_step(batch, 0)["loss"]
            loss.backward()
            if (batch.position + 1) % self.settings.accumulate == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / (self.steps * self.settings.batch_size)

    def _to_device(self, batch: Batch) -> Batch:
        views = [view.to(self.device, non_blocking=True) for view in batch.views]
        return Batch(views, batch.images.to(self.device), batch.position)

    def extra_parameters(self) -> int:
        """Of what is trained, how many are in neither backbone nor projector: adversaries, or a predictor."""
        return self.trained_parameters() - sum(p.numel() for p in self.method.encoder.parameters())

    def trained_parameters(self) -> int:
        """How many there are."""
        return sum(p.numel() for player in self.method.players() for p in player.parameters if p.requires_grad)


def known_timings(rows: Sequence[Row], path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """What `time_rows` has measured, where and with how many threads; from a file, or into it if it has other rows."""
    asked = json.dumps({row.name: to_dict(row.settings) for row in rows}, sort_keys=True)
    of = hashlib.sha256(asked.encode()).hexdigest()
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if known.get("of") != of:
        measured = time_rows(rows, say)
        known = {"of": of, "rows": measured, "threads": torch.get_num_threads(), **environment()}
        write_json(path, known)
    return known


def time_rows(rows: Sequence[Row], say: Callable[[str], None], *, steps: int = STEPS) -> dict[str, Any]:
    """Seconds of an image in each round, extra parameters, and megabytes at the peak, of each row."""
    say(f"timing {len(rows)} rows in turns, {ROUNDS} rounds of {steps} steps")
    sources = {data: open_source(data) for data in {row.settings.data for row in rows}}
    trainings = {row.name: Training(row.settings, sources[row.settings.data], steps) for row in rows}
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for turn in range(ROUNDS + 1):  # the first warms up
        for name, training in trainings.items():
            took = training()
            if turn:
                seconds[name].append(took)
    extra = {name: training.extra_parameters() for name, training in trainings.items()}
    del trainings
    return {
        row.name: {
            "seconds_per_image": seconds[row.name],
            "extra_parameters": extra[row.name],
            "peak_megabytes": peak_megabytes(row.settings),
        }
        for row in rows
    }


def peak_megabytes(settings: PretrainSettings) -> float | None:
    """What two steps take at their highest, weights and views included: of the GPU, or of a process of its own."""
    return in_a_process(_peak, settings)


def in_a_process(function: Callable[[PretrainSettings], Found], settings: PretrainSettings) -> Found:
    """What a function returns in a process of its own, in which Lightning does not say what it has found."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=logging.disable, initargs=(logging.INFO,)) as pool:
        return pool.apply(function, (settings,))


def _peak(settings: PretrainSettings) -> float | None:
    source = open_source(settings.data)
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


def _device(settings: PretrainSettings) -> torch.device:
    if settings.accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if settings.accelerator not in ("cpu", "gpu") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Within each round, which what slows a whole round leaves alone."""
    return [one / other for one, other in zip(of, to, strict=True)]


def relative_time(of: Sequence[float], to: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(ratios(of, to))
