"""The best epoch of a fine-tuning on the validation images: the classifier is kept as it was then."""

from typing import Any

import lightning as L
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback

from adco.data.sources.protocol import Source
from adco.finetuning.logits import logits_of
from adco.finetuning.module import classifier_of
from adco.finetuning.records import Records
from adco.models.backbone import save_backbone
from adco.models.classifier import CLASSIFIER, Classifier, save_classifier
from adco.runs.directory import RunDirectory
from adco.training.console import TimeLeft, progress


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
                self._validate(classifier, self.validation) if trainer.is_global_zero else (0.0, 0.0)
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

    def _validate(self, classifier: Classifier, source: Source) -> tuple[float, float]:
        """Return top-1 (%) and the mean loss on the validation images."""
        found = logits_of(classifier, source, self.max_unreadable, progress=False)
        hits = found.features.argmax(1) == found.labels
        return 100 * hits.double().mean().item(), F.cross_entropy(found.features, found.labels).item()
