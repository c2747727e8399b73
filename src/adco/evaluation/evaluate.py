"""Evaluation of a run's backbone, or of any timm network, on labelled images.

Floors are the scores of raw pixels and of the same network with random weights: baselines that a trained backbone
should beat.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adco.config.commands import EvaluateSettings
from adco.data.sources.open import open_splits
from adco.data.sources.protocol import Source
from adco.data.sources.reading import Reading
from adco.errors import same_in_all_processes
from adco.evaluation.evaluation import Evaluation, Task, check_classes
from adco.evaluation.extract import extract_features, pixel_features
from adco.evaluation.results import evaluation_key, save_result, with_known_floors
from adco.evaluation.subject import Subject, shared_subject
from adco.launcher import is_first_rank
from adco.models.backbone import build_backbone
from adco.ranks import Group
from adco.runs.directory import RunDirectory
from adco.words import counted

TRAINED, RANDOM, PIXELS = "trained", "random weights", "raw pixels"
FEW = 100  # test images; with fewer, the 95 % confidence interval of a 50 % accuracy is wider than ± 10 points


def evaluate(evaluations: Sequence[Evaluation], run: Path | None, settings: EvaluateSettings) -> dict[str, Any]:
    """Evaluate a backbone and, with `settings.floors`, the floors. Features are extracted once for all evaluations.

    Several processes, started by `settings.devices` or a launcher, share the extraction; the first one writes.

    Args:
        evaluations: the evaluations, with their settings.
        run: run directory, checkpoint or backbone.safetensors. If None, the network given by `settings.backbone` or
            `settings.weights` is evaluated or, if neither is given, the newest run.
        settings: what to evaluate, and on which images.

    Returns:
        For each evaluation by name, the backbone's scores as returned by `Scores.to_json`, with those of the floors
        under "floors". If a run is evaluated, they are also written to its `results/` (see `results.py`), with a
        picture of the confusion matrix.

    Raises:
        InputError: a setting is invalid, or the images have no labels.
    """
    with same_in_all_processes():
        settings.check()
        for evaluation in evaluations:
            evaluation.check()
    on_all = any(evaluation.ON_ALL_DEVICES for evaluation in evaluations)
    devices = settings.devices or ("auto" if on_all else 1)
    with shared_subject(settings, run, open_labelled, devices) as (subject, device, group):
        results: dict[str, Any] = {}
        for name, task in tasks(subject, settings.floors, device, group):
            for evaluation in evaluations:
                scores = evaluation.scores(task).to_json()
                if name == TRAINED:
                    key = evaluation_key(evaluation, subject.data, subject.class_level, subject.image_size)
                    results[evaluation.NAME] = {"data": subject.data, "evaluation": key, **scores}
                else:
                    results[evaluation.NAME].setdefault("floors", {})[name] = scores
        return group.decided_by_first(partial(_saved, subject.run, results))


def _saved(run: RunDirectory | None, results: dict[str, Any]) -> dict[str, Any]:
    """Write the results of a run, and return them with the floors that are known."""
    if run:
        results = {name: with_known_floors(run, result) for name, result in results.items()}
        for result in results.values():
            save_result(run, result)
    return results


def evaluate_one(evaluation: Evaluation, run: Path | None, settings: EvaluateSettings) -> dict[str, Any]:
    """Return the result of one evaluation, as `evaluate` does, and warn if there are few test images."""
    result: dict[str, Any] = evaluate([evaluation], run, settings)[evaluation.NAME]
    if result["images"] < FEW:
        low, high = result["top1_interval"]
        interval = f"the 95 % interval of top-1 is {low:.0f} to {high:.0f} %"
        warnings.warn(f"only {counted(result['images'], 'test image')}: {interval}", stacklevel=3)
    return result


def open_labelled(data: str, class_level: int, max_unreadable: float, reading: Reading) -> tuple[Source, Source]:
    """Open training and test images and check that they have the same classes."""
    train, test = open_splits(data, max_unreadable, class_level, reading)
    if is_first_rank():
        logging.getLogger("adco").info(f"training images: {train.description}")
    check_classes(train, test)
    return train, test


def tasks(subject: Subject, floors: bool, device: str, group: Group) -> Iterator[tuple[str, Task]]:
    """Yield the name and the task of the trained backbone and, if `floors`, of each floor.

    All processes of the group go through the tasks.
    """
    info, size = subject.info, subject.image_size
    train, test = subject.sources

    def task(network: nn.Module) -> Task:
        extract = partial(
            extract_features,
            network,
            image_size=size,
            mean=info.mean,
            std=info.std,
            device=device,
            max_unreadable=subject.max_unreadable,
            group=group,
        )
        return Task(train, test, network, info, size, extract, device, group)

    yield TRAINED, task(subject.backbone)
    if floors:
        torch.manual_seed(0)
        yield RANDOM, task(build_backbone(info))
        pixels = partial(pixel_features, image_size=size, max_unreadable=subject.max_unreadable, group=group)
        yield PIXELS, Task(train, test, None, info, size, pixels, device, group)
