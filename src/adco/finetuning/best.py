"""Callbacks of a fine-tuning: records, the best epoch on the validation images, checkpoints."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback

from adco.data.batch import Batch
from adco.data.sources.protocol import Source
from adco.evaluation.extract import extract_features
from adco.finetuning.module import classifier_of
from adco.models.backbone import save_backbone
from adco.models.classifier import Classifier, save_classifier
from adco.runs.curves import plot_curves
from adco.runs.directory import RunDirectory
from adco.training.console import TimeLeft, progress
from adco.training.module import losses_of, require_finite
from adco.training.saving import StopOnSignal

CLASSIFIER = "classifier.safetensors"


class Records(Callback):
    """Writes the loss, the learning rates and the speed to metrics.jsonl, on the first rank.

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
        losses = losses_of(outputs)
        require_finite(trainer.global_step, losses, pl_module)
        groups = trainer.optimizers[0].param_groups
        speed = {"images_per_second": self.images / (time.perf_counter() - self.since)}
        rates = {"head_lr": groups[0]["lr"], "lr": groups[-1]["lr"]}
        self.write(trainer, {**losses, **rates, **speed})
        self.images, self.since = 0, time.perf_counter()

    def write(self, trainer: L.Trainer, numbers: dict[str, Any]) -> None:
        """Append a record of the present step."""
        self.latest |= numbers
        if trainer.is_global_zero:
            self.run.append({"step": trainer.global_step, "epoch": trainer.current_epoch, **numbers})


class KeepBest(Callback):
    """Saves the classifier at the best epoch on the validation images, and stops a run that no longer gets better.

    The best epoch has the highest top-1 and, among equals, the lowest loss. The classifier at the start takes part, as
    epoch 0. Without validation images, the last epoch is kept.

    Args:
        run: where to save classifier.safetensors and backbone.safetensors.
        validation: the validation images; None if there are none.
        patience: epochs without a better one after which the run stops.
        max_unreadable: share of validation images that may be unreadable.
        records: get the numbers of each epoch.
        clock: its estimate of the time left is part of the epoch's line.
    """

    def __init__(
        self,
        run: RunDirectory,
        validation: Source | None,
        *,
        patience: int,
        max_unreadable: float,
        records: Records,
        clock: TimeLeft,
    ) -> None:
        self.run, self.validation, self.patience, self.max_unreadable = run, validation, patience, max_unreadable
        self.records, self.clock = records, clock
        self.epoch, self.top1, self.loss = 0, -1.0, 0.0  # of the best epoch so far

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            self._examine(trainer, pl_module, epoch=0)
        self._stop_if_no_better(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._examine(trainer, pl_module, epoch=trainer.current_epoch + 1)
        self._stop_if_no_better(trainer, trainer.current_epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "top1": self.top1, "loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.top1, self.loss = state_dict["epoch"], state_dict["top1"], state_dict["loss"]

    def _examine(self, trainer: L.Trainer, module: L.LightningModule, epoch: int) -> None:
        """Validate, record, log, and save the classifier if it is the best so far."""
        classifier = classifier_of(module)
        numbers = ""
        if self.validation is None:
            self.epoch, better = epoch, True
        else:
            top1, loss = trainer.strategy.broadcast(  # the ranks' BatchNorm statistics may differ
                _validate(classifier, self.validation, self.max_unreadable) if trainer.is_global_zero else (0.0, 0.0)
            )
            if better := (top1, -loss) > (self.top1, -self.loss):
                self.epoch, self.top1, self.loss = epoch, top1, loss
            self.records.write(trainer, {"validation_top1": top1, "validation_loss": loss})
            numbers = f"  validation top-1 {top1:.1f} % (best {self.top1:.1f} %, epoch {self.epoch})"
        if trainer.is_global_zero:
            self._log(trainer, epoch, numbers)
            if better:
                save_classifier(self.run.path / CLASSIFIER, classifier)
                save_backbone(self.run.backbone, classifier.backbone, classifier.info)

    def _log(self, trainer: L.Trainer, epoch: int, numbers: str) -> None:
        latest = self.records.latest
        if epoch and "loss" in latest:
            left = f"  {self.clock.words}" if self.clock.words else ""
            numbers = f"{left}  loss {latest['loss']:.3f}{numbers}  {latest['images_per_second']:.0f} images/s"
        if numbers:
            progress.info(f"epoch {epoch}/{trainer.max_epochs}{numbers}")

    def _stop_if_no_better(self, trainer: L.Trainer, epoch: int) -> None:
        if self.validation is not None and epoch - self.epoch >= self.patience:
            trainer.should_stop = True


def _validate(classifier: Classifier, source: Source, max_unreadable: float) -> tuple[float, float]:
    """Return top-1 (%) and the mean loss on the test views of labelled images."""
    info = classifier.info
    logits = extract_features(
        classifier,
        source,
        image_size=info.image_size,
        mean=info.mean,
        std=info.std,
        progress=False,
        max_unreadable=max_unreadable,
    )
    hits = logits.features.argmax(1) == logits.labels
    return 100 * hits.double().mean().item(), F.cross_entropy(logits.features, logits.labels).item()


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


class EpochCheckpoints(Callback):
    """Saves the full state for resuming after each epoch, and the plots of the records.

    It comes after `KeepBest`, whose state is part of a checkpoint.

    Args:
        run: where to save.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Send rank 0's directory to all ranks: the default name contains the time, which differs between ranks."""
        self.run = RunDirectory(Path(trainer.strategy.broadcast(str(self.run.path))))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save_last(trainer, draw=False)

    def save_last(self, trainer: L.Trainer, *, draw: bool = True) -> None:
        """Save the present state. All ranks must call it: they wait for each other here."""
        trainer.save_checkpoint(self.run.checkpoint)
        if draw and trainer.is_global_zero:
            plot_curves(self.run.records(), self.run.curves)
