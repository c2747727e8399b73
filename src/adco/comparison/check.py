"""Checks before any time is spent: settings, networks and views of all rows, labels, and runs begun before."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from adco.comparison.plan import Plan, Row, first_difference, naming
from adco.comparison.table import few_images, is_done, results
from adco.data.sources import Source, open_source, open_splits
from adco.evaluation import check_classes
from adco.pretraining import make_method, make_views
from adco.resolve import resolve, resolve_for_images
from adco.run_directory import RunDirectory
from adco.settings import PretrainSettings, known, to_dict
from adco.words import counted


def check_plan(plan: Plan, out: Path, say: Callable[[str], None]) -> dict[str, PretrainSettings]:
    """Check that all runs in `out` can go on and that all missing ones can be trained and evaluated.

    Returns:
        The settings of each row by its name, resolved for its images but not for this machine.

    Raises:
        ValueError: a run in `out` has other settings; a row cannot be trained; there are no labels to evaluate by.
    """
    opened = cache(open_source)
    sources, used = {}, {}
    for row in plan.rows:
        with naming(row.name):
            sources[row.name] = opened(
                row.settings.require_data(), "train", row.settings.max_unreadable, row.settings.class_level
            )
            used[row.name] = resolve_for_images(row.settings, sources[row.name])
    for row, seed in plan.runs():
        run = RunDirectory(row.run(out, seed))
        check_same(row, run, to_dict(used[row.name]))
        _check_number(run, "trained", run.read_environment().get("images"), len(sources[row.name]))
    missing = [row for row in plan.rows if not all(is_done(row.run(out, seed), plan) for seed in plan.seeds)]
    for row in missing:
        with naming(row.name):
            _check_builds(row.settings, sources[row.name])
    if missing:
        test_images = check_labels(plan, sources[plan.rows[0].name], say)
        for row, seed in plan.runs():
            run = RunDirectory(row.run(out, seed))
            for result in results(run.path, plan).values():
                _check_number(run, "evaluated", result["images"], test_images)
    return used


def _check_number(run: RunDirectory, done: str, before: int | None, now: int) -> None:
    """Raise a ValueError if a run has had other images than there are now: its figures belong to another table."""
    if before not in (None, now):
        raise ValueError(f"{run.path} was {done} on {before} images, there are {now} now: remove it to begin anew")


def check_labels(plan: Plan, source: Source, say: Callable[[str], None]) -> int:
    """Announce the labelled images that all rows are evaluated on; `source` has the first row's training images.

    Returns:
        The number of test images.

    Raises:
        ValueError: there are no labels, or no test images.
    """
    data = plan.evaluation_data
    if plan.evaluate_on is None and source.labels is None:
        raise ValueError(
            f"{data} has no labels to evaluate the rows by: add a line evaluate_on: FOLDER to the comparison, with a "
            "folder of labelled images (a subfolder per class) or a named set such as cifar10"
        )
    try:
        train, test = open_splits(data)
        check_classes(train, test)
    except ValueError as error:
        raise ValueError(f"the rows cannot be evaluated on {data}: {error}") from error
    images = f"{len(train)} training and {counted(len(test), 'test image')}"
    say(f"evaluation on {data}: {images} of {len(train.classes)} classes")
    few = few_images(len(test))
    if few:
        say(f"warning: {few[0].lower()}{few[1:]}")
    return len(test)


def check_same(row: Row, run: RunDirectory, asked: Mapping[str, Any]) -> None:
    """Check that a run begun before has the row's settings; those that depend on the machine may differ.

    Raises:
        ValueError: it has others, so its results would end up in the wrong row.
    """
    if not run.config.is_file():
        return
    begun = run.read_config()
    if begun.get("batch_norm") != "split" or begun["split_groups"] < (asked.get("split_groups") or 0):
        asked = {**asked, "split_groups": None}  # unused, or limited by a device's share of the batch
    name = first_difference(row.settings, begun, asked)
    if name:
        was = f"was begun with {name} {begun.get(name)}, not {asked[name]}"
        raise ValueError(f"{run.path} {was}: remove it to begin anew")


def _check_builds(settings: PretrainSettings, source: Source) -> None:
    """Build network, optimizer and views for this machine, without memory for weights."""
    resolved = resolve(settings, source)
    with torch.device("meta"):
        method = make_method(resolved, steps_per_epoch=len(source) // known(resolved.batch_size))
    method.configure_optimizers()
    make_views(resolved)
