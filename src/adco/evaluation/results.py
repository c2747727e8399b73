"""Result files of evaluations: results/KIND-DATA.json in the run directory, one file per data set and settings.

results/knn-photos.json             first kNN evaluation on a folder named photos/
results/knn-photos_confusion.png    its confusion matrix
results/knn-photos-1f0c93ab.json    kNN on another folder named photos/, or with other settings, such as k
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

import torch

from adco.config.commands import EvaluateSettings
from adco.data.sources import is_named
from adco.evaluation.scores import save_confusion
from adco.files import write_json
from adco.runs.directory import RunDirectory

Kind = Literal["knn", "linear"]


def evaluation_of(
    kind: Kind, data: str, class_level: int, image_size: int, settings: EvaluateSettings
) -> dict[str, Any]:
    """Return what identifies an evaluation of a run: kind, data (a folder by its full path), and relevant settings.

    Two evaluations of a run are the same if and only if these are equal.
    """
    if kind == "knn":
        names = ["k", "temperature"]
    else:
        names = ["protocol", *(["epochs", "batch_size", "learning_rate"] if settings.protocol == "sgd" else [])]
    full_data = data if is_named(data) else str(Path(data).expanduser().resolve())
    level = {"class_level": class_level} if class_level else {}
    values = {name: getattr(settings, name) for name in names}
    return {"kind": kind, "data": full_data, **level, "image_size": image_size, **values}


def result_file(run: RunDirectory, evaluation: dict[str, Any]) -> Path:
    """Return the result file: KIND-DATA.json, or KIND-DATA-HASH.json if another evaluation already uses that name."""
    data = re.sub(r"[^\w.-]+", "_", Path(evaluation["data"]).name) or "data"
    file = run.results / f"{evaluation['kind']}-{data}.json"
    if not file.is_file() or _read(file).get("evaluation") == evaluation:
        return file
    digest = hashlib.sha256(json.dumps(evaluation, sort_keys=True).encode()).hexdigest()[:8]
    return file.with_name(f"{file.stem}-{digest}.json")


def with_known_floors(run: RunDirectory, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result, with the floors of an earlier evaluation if it used the same images and settings.

    Floors are the scores of raw pixels and random weights, the baselines that a trained backbone should beat.
    """
    file = result_file(run, result["evaluation"])
    earlier = _read(file) if file.is_file() else {}
    if "floors" in result or "floors" not in earlier or _image_counts(earlier) != _image_counts(result):
        return result
    return {**result, "floors": earlier["floors"]}


def _image_counts(result: dict[str, Any]) -> tuple[int, list[str], list[int]]:
    """Return the number of training images, the classes, and the number of test images of each class.

    They detect a folder whose images have changed since.
    """
    return result["protocol"]["train_images"], list(result["per_class"]), [sum(row) for row in result["confusion"]]


def save_result(run: RunDirectory, result: dict[str, Any]) -> None:
    """Write a result and a picture of its confusion matrix, replacing those of the same evaluation."""
    run.results.mkdir(exist_ok=True)
    file = result_file(run, result["evaluation"])
    save_confusion(
        file.with_name(f"{file.stem}_confusion.png"), torch.tensor(result["confusion"]), list(result["per_class"])
    )
    write_json(file, result)


def _read(file: Path) -> dict[str, Any]:
    """Return the result in a file, or {} if the file holds something else; such a file is not overwritten."""
    try:
        result = json.loads(file.read_text())
    except ValueError:
        return {}
    return result if isinstance(result, dict) else {}
