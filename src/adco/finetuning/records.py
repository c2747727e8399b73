"""The records of a fine-tuning: loss, learning rate and speed, in metrics.jsonl."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from adco.data.batch import Batch
from adco.runs.directory import RunDirectory
from adco.training.module import finite_losses


class Records(Callback):
    """Writes the loss, the learning rate of the linear layer and the speed to metrics.jsonl, on the first rank.

    Args:
        run: where to write.
        every: steps between records.
    """

    def __init__(self, run: RunDirectory, *, every: int) -> None:
        self.run, self.every = run, every
        self.latest: dict[str, Any] = {}  # the latest value of each key
        self.images, self.since = 0, 0.0  # since the last record or epoch start

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.run.forget_after(trainer.global_step)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.images, self.since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images += len(batch.indices) * trainer.world_size
        if trainer.global_step % self.every and not trainer.is_last_batch:
            return
        losses = finite_losses(trainer.global_step, outputs, pl_module)
        speed = {"images_per_second": self.images / (time.perf_counter() - self.since)}
        rate = trainer.optimizers[0].param_groups[0]["lr"]  # of the linear layer
        self.write(trainer, {**losses, "lr": rate, **speed})
        self.images, self.since = 0, time.perf_counter()

    def write(self, trainer: L.Trainer, numbers: dict[str, Any]) -> None:
        """Append a record of the present step."""
        self.latest |= numbers
        if trainer.is_global_zero:
            self.run.append({"step": trainer.global_step, "epoch": trainer.current_epoch, **numbers})
