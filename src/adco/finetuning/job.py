"""What a fine-tuning trains, on what and where to, and what its user is told of it."""

import logging
from dataclasses import dataclass

from adco.finetuning.images import Parts
from adco.finetuning.settings import Resolved
from adco.launcher import is_first_rank
from adco.models.backbone import BackboneInfo
from adco.runs.directory import RunDirectory
from adco.training.console import lines, progress
from adco.words import counted


@dataclass(frozen=True)
class Job:
    """What a fine-tuning trains, on what, and where to.

    Args:
        settings: resolved.
        info: of the backbone.
        parts: the labelled images.
        run: its directory.
    """

    settings: Resolved
    info: BackboneInfo
    parts: Parts
    run: RunDirectory

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.epochs * (len(self.parts.train) // self.settings.batch_size)


def log_summary(job: Job) -> None:
    """Log what will be done, on the first rank."""
    settings, parts = job.settings, job.parts
    weights = "random weights" if settings.from_scratch else settings.weights
    held_out = len(parts.validation) if parts.validation else 0
    rates = f"{settings.learning_rate:g}, backbone {settings.learning_rate * settings.backbone_rate:g}"
    facts = {
        "images": f"{len(parts.train)} for training, {held_out} for validation, {len(parts.test)} for the test",
        "classes": str(len(parts.train.classes)),
        "backbone": f"{job.info.name} from {weights}, linear layer from {settings.head}",
        "steps": f"{job.steps} in {counted(settings.epochs, 'epoch')} of {settings.batch_size} images per step",
        "rates": f"{settings.optimizer}, {rates}",
        "run": str(job.run.path),
    }
    if is_first_rank():
        progress.info(lines(facts))
        if not held_out:
            logging.getLogger("adco").info("no images for validation: the classifier of the last epoch is kept")
