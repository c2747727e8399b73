"""Checks before training: settings, networks and views of all rows, labels, and existing runs."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from adco.comparison.plan import Plan, Row, error_prefix, first_difference
from adco.comparison.table import few_images, is_done, results
from adco.config.pretrain import Given, to_dict
from adco.config.resolve import resolve, resolve_for_images
from adco.data.sources.open import open_source, open_splits
from adco.data.sources.protocol import Source
from adco.data.sources.reading import Reading
from adco.errors import InputError
from adco.evaluation.evaluation import check_classes
from adco.optim.optimizers import make_optimizer
from adco.runs.directory import RunDirectory
from adco.training.build import make_first_method, make_method, make_views
from adco.words import counted


def check_plan(plan: Plan, out: Path, log: Callable[[str], None]) -> dict[str, Given]:
    """Check that existing runs in `out` match the plan, and that the missing ones can be trained and evaluated.

    Returns:
        The settings of each row by its name, resolved for its images but not for this machine.

    Raises:
        InputError: a run in `out` has different settings or images; a row cannot be trained; there are no labels for
            the evaluation.
    """
    opened = cache(open_source)
    sources, resolved = {}, {}
    for row in plan.rows:
        with error_prefix(f"row {row.name}"):
            asked, reading = row.settings, Reading(row.settings.channels, row.settings.white_level)
            sources[row.name] = opened(asked.require_data(), "train", asked.max_unreadable, asked.class_level, reading)
            resolved[row.name] = resolve_for_images(asked, sources[row.name])
    for row, seed in plan.runs():
        run = RunDirectory(row.run_directory(out, seed))
        check_same(row, run, to_dict(resolved[row.name]))
        _check_image_count(run, "trained", run.read_environment().get("images"), len(sources[row.name]))
    missing = [row for row in plan.rows if not all(is_done(row.run_directory(out, seed), plan) for seed in row.seeds)]
    for row in missing:
        with error_prefix(f"row {row.name}"):
            _check_builds(row.settings, sources[row.name])
    if missing:
        test_images = check_labels(plan, sources[plan.rows[0].name], log)
        for row, seed in plan.runs():
            run = RunDirectory(row.run_directory(out, seed))
            for result in results(run.path, plan).values():
                _check_image_count(run, "evaluated", result["images"], test_images)
    return resolved


def _check_image_count(run: RunDirectory, action: str, before: int | None, now: int) -> None:
    """Raise InputError if the number of images has changed since the run: its results no longer fit the table."""
    if before not in (None, now):
        raise InputError(
            f"{run.path} was {action} on {before} images, but there are {now} now: delete it to run it again"
        )


def check_labels(plan: Plan, source: Source, log: Callable[[str], None]) -> int:
    """Check and report the labelled images that all rows are evaluated on.

    Args:
        source: the first row's training images.
        log: called with each line to report.

    Returns:
        The number of test images.

    Raises:
        InputError: there are no labels, or no test images.
    """
    data = plan.evaluation_data
    if plan.evaluate_on is None and source.labels is None:
        raise InputError(
            f"{data} has no labels to evaluate the rows with: add a line evaluate_on: DATA to the comparison; DATA is "
            "a folder of labelled images (one subfolder per class) or the name of a data set such as cifar10"
        )
    try:
        asked = plan.rows[0].settings
        train, test = open_splits(data, reading=Reading(asked.channels, asked.white_level))
        check_classes(train, test)
    except InputError as error:
        raise InputError(f"the rows cannot be evaluated on {data}: {error}") from error
    images = f"{len(train):,} training and {counted(len(test), 'test image')}"
    log(f"evaluation on {data}: {images} of {len(train.classes)} classes")
    few = few_images(len(test))
    if few:
        log(f"warning: {few[0].lower()}{few[1:]}")
    return len(test)


def check_same(row: Row, run: RunDirectory, asked: Mapping[str, Any]) -> None:
    """Check that an existing run has the row's settings; settings that depend on the machine may differ.

    Raises:
        InputError: the settings differ, so the run's results would be shown in the wrong row.
    """
    if not run.config.is_file():
        return
    config = run.read_config()
    asked = {**asked, **dict.fromkeys(row.settings.limited_by_devices(config))}  # None: not compared
    name = first_difference(row.settings, config, asked)
    if name:
        difference = f"was started with {name} {config.get(name)}, but the comparison has {asked[name]}"
        raise InputError(f"{run.path} {difference}: delete it to run it again")


def _check_builds(settings: Given, source: Source) -> None:
    """Load existing weights; build network, optimizer and views for this machine, on the meta device (no memory)."""
    resolved = resolve(settings, source)
    if resolved.weights:
        make_first_method(resolved, steps_per_epoch=1)
    with torch.device("meta"):
        method = make_method(resolved, steps_per_epoch=len(source) // resolved.batch_size)
    make_optimizer(resolved.optimizer, method.players())
    make_views(resolved)
