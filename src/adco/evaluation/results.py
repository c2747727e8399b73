"""Where results are kept: results/KIND-DATA.json in the run directory, a file for each data and settings.

results/knn-photos.json             the first evaluation by kNN on a folder photos/
results/knn-photos_confusion.png    its confusion
results/knn-photos-1f0c93ab.json    another photos/, or other settings, such as k
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

import torch

from adco.data.sources import is_named
from adco.evaluation.scores import save_confusion
from adco.run_directory import RunDirectory, write_json
from adco.settings import EvaluateSettings

Kind = Literal["knn", "linear"]


def evaluation_of(
    kind: Kind, data: str, class_level: int | None, image_size: int, settings: EvaluateSettings
) -> dict[str, Any]:
    """What makes two evaluations of a run the same: kind, data by its full path, and every setting that matters."""
    if kind == "knn":
        names = ["k", "temperature"]
    else:
        names = ["protocol", *(["epochs", "batch_size", "learning_rate"] if settings.protocol == "sgd" else [])]
    where = data if is_named(data) else str(Path(data).expanduser().resolve())
    level = {} if class_level is None else {"class_level": class_level}
    chosen = {name: getattr(settings, name) for name in names}
    return {"kind": kind, "data": where, **level, "image_size": image_size, **chosen}


def result_file(run: RunDirectory, evaluation: dict[str, Any]) -> Path:
    """The file of an evaluation: named by its data, with a hash behind where another evaluation has the name."""
    data = re.sub(r"[^\w.-]+", "_", Path(evaluation["data"]).name) or "data"
    file = run.results / f"{evaluation['kind']}-{data}.json"
    if not file.is_file() or _read(file).get("evaluation") == evaluation:
        return file
    digest = hashlib.sha256(json.dumps(evaluation, sort_keys=True).encode()).hexdigest()[:8]
    return file.with_name(f"{file.stem}-{digest}.json")


def with_known_floors(run: RunDirectory, result: dict[str, Any]) -> dict[str, Any]:
    """The result with the floors of an earlier evaluation, if that was of the same images with the same settings."""
    file = result_file(run, result["evaluation"])
    known = _read(file) if file.is_file() else {}
    if "floors" in result or "floors" not in known or _images(known) != _images(result):
        return result
    return {**result, "floors": known["floors"]}


def _images(result: dict[str, Any]) -> tuple[int, list[str], list[int]]:
    """The number of training images, the classes and the test images of each: they differ if a folder has changed."""
    return result["protocol"]["train_images"], list(result["per_class"]), [sum(row) for row in result["confusion"]]


def save_result(run: RunDirectory, result: dict[str, Any]) -> None:
    """Write a result and the picture of its confusion; the same evaluation again replaces them."""
    run.results.mkdir(exist_ok=True)
    file = result_file(run, result["evaluation"])
    save_confusion(
        file.with_name(f"{file.stem}_confusion.png"), torch.tensor(result["confusion"]), list(result["per_class"])
    )
    write_json(file, result)


def _read(file: Path) -> dict[str, Any]:
    """A result; nothing where the file holds something else, which is kept."""
    try:
        result = json.loads(file.read_text())
    except ValueError:
        return {}
    return result if isinstance(result, dict) else {}
