"""Result files of evaluations: results/NAME-DATA.json in the run directory. Other data or settings get another file.

results/knn-photos.json             first kNN evaluation on a folder named photos/
results/knn-photos_confusion.png    its confusion matrix
results/knn-photos-1f0c93ab.json    kNN on another folder named photos/, or with other settings, such as k
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adco.data.sources.address import full_name, short_name
from adco.errors import InputError
from adco.evaluation.confusion import save_confusion
from adco.evaluation.evaluation import Evaluation
from adco.evaluation.knn import default_k
from adco.files import write_json
from adco.runs.directory import RunDirectory
from adco.untrusted import read_json


def evaluation_key(evaluation: Evaluation, data: str, class_level: int, image_size: int) -> dict[str, Any]:
    """Return the key of an evaluation of a run: its name, the data (a folder by its full path), and its settings.

    Two evaluations of a run are the same if and only if their keys are equal.
    """
    level = {"class_level": class_level} if class_level else {}
    return {
        "kind": evaluation.NAME,
        "data": full_name(data),
        **level,
        "image_size": image_size,
        **evaluation.recorded(),
    }


def find_result(
    run: RunDirectory, evaluation: Evaluation, data: str, class_level: int, image_size: int
) -> dict[str, Any] | None:
    """Return a run's result of an evaluation, or None if there is none. Arguments as for `evaluation_key`."""
    wanted = evaluation_key(evaluation, data, class_level, image_size)
    for file in sorted(run.results.glob("*.json")):
        result: dict[str, Any] = read_json(file, object)
        key = _key_of(result)
        if not key or result["data"] != data or not _has_scores(result):
            continue
        if "evaluation" not in result:  # the oldest results do not record class level and image size
            key = wanted | key
        # The folder's full path may differ, because comparisons may be moved together with their images.
        if key | {"data": wanted["data"]} == wanted:
            return result
    return None


def result_file(run: RunDirectory, key: dict[str, Any]) -> Path:
    """Return the file for the result of an evaluation.

    If there is an earlier result of the same evaluation, this is its file, whatever its name. Otherwise it is
    NAME-DATA.json, or NAME-DATA-HASH.json if another evaluation already uses that name.

    Args:
        run: the run that was evaluated.
        key: what `evaluation_key` returns for the evaluation.
    """
    for existing in sorted(run.results.glob("*.json")):
        if _key_of(_read(existing)) == key:
            return existing
    data = short_name(key["data"]) or "data"
    file = run.results / f"{key['kind']}-{data}.json"
    if not file.is_file():
        return file
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
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


def _has_scores(result: Mapping[str, Any]) -> bool:
    """Return True if a result has the numbers that a comparison shows: a file that was edited may lack them."""
    floors = result.get("floors", {})
    scores = [result, *(floors.values() if isinstance(floors, Mapping) else [None])]
    return isinstance(result.get("images"), int) and all(
        isinstance(score, Mapping) and isinstance(score.get("top1"), int | float) for score in scores
    )


def save_result(run: RunDirectory, result: dict[str, Any]) -> None:
    """Write a result and a picture of its confusion matrix, replacing those of the same evaluation."""
    run.results.mkdir(exist_ok=True)
    file = result_file(run, result["evaluation"])
    save_confusion(
        file.with_name(f"{file.stem}_confusion.png"), torch.tensor(result["confusion"]), list(result["per_class"])
    )
    write_json(file, result)


def _key_of(result: Any) -> dict[str, Any]:
    """Return the key of a result's evaluation, as `evaluation_key` returns it; {} if it is not a result.

    In earlier versions, linear_sgd was the evaluation linear with protocol sgd. Results of the oldest versions have no
    key.
    """
    if not _is_result(result):
        return {}
    key = dict(result.get("evaluation") or _oldest_key(result))
    if key.pop("protocol", "cached") == "sgd":
        key["kind"] = "linear_sgd"
    return key


def _is_result(content: Any) -> bool:
    """Return True if a file's content is a result of an evaluation; other files may be in the folder, too."""
    if not isinstance(content, Mapping) or not {"protocol", "data"} <= content.keys():
        return False
    used, about = content["protocol"], content.get("evaluation", {})
    return isinstance(used, Mapping) and type(used.get("train_images")) is int and isinstance(about, Mapping)


def _oldest_key(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key of a result that does not record it, from the settings that were used."""
    used = dict(result["protocol"])
    default = default_k(used["train_images"])
    if used.get("k") == min(default, used["train_images"]):
        used["k"] = None  # the default
    settings = ("kind", "protocol", "k", "temperature", "epochs", "batch_size", "learning_rate")
    return {name: used[name] for name in settings if name in used}


def _image_counts(result: dict[str, Any]) -> tuple[int, list[str], list[int]] | None:
    """Return the number of training images, the classes, and the number of test images of each class.

    They show whether the images of a folder have changed since an earlier evaluation. None if a result lacks them.
    """
    try:
        return result["protocol"]["train_images"], list(result["per_class"]), [sum(row) for row in result["confusion"]]
    except (LookupError, TypeError):  # it was edited, or is of an evaluation of another kind
        return None


def _read(file: Path) -> dict[str, Any]:
    """Return the result in a file, or {} if the file contains something else. `result_file` does not choose such a
    file, so it is not overwritten."""
    try:
        result: dict[str, Any] = read_json(file)
    except InputError:
        return {}
    return result
