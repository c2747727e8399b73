"""The table of a comparison, made from runs and timings: one row per method, with accuracy over seeds and cost.

Floors are the scores of raw pixels and of random weights, the baselines that every row should beat.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adco.comparison.claims import Claim
from adco.comparison.plan import Plan, Row
from adco.comparison.timing import relative_time
from adco.evaluation.evaluate import FEW
from adco.evaluation.results import find_result
from adco.runs.directory import RunDirectory
from adco.untrusted import reading
from adco.words import counted

COLUMNS = ("method", "symmetric", "crops", "batch", "negatives", "extra parameters")  # before the accuracies
COST_COLUMNS = ("seeds", "images/s", "time/epoch", "peak MB")  # after them


@dataclass(frozen=True)
class Entry:
    """The values of one row."""

    name: str
    method: str
    symmetric: bool
    crops: int
    batch: int
    negatives: int | None
    trained_negatives: bool
    extra_parameters: int
    seeds: list[int]  # of the finished runs
    top1: dict[str, list[float]]  # in % by evaluation, one value for each of `seeds`
    seconds_per_image: list[float]  # on one device, in each round of the timing
    relative_time: float  # time per epoch relative to the table's row `relative_to`
    peak_megabytes: float | None


@dataclass(frozen=True)
class Table:
    """An entry for each row with at least one finished run, and what all rows have in common.

    Args:
        entries: the rows.
        evaluations: the title of the column of each evaluation, by the evaluation's name.
        floors: top-1 in % of raw pixels and of random weights, for each evaluation.
        measured_on: the machine that the costs were measured on.
        trained_on: the number of images of each training set, by name; None if no run on it has started.
        evaluated_on: the labelled data.
        test_images: the number of test images; None if no run is finished.
        relative_to: the row whose time per epoch is 1.
        claims: what is tested on the rows.
    """

    entries: list[Entry]
    evaluations: dict[str, str]
    floors: dict[str, dict[str, float]]
    measured_on: str
    trained_on: dict[str, int | None]
    evaluated_on: str
    test_images: int | None
    relative_to: str
    claims: tuple[Claim, ...]

    @property
    def main_evaluation(self) -> str:
        """Name of the evaluation that the picture and the lines below the table use: the last one."""
        return [*self.evaluations][-1]

    @property
    def main_title(self) -> str:
        """The title of that evaluation."""
        return self.evaluations[self.main_evaluation]

    @property
    def columns(self) -> list[str]:
        """The titles of all columns."""
        return [*COLUMNS, *self.evaluations.values(), *COST_COLUMNS]

    def lines(self) -> list[list[str]]:
        """Return the text of all cells: one line per entry, then one line per floor."""
        return [
            *(cells(entry) for entry in self.entries),
            *(self._floor_cells(*floor) for floor in self.floors.items()),
        ]

    def _floor_cells(self, name: str, top1: Mapping[str, float]) -> list[str]:
        figures = [f"{top1[evaluation]:.1f}" if evaluation in top1 else "–" for evaluation in self.evaluations]
        return [name, *["–"] * (len(COLUMNS) - 1), *figures, *["–"] * len(COST_COLUMNS)]


def collect(plan: Plan, out: Path, timing: Mapping[str, Any]) -> Table:
    """Build the table from the finished runs in `out`; `timing` is the return value of `known_timings`."""
    processor = timing["machine"]["processor"] or timing["machine"]["platform"]
    machine = f"{timing['gpu']}, {processor}" if "gpu" in timing else processor
    found = {row.name: {seed: results(row.run_directory(out, seed), plan) for seed in row.seeds} for row in plan.rows}
    done = {
        name: {seed: result for seed, result in of_row.items() if _is_complete(result, plan)}
        for name, of_row in found.items()
    }
    reference = timing["rows"][plan.relative_to]["seconds_per_image"]
    return Table(
        entries=[
            _entry(row, done[row.name], timing["rows"][row.name], reference) for row in plan.rows if done[row.name]
        ],
        evaluations={evaluation.NAME: evaluation.TITLE for evaluation in plan.evaluations},
        floors=_floors(next(iter(found[plan.rows[0].name].values()))),
        measured_on=f"{machine}, threads: {timing['threads']}",
        trained_on={data: _training_images(plan, out, data) for data in plan.training_data},
        evaluated_on=plan.evaluation_data,
        test_images=next(
            (next(iter(result.values()))["images"] for of_row in done.values() for result in of_row.values()), None
        ),
        relative_to=plan.relative_to,
        claims=plan.claims,
    )


def _training_images(plan: Plan, out: Path, data: str) -> int | None:
    """Return the number of images of a training set, as recorded by the runs on it; None if no run has started."""
    runs = (RunDirectory(row.run_directory(out, seed)) for row, seed in plan.runs() if row.settings.data == data)
    counts = (run.read_environment().get("images") for run in runs)
    return next((count for count in counts if count is not None), None)


def _entry(
    row: Row, results: Mapping[int, Mapping[str, Any]], timing: Mapping[str, Any], reference: Sequence[float]
) -> Entry:
    settings = row.settings
    assert settings.batch_size is not None  # resolved for the images
    seconds = timing["seconds_per_image"]
    return Entry(
        name=row.name,
        method=settings.method,
        symmetric=settings.is_symmetric,
        crops=2 + len(settings.further_crops),
        batch=settings.batch_size,
        negatives=settings.negatives,
        trained_negatives=settings.trains_negatives,
        extra_parameters=timing["extra_parameters"],
        seeds=list(results),
        top1={name: [result[name]["top1"] for result in results.values()] for name in next(iter(results.values()))},
        seconds_per_image=seconds,
        relative_time=relative_time(seconds, reference),
        peak_megabytes=timing["peak_megabytes"],
    )


def is_done(path: Path, plan: Plan) -> bool:
    """Return True if a run is trained and has results of all evaluations of the plan."""
    return _is_complete(results(path, plan), plan)


def _is_complete(found: Mapping[str, Any], plan: Plan) -> bool:
    return all(evaluation.NAME in found for evaluation in plan.evaluations)


def results(path: Path, plan: Plan) -> dict[str, Any]:
    """Return the results of a trained run, by the names of the plan's evaluations.

    Only results with the plan's data and settings are returned, and none if the training is not finished.
    """
    run = RunDirectory(path)
    if not run.is_finished:
        return {}
    config = run.read_config()
    with reading(run.config, says="does not describe a run", advice="it is damaged or was edited"):
        of_run = (config["data"], config.get("class_level", 0))
        data, class_level = (plan.evaluate_on, 0) if plan.evaluate_on else of_run
        image_size = int(config["test_image_size"])
    found = {
        evaluation.NAME: find_result(run, evaluation, data, class_level, image_size) for evaluation in plan.evaluations
    }
    return {name: result for name, result in found.items() if result is not None}


def _floors(first_run: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the floors' top-1 in % by name and evaluation. Only the results of the plan's first run include them."""
    found: dict[str, dict[str, float]] = {}
    for evaluation, result in first_run.items():
        for name, floor in result.get("floors", {}).items():
            found.setdefault(name, {})[evaluation] = floor["top1"]
    return found


def few_images(count: int) -> str:
    """Return a warning about the precision of accuracies if there are few test images, else an empty string."""
    if count >= FEW:
        return ""
    width = 98 / math.sqrt(count)  # 1.96 standard errors of an accuracy of 50 %, in points
    return f"With only {counted(count, 'test image')}, the 95 % interval of an accuracy is up to ± {width:.0f} points"


def mean_and_std(values: Sequence[float]) -> str:
    """Return mean ± standard deviation over seeds as text."""
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def cells(entry: Entry) -> list[str]:
    """Return the text of an entry's cells, one per column."""
    return [
        entry.name,
        "yes" if entry.symmetric else "no",
        str(entry.crops),
        str(entry.batch),
        "–" if entry.negatives is None else str(entry.negatives),
        f"{entry.extra_parameters:,}".replace(",", " "),
        *(mean_and_std(values) for values in entry.top1.values()),
        str(len(entry.seeds)),
        f"{1 / statistics.median(entry.seconds_per_image):.0f}",
        f"{entry.relative_time:.2f}",
        "–" if entry.peak_megabytes is None else f"{entry.peak_megabytes:.0f}",
    ]
