"""The scores of a fine-tuned classifier on the test images, in the results of its run."""

from typing import Any

from adco.data.sources.address import full_name
from adco.devices import evaluation_device
from adco.errors import InputError
from adco.evaluation.results import save_result
from adco.evaluation.scores import summarise
from adco.finetuning.images import Parts
from adco.finetuning.logits import logits_of
from adco.finetuning.settings import Resolved
from adco.models.classifier import load_classifier
from adco.runs.directory import RunDirectory
from adco.untrusted import read_json


def save_scores(run: RunDirectory, settings: Resolved, parts: Parts, epoch: int) -> None:
    """Score the test images, once, with the classifier that was kept, and write the result and the confusion.

    Args:
        run: of the fine-tuning.
        settings: its settings.
        parts: its images.
        epoch: the epoch at which the classifier was kept.
    """
    classifier, data = load_classifier(run.path), settings.data
    assert data is not None
    limit = settings.max_unreadable or 0
    logits = logits_of(classifier, parts.test, limit, device=evaluation_device(settings.device))
    protocol = {
        "kind": "finetune",
        "train_images": len(parts.train),
        "validation_images": len(parts.validation) if parts.validation else 0,
        "epoch": epoch,
        "epochs": settings.epochs,
    }
    scores = summarise(logits.features, logits.labels, classifier.classes, protocol)
    key = {"kind": "finetune", "data": full_name(data), "image_size": classifier.info.image_size}
    save_result(run, {"data": data, "evaluation": key, **scores.to_json()})


def read_scores(run: RunDirectory) -> dict[str, Any]:
    """Return the result of a finished fine-tuning.

    Raises:
        InputError: if it is gone.
    """
    files = sorted(run.results.glob("finetune-*.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise InputError(f"{run.results} has no result of the fine-tuning: score its classifier with adco evaluate")
    result: dict[str, Any] = read_json(files[-1])  # there is another if the data were moved before the last scoring
    return result
