"""The few-label question: what accuracy a linear probe of a frozen backbone reaches with 1, 2, 5, … labels per class.

For each number of labels, training images are drawn several times, and the evaluation `linear` is fitted to each draw.
The draws are stratified and the same for all networks. All are scored on the same test images. The L2 strength is
chosen on the drawn images alone; with one label per class none can be held out, so it is `L2_WITHOUT_VALIDATION`.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from scipy.special import stdtrit

from adco.config.commands import ProbeSettings
from adco.config.weights import PRETRAINED, known_backbone
from adco.data.sources.address import full_name
from adco.errors import InputError, same_in_all_processes
from adco.evaluation.amounts import Point, choose_points
from adco.evaluation.evaluate import TRAINED, open_labelled, tasks
from adco.evaluation.evaluation import Task
from adco.evaluation.features import Features
from adco.evaluation.few_labels_picture import save_picture
from adco.evaluation.linear import Linear
from adco.evaluation.results import result_file
from adco.evaluation.scores import wilson_interval
from adco.evaluation.subject import OpenImages, Subject, open_subject, shared_subject
from adco.files import check_writable, write_json
from adco.ranks import Group

THIS = "this backbone"


def probe(run: Path | None, settings: ProbeSettings) -> dict[str, Any]:
    """Measure the accuracy of a backbone's linear probe for several numbers of labels, beside the floors and others.

    Args:
        run: run directory, checkpoint or backbone.safetensors; if None, the network that the settings name or, if they
            name none, the newest run.
        settings: what to probe, on which images, and against what.

    Returns:
        The numbers of labels under `points`, and under `networks` one entry per point for each network, as returned by
        `measure`. `file` is where all this was written, with a picture beside it; None if nothing was.

    Raises:
        InputError: a setting is invalid, a network cannot be opened, or the images have no labels.
    """
    with same_in_all_processes():
        settings.check()
        if settings.out:
            check_writable("out", settings.out)
    opened = cache(open_labelled)  # all networks see the same images
    with shared_subject(settings, run, opened, settings.devices) as (subject, device, group):
        with same_in_all_processes():
            others = {name: _open_other(name, settings, subject, opened) for name in _names(settings.against)}
        points: list[Point] = []
        networks: dict[str, list[dict[str, Any]]] = {}
        for name, task in _named_tasks(subject, others, device, group):
            points, networks[name] = _measure_points(name, task, points, settings)
        return group.decided_by_first(partial(_saved, subject, others, settings, points, networks))


def _measure_points(
    name: str, task: Task, points: list[Point], settings: ProbeSettings
) -> tuple[list[Point], list[dict[str, Any]]]:
    """Return the points, which are chosen for the first network, and what is measured of a network at each."""
    train, test = task.train_features, task.test_features

    def fit() -> tuple[list[Point], list[dict[str, Any]]]:
        chosen = points or choose_points(train.labels.numpy(), settings)
        logging.getLogger("adco").info(f"{name}: fitting {sum(point.draws for point in chosen)} linear probes")
        classes, device = task.train.classes, task.device
        return chosen, [measure(train, test, classes, point, settings.seed, device) for point in chosen]

    return task.group.decided_by_first(fit)


def _saved(
    subject: Subject,
    others: Mapping[str, Subject],
    settings: ProbeSettings,
    points: Sequence[Point],
    networks: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the result and its picture, and return it with the file it is in."""
    file = _file(subject, settings, others)
    train, test = subject.sources
    result = {
        "data": subject.data,
        "evaluation": _key(subject, settings, others),
        "protocol": {"kind": "probe", "train_images": len(train), "test_images": len(test), "classes": train.classes},
        "points": [{"name": point.name, "labels": point.labels, "draws": point.draws} for point in points],
        "networks": networks,
    }
    if file:
        write_json(file, result)
        save_picture(file.with_suffix(".png"), result)
    return {**result, "file": str(file) if file else None}


def measure(
    train: Features, test: Features, classes: Sequence[str], point: Point, seed: int, device: str
) -> dict[str, Any]:
    """Return top-1 (%) of a network's linear probe for each draw of a number of labels.

    Returns:
        `top1` and `l2` with a value per draw, the `mean` of top-1 and its 95 % `interval`.
    """
    scores = []
    for draw in range(point.draws):
        drawn = torch.from_numpy(point.images(train.labels.numpy(), seed, draw))
        few = Features(train.features[drawn], train.labels[drawn])
        scores.append(Linear().score_features(few, test, classes, device))
    top1 = [score.top1 for score in scores]
    low, high = interval_of(top1, len(test.labels))
    l2 = [score.protocol["l2"] for score in scores]
    return {"mean": float(np.mean(top1)), "interval": [low, high], "top1": top1, "l2": l2}


def interval_of(top1: list[float], images: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean top-1 (%), over draws of labels and over the sampling of test images.

    The two are independent, so their half widths add in squares: Student's for the draws, Wilson's for the images. With
    one draw, which is of all labels, it is Wilson's interval.
    """
    mean, draws = float(np.mean(top1)), len(top1)
    over_draws = stdtrit(draws - 1, 0.975) * np.std(top1, ddof=1) / math.sqrt(draws) if draws > 1 else 0.0
    low, high = wilson_interval(mean, images)
    return max(0.0, mean - math.hypot(mean - low, over_draws)), min(100.0, mean + math.hypot(high - mean, over_draws))


def _named_tasks(
    subject: Subject, others: Mapping[str, Subject], device: str, group: Group
) -> Iterator[tuple[str, Task]]:
    """Yield the name and the task of the backbone, of the floors and of the other networks."""
    for name, task in tasks(subject, True, device, group):
        yield THIS if name == TRAINED else name, task
    for name, other in others.items():
        yield name, next(tasks(other, False, device, group))[1]


def _names(against: str | None) -> list[str]:
    return [name.strip() for name in (against or "").split(",") if name.strip()]


def _open_other(name: str, settings: ProbeSettings, subject: Subject, opened: OpenImages) -> Subject:
    """Return a network to compare with, and the subject's images."""
    same = replace(
        settings,
        data=subject.data,
        class_level=subject.class_level,
        max_unreadable=subject.max_unreadable,
        backbone=None,
        weights=None,
        stem="auto",
    )
    path = Path(name).expanduser()
    if path.is_dir():
        return open_subject(same, path, opened)
    if path.is_file():
        backbone = None if known_backbone(name) else subject.info.name
        return open_subject(replace(same, weights=name, backbone=backbone), None, opened)
    if not timm.is_model(name):
        raise InputError(f"against {name} is neither a run directory, nor a file of weights, nor a timm network")
    return open_subject(replace(same, backbone=name, weights=PRETRAINED), None, opened)


def _key(subject: Subject, settings: ProbeSettings, others: Mapping[str, Subject]) -> dict[str, Any]:
    """Return what distinguishes results of a run, each of which has a file of its own."""
    return {
        "kind": "probe",
        "data": full_name(subject.data),
        **({"class_level": subject.class_level} if subject.class_level else {}),
        "image_size": subject.image_size,
        "against": [full_name(name) if Path(name).exists() else name for name in others],
        **{name: getattr(settings, name) for name in ("labels_per_class", "label_shares", "draws", "seed")},
    }


def _file(subject: Subject, settings: ProbeSettings, others: Mapping[str, Subject]) -> Path | None:
    """Return the file for the result; None for a network that is not of a run, unless the settings name a file."""
    if settings.out:
        return Path(settings.out)
    return result_file(subject.run, _key(subject, settings, others)) if subject.run else None
