"""Checkpoints of a fine-tuning, after each epoch and when a signal stops it."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from adco.data.batch import Batch
from adco.runs.curves import plot_curves
from adco.runs.directory import RunDirectory
from adco.training.saving import StopOnSignal


class EpochCheckpoints(Callback):
    """Saves the full state for resuming after each epoch, and the plots of the records.

    It comes after `KeepBest`, whose state is part of a checkpoint.

    Args:
        run: where to save.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.saved = 0  # step of the last checkpoint; 0 if there is none

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = trainer.global_step  # a resumed run starts at its checkpoint

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save_last(trainer, draw=False)

    def save_last(self, trainer: L.Trainer, *, draw: bool = True) -> None:
        """Save the present state. All ranks must call it: they wait for each other here."""
        trainer.save_checkpoint(self.run.checkpoint)
        self.saved = trainer.global_step
        if draw and trainer.is_global_zero:
            plot_curves(self.run.records(), self.run.curves)


class StopBetweenEpochs(StopOnSignal):
    """As `StopOnSignal`, but a signal at the last step of an epoch ends the run after the epoch is validated and saved.

    Lightning would not call the hooks of the epoch's end again in a resumed run. This callback comes after
    `EpochCheckpoints`.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.is_asked(trainer):
            self.stop(trainer)
