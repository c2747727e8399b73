"""What a run tells its user: a summary of its settings, the progress bar and the time left."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from adco.config.pretrain import Resolved
from adco.data.sources.protocol import Source
from adco.launcher import is_first_rank
from adco.methods.method import Method
from adco.quiet import closed_terminal_ignored
from adco.training.module import ends_step
from adco.words import counted

WARM_UP, MIN_TIMED = 3, 3  # first steps, not timed because kernels load; timed steps before the first estimate
MEMORY = 200  # values after which the weight of all earlier ones is halved
REFRESH = 0.5  # seconds between updates of the progress bar
logger = logging.getLogger("adco")
progress = logging.getLogger("adco.progress")  # summary, steps, epochs and end of a run: printed without "adco: "


def rank_zero_info(words: str) -> None:
    """Log a line, on rank 0 only."""
    if is_first_rank():
        logger.info(words)


def duration(seconds: float) -> str:
    """Format seconds with about two digits: 0.4 s, 40 s, 12 min, 3 h 20 min, 2 d 5 h."""
    if seconds < 9.5:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def summary(settings: Resolved, source: Source, method: Method, device: torch.device, processes: int) -> dict[str, str]:
    """Return a summary of what a run will do, as label → text.

    Args:
        settings: the resolved settings.
        source: the training images.
        method: the method built from the settings.
        device: the device of this process.
        processes: number of processes that train together.
    """
    steps = len(source) // settings.batch_size
    classes = counted(len(source.classes), "class", "classes")
    labels = "no labels" if source.labels is None else f"{classes} (labels are used for kNN only)"
    size = sum(weights.numel() for weights in method.encoder.backbone.parameters()) / 1e6
    share = f"{processes} processes on " if processes > 1 else ""
    return {
        "images": f"{len(source)} in {source.name}, {labels}",
        "steps": f"{steps} per epoch, {steps * settings.epochs} in {counted(settings.epochs, 'epoch')}",
        "method": f"{settings.method}, {settings.batch_size} images of {settings.image_size} px per step",
        "backbone": f"{settings.backbone}, {size:.2f} M parameters",
        "device": f"{share}{device_words(device)}, precision {settings.precision}",
    }


def device_words(device: torch.device) -> str:
    """Return the kind of a device, and its name or the number of its threads: cuda (NVIDIA H100), cpu (2 threads)."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else counted(torch.get_num_threads(), "thread")
    return f"{device.type} ({kind})"


def lines(facts: Mapping[str, str]) -> str:
    """Format a summary as text, one line per fact."""
    return "\n".join(f"  {name:<10}{fact}" for name, fact in facts.items())


class Mean:
    """A running mean that gives less weight to older values."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0.0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1
        if self.count >= MEMORY:
            self.total, self.count = self.total / 2, self.count / 2

    @property
    def value(self) -> float:
        """The mean; 0 before the first value."""
        return self.total / self.count if self.count else 0.0


class TimeLeft(Callback):
    """Estimate of the time left. It is logged after the first steps and at 2 % of the run, and kept in `words`.

    Steps and the pauses between epochs are timed separately. After a resume, only the steps of this process count.

    Args:
        steps: number of steps of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self.total = steps
        self.step, self.pause = Mean(), Mean()
        self.seen, self.mark, self.words = 0, 0.0, ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.seen:
            self.pause.add(self._since_mark())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        self.seen += 1
        took = self._since_mark()
        if self.seen <= WARM_UP:
            return
        self.step.add(took)
        done = trainer.global_step
        if self.seen < WARM_UP + MIN_TIMED or done >= self.total:
            return
        seconds = (self.total - done) * self.step.value
        seconds += ((trainer.max_epochs or 0) - trainer.current_epoch) * self.pause.value
        self.words = f"{duration(seconds)} left"
        if self.seen == WARM_UP + MIN_TIMED or done == math.ceil(self.total / 50):
            rank_zero_info(f"about {self.words} ({self.step.value:.2g} s per step, step {done} of {self.total})")

    def _since_mark(self) -> float:
        now = time.perf_counter()
        since, self.mark = now - self.mark, now
        return since


class Bar(ProgressBar):
    """Progress bar of the whole run, with the time left. Lines written to `sys.stderr` appear above it.

    Args:
        steps: number of steps of the whole run.
        clock: the estimate of the time left.
        latest: the latest record; the monitor updates it in place.
    """

    def __init__(self, steps: int, clock: TimeLeft, latest: Mapping[str, Any]) -> None:
        super().__init__()
        self.clock, self.latest = clock, latest
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True, soft_wrap=True),  # lines above the bar are wrapped by the terminal
            auto_refresh=False,  # a refresh thread would be copied into every loader worker
            transient=True,
            redirect_stdout=False,
        )
        self.task = self.progress.add_task("", total=steps, numbers="")
        self.drawn = 0.0

    def disable(self) -> None:
        self.progress.disable = True

    def enable(self) -> None:
        self.progress.disable = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with closed_terminal_ignored():
            self.progress.start()
            self.progress.console.show_cursor(True)  # it would stay hidden if the process is killed
        self._draw(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self.drawn > REFRESH:
            self._draw(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with closed_terminal_ignored():
            self.progress.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def _draw(self, trainer: L.Trainer) -> None:
        numbers = [f"loss {self.latest['loss']:.3f}"] if "loss" in self.latest else []
        numbers += [f"{self.latest['images_per_second']:.0f} images/s"] if "images_per_second" in self.latest else []
        numbers += [self.clock.words] if self.clock.words else []
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        with closed_terminal_ignored():
            self.progress.update(
                self.task, completed=trainer.global_step, description=epoch, numbers="  ".join(numbers), refresh=True
            )
        self.drawn = time.monotonic()
