"""Saving a run: at fixed steps, when a signal stops it, and at its end."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shlex import quote
from types import FrameType
from typing import Any, Protocol

import lightning as L
from lightning.pytorch.callbacks import Callback

from adco.data.batch import Batch
from adco.data.workers import heeded
from adco.models.backbone import BackboneInfo, save_backbone
from adco.runs.curves import plot_curves
from adco.runs.directory import RunDirectory
from adco.training.errors import Interrupted, NotWrittenError
from adco.training.module import ends_step, finite_losses, method_of

AGAIN = 2.0  # seconds after which a second Ctrl-C is that of a person


class Checkpoints(Callback):
    """Saves the full state for resuming, the backbone, and the plots of the records.

    Args:
        run: where to save.
        info: metadata of `backbone.safetensors`.
        every: steps between checkpoints.
        keep_every: epochs between checkpoints that are kept; 0 keeps only the last one.
        may_save: returns whether the current state may replace the last checkpoint: not if it looks collapsed.
    """

    def __init__(
        self,
        run: RunDirectory,
        info: BackboneInfo,
        *,
        every: int,
        may_save: Callable[[L.Trainer], bool],
        keep_every: int = 0,
    ) -> None:
        self.run, self.info, self.every, self.may_save, self.keep_every = run, info, every, may_save, keep_every
        self.saved = 0  # step of the last checkpoint; 0 if there is none
        self.draw_next = 0.0  # earliest time of the next drawing, in seconds of the monotonic clock

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = trainer.global_step  # a resumed run starts at its checkpoint

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        epoch = trainer.current_epoch + 1
        keeps = self.keep_every > 0 and trainer.is_last_batch and epoch % self.keep_every == 0
        if keeps or trainer.global_step % self.every == 0:
            finite_losses(trainer.global_step, outputs, pl_module)  # else nothing is saved
            if self.may_save(trainer):
                self.save(trainer, draw=time.monotonic() >= self.draw_next)
                if keeps and trainer.is_global_zero:
                    self.run.keep_checkpoint(epoch)

    def save_last(self, trainer: L.Trainer, *, draw: bool = True) -> str | None:
        """Save the state in which a run ends, unless it looks collapsed and there is an earlier checkpoint.

        Returns:
            None if the state was saved, otherwise the reason why it was not.
        """
        if self.may_save(trainer) or not self.saved:
            self.save(trainer, draw=draw)
            return None
        if draw and trainer.is_global_zero:
            self._draw()
        return f"step {trainer.global_step} looks collapsed, so the checkpoint of step {self.saved} is kept"

    def save(self, trainer: L.Trainer, *, draw: bool = True) -> None:
        """Save the state after a step. All ranks must call it: they wait for each other here.

        Raises:
            OSError: a file cannot be written, or the run directory is gone.
        """
        if trainer.is_global_zero:
            self.run.config.stat()  # writing would make the directory again, without its other files
        trainer.save_checkpoint(self.run.checkpoint)
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            save_backbone(self.run.backbone, method_of(trainer.lightning_module).encoder.backbone, self.info)
            if draw:
                self._draw()

    def _draw(self) -> None:
        """Draw the curves, which takes about a second, and set the earliest time of the next drawing.

        At most a fiftieth of the time is spent on drawing.
        """
        start = time.monotonic()
        plot_curves(self.run.records(), self.run.curves)
        now = time.monotonic()
        self.draw_next = now + 50 * (now - start)


@contextmanager
def disk_errors_explained(checkpoints: "SavesState", command: str = "pretrain") -> Iterator[None]:
    """Turn an OSError of the block into a NotWrittenError that says what is kept and how to go on.

    Args:
        checkpoints: of the run.
        command: the command that resumes the run.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        run = checkpoints.run
        if not run.config.is_file():
            resume = f"adco {command} --resume DIRECTORY"
            text = f"the run directory {run.path} is gone: if it was moved, continue with {resume}, else start again"
            raise NotWrittenError(text) from error
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        kept = "the last checkpoint is kept" if run.checkpoint.is_file() else "there is no checkpoint yet"
        resume = f"adco {command} --resume {quote(str(run.path))}"
        raise NotWrittenError(f"{what}; {kept}: make room or repair the disk, and continue with: {resume}") from error


class SavesState(Protocol):
    """What saves the state of a run in its directory. `save_last` returns the reason if it does not save it.

    `saved` is the step of the last checkpoint; 0 if there is none.
    """

    run: RunDirectory
    saved: int

    def save_last(self, trainer: L.Trainer, *, draw: bool = True) -> str | None: ...


class TakeSignalsBack(Callback):
    """Installs the SIGTERM handler of `StopOnSignal` again, before any other callback does its work.

    Lightning's own handler would end the run between two steps without saving. It also synchronises ranks inside the
    handler: a signal while they synchronise anything else, as in the warm start, would leave them waiting for ever.
    """

    def __init__(self, stop: "StopOnSignal") -> None:
        self.stop = stop

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.take_back()


class StopOnSignal(Callback):
    """Ends the run with a checkpoint on a signal, after the current step; a second Ctrl-C ends it at once.

    A launcher passes a signal on that its processes, which are in the same group, have received already. Therefore, a
    second SIGINT counts only after some time, and another second signal not at all: who sends it can send SIGKILL.

    Args:
        checkpoints: saves the state.
        command: the command that resumes the run.
        agree_every: with several ranks, steps between checks whether any rank has received a signal. Ranks receive it
            at different steps, but must stop at the same one.
    """

    def __init__(self, checkpoints: SavesState, *, agree_every: int, command: str = "pretrain") -> None:
        self.checkpoints, self.agree_every, self.command = checkpoints, agree_every, command
        self.received, self.received_at = 0, math.inf  # number of the signal, and the time in seconds
        self.previous: dict[int, Any] = {}
        self.on_terminal = [file for file in (1, 2) if os.isatty(file)]  # stdout, stderr

    def take_signals(self) -> None:
        """Install the handlers. A signal that arrives before the first step is handled after that step."""
        for number in heeded():
            self.previous[number] = signal.signal(number, self._receive)

    def take_back(self) -> None:
        """Install the SIGTERM handler again, which Lightning has wrapped in one of its own."""
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and time.monotonic() - self.received_at > AGAIN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if number == getattr(signal, "SIGHUP", None):
            self._leave_terminal()
        if not self.received:
            self.received, self.received_at = number, time.monotonic()

    def _leave_terminal(self) -> None:
        """Print nowhere from now on: the terminal is closed, so that printing would be an error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for file in self.on_terminal:
            os.dup2(nowhere, file)
        os.close(nowhere)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):  # a checkpoint has no accumulated gradients
            return
        if trainer.world_size > 1 and trainer.global_step % self.agree_every:
            return
        if self.is_asked(trainer):
            finite_losses(trainer.global_step, outputs, pl_module)  # else nothing is saved
            self.stop(trainer)

    def is_asked(self, trainer: L.Trainer) -> bool:
        """Return whether any rank has received a signal. All ranks must call it."""
        return trainer.strategy.reduce_boolean_decision(bool(self.received), all=False)

    def stop(self, trainer: L.Trainer) -> None:
        """Save the state and raise Interrupted."""
        run = self.checkpoints.run
        # Whoever sent the signal may not wait long, so curves are drawn only if there are none yet.
        not_saved = self.checkpoints.save_last(trainer, draw=not run.curves.is_file())
        raise Interrupted(self.received or signal.SIGTERM, run, not_saved, self.command)

    def restore_handlers(self) -> None:
        """Give the signals back. For after the run: Lightning's last act behind an exception is to set ours again."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
