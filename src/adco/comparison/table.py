"""The table of a comparison, made from runs and timings: one row per method, with accuracy over seeds and cost.

Floors are the scores of raw pixels and of random weights, the baselines that every row should beat.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from adco.comparison.plan import Claims, Plan, Row
from adco.comparison.timing import relative_time
from adco.config.commands import EvaluateSettings
from adco.evaluation.knn import default_k
from adco.evaluation.results import Kind
from adco.evaluation.runs import FEW
from adco.files import read_json
from adco.runs.directory import RunDirectory
from adco.words import counted

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Entry:
    """The values of one row. `knn` and `linear` have one value for each finished seed, in the plan's order."""

    name: str
    method: str
    symmetric: bool
    crops: int
    batch: int
    negatives: int | None
    trained_negatives: bool
    extra_parameters: int
    knn: list[float]  # top-1 in %
    linear: list[float]  # top-1 in %
    seconds_per_image: list[float]  # on one device, in each round of the timing
    relative_time: float  # time per epoch relative to the table's row `relative_to`
    peak_megabytes: float | None


@dataclass(frozen=True)
class Table:
    """An entry for each row with at least one finished run, and the facts that all rows share.

    Args:
        entries: the rows.
        floors: top-1 in % of raw pixels and of random weights, for each kind of evaluation.
        costs_of: the machine that the costs were measured on.
        trained_on: the number of images of each training set, by name; None if no run on it has started.
        evaluated_on: the labelled data.
        test_images: the number of test images; None if no run is finished.
        relative_to: the row whose time per epoch is 1: MoCo v2 without the symmetric loss, or, if there is no such row,
            the first row.
        claims: the set of claims that is tested on the rows.
    """

    entries: list[Entry]
    floors: dict[str, dict[str, float]]
    costs_of: str
    trained_on: dict[str, int | None]
    evaluated_on: str
    test_images: int | None
    relative_to: str
    claims: Claims | None

    def lines(self) -> list[list[str]]:
        """Return the text of all cells: one line per entry, then one line per floor."""
        return [*(cells(entry) for entry in self.entries), *(_floor_cells(*floor) for floor in self.floors.items())]


def collect(plan: Plan, out: Path, timing: Mapping[str, Any]) -> Table:
    """Build the table from the finished runs in `out`; `timing` is the return value of `known_timings`."""
    machine = timing["machine"]["processor"] or timing["machine"]["platform"]
    all_results = {row.name: [results(row.run(out, seed), plan) for seed in plan.seeds] for row in plan.rows}
    done = {name: [result for result in seeds if len(result) == len(KINDS)] for name, seeds in all_results.items()}
    plain = (row for row in plan.rows if row.settings.method == "moco" and not row.settings.is_symmetric)
    reference = next(plain, plan.rows[0]).name
    seconds = timing["rows"][reference]["seconds_per_image"]
    return Table(
        entries=[_entry(row, done[row.name], timing["rows"][row.name], seconds) for row in plan.rows if done[row.name]],
        floors=_floors(all_results[plan.rows[0].name][0]),
        costs_of=f"{machine}, threads: {timing['threads']}",
        trained_on={data: _training_images(plan, out, data) for data in plan.training_data},
        evaluated_on=plan.evaluation_data,
        test_images=next((result["knn"]["images"] for seeds in done.values() for result in seeds), None),
        relative_to=reference,
        claims=plan.claims,
    )


def _training_images(plan: Plan, out: Path, data: str) -> int | None:
    """Return the number of images of a training set, as recorded by the runs on it; None if no run has started."""
    runs = (RunDirectory(row.run(out, seed)) for row, seed in plan.runs() if row.settings.data == data)
    counts = (run.read_environment().get("images") for run in runs)
    return next((count for count in counts if count is not None), None)


def _entry(row: Row, results: Sequence[Mapping[Kind, Any]], timing: Mapping[str, Any], to: Sequence[float]) -> Entry:
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
        knn=[result["knn"]["top1"] for result in results],
        linear=[result["linear"]["top1"] for result in results],
        seconds_per_image=seconds,
        relative_time=relative_time(seconds, to),
        peak_megabytes=timing["peak_megabytes"],
    )


def is_done(path: Path, plan: Plan) -> bool:
    """Return True if a run is trained and has results of all kinds of evaluation."""
    return len(results(path, plan)) == len(KINDS)


def results(path: Path, plan: Plan) -> dict[Kind, Any]:
    """Return the results of a trained run, by kind of evaluation.

    Only results with the plan's data and settings are returned, and none if the training is not finished.
    """
    run = RunDirectory(path)
    if not run.is_finished:
        return {}
    config = run.read_config()
    data = plan.evaluate_on or config["data"]
    found: dict[Kind, Any] = {}
    for kind in KINDS:  # matches knn-cifar10.json, knn.json of earlier versions, and other evaluations
        files = sorted(run.results.glob(f"{kind}*.json"))
        size = config["test_image_size"]
        matching = [result for file in files if _matches(kind, result := read_json(file), data, size, plan)]
        if matching:
            found[kind] = matching[0]
    return found


def _matches(kind: Kind, result: Mapping[str, Any], data: str, size: int, plan: Plan) -> bool:
    """Return True if a result is for this data and image size, with the plan's evaluation settings."""
    if "protocol" not in result:  # not a result of this program
        return False
    protocol = result["protocol"]
    if kind == "knn":
        k = min(default_k(protocol["train_images"]), protocol["train_images"])
        same_settings = (protocol["k"], protocol["temperature"]) == (k, EvaluateSettings().temperature)
    else:
        same_settings = protocol.get("protocol", "cached") == plan.protocol
    return same_settings and (result["data"], result.get("evaluation", {}).get("image_size", size)) == (data, size)


def _floors(first_run: Mapping[Kind, Any]) -> dict[str, dict[str, float]]:
    """Return the floors' top-1 in % by name and kind of evaluation, from the results of the run that includes them."""
    found: dict[str, dict[str, float]] = {}
    for kind, result in first_run.items():
        for name, floor in result.get("floors", {}).items():
            found.setdefault(name, {})[kind] = floor["top1"]
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


COLUMNS = [
    "method",
    "symmetric",
    "crops",
    "batch",
    "negatives",
    "extra parameters",
    "kNN",
    "linear",
    "seeds",
    "images/s",
    "time/epoch",
    "peak MB",
]


def cells(entry: Entry) -> list[str]:
    """Return the text of an entry's cells, one per column."""
    return [
        entry.name,
        "yes" if entry.symmetric else "no",
        str(entry.crops),
        str(entry.batch),
        "–" if entry.negatives is None else str(entry.negatives),
        f"{entry.extra_parameters:,}".replace(",", " "),
        mean_and_std(entry.knn),
        mean_and_std(entry.linear),
        str(len(entry.linear)),
        f"{1 / statistics.median(entry.seconds_per_image):.0f}",
        f"{entry.relative_time:.2f}",
        "–" if entry.peak_megabytes is None else f"{entry.peak_megabytes:.0f}",
    ]


def _floor_cells(name: str, top1: Mapping[str, float]) -> list[str]:
    figures = {{"knn": "kNN"}.get(kind, kind): f"{figure:.1f}" for kind, figure in top1.items()} | {"method": name}
    return [figures.get(column, "–") for column in COLUMNS]
