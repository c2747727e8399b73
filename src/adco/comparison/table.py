"""From runs and timings to the table: one row a method, mean and spread over seeds, and what it costs."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from adco.comparison.plan import Claims, Plan, Row
from adco.comparison.timing import relative_time
from adco.evaluation.knn import default_k
from adco.evaluation.results import Kind
from adco.evaluation.runs import FEW
from adco.run_directory import RunDirectory
from adco.settings import AdCoSettings, EvaluateSettings, MoCoSettings, PretrainSettings, known
from adco.words import counted

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Entry:
    """A row's figures. Lists are over the seeds that are done, in the plan's order."""

    name: str
    method: str
    symmetric: bool
    crops: int
    batch: int
    negatives: int | None
    trained_negatives: bool
    extra_parameters: int
    knn: list[float]  # top-1 in %
    linear: list[float]
    seconds_per_image: list[float]  # of one device, in each round of the timing
    relative_time: float  # of an epoch, to that of the table's row `relative_to`
    peak_megabytes: float | None


@dataclass(frozen=True)
class Table:
    """An entry for each row of which a run is done, and what they have in common.

    Args:
        entries: the rows.
        floors: top-1 in % by kind: of raw pixels and of random weights.
        costs_of: the machine that the costs were measured on.
        trained_on: the number of images of each training set by its name, None if no run on it is done.
        evaluated_on: the labelled data.
        test_images: how many of these are test images, None if no run is done.
        relative_to: the row whose time per epoch is 1: plain MoCo v2, or the first row where there is none.
        claims: whose claims are tested on the rows.
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
        """A line an entry, then a line a floor, as text, a cell a column."""
        return [*(cells(entry) for entry in self.entries), *(_floor_cells(*floor) for floor in self.floors.items())]


def collect(plan: Plan, out: Path, timing: Mapping[str, Any]) -> Table:
    """The table of the runs that are done; `timing` is what `known_timings` returns."""
    machine = timing["machine"]["processor"] or timing["machine"]["platform"]
    found = {row.name: [results(row.run(out, seed), plan) for seed in plan.seeds] for row in plan.rows}
    done = {name: [result for result in of_seeds if len(result) == len(KINDS)] for name, of_seeds in found.items()}
    plain = (row for row in plan.rows if isinstance(row.settings, MoCoSettings) and not row.settings.symmetric)
    reference = next(plain, plan.rows[0]).name
    seconds = timing["rows"][reference]["seconds_per_image"]
    return Table(
        entries=[_entry(row, done[row.name], timing["rows"][row.name], seconds) for row in plan.rows if done[row.name]],
        floors=_floors(found[plan.rows[0].name][0]),
        costs_of=f"{machine}, threads: {timing['threads']}",
        trained_on={data: _training_images(plan, out, data) for data in plan.training_data},
        evaluated_on=plan.evaluation_data,
        test_images=next((result["knn"]["images"] for of_seeds in done.values() for result in of_seeds), None),
        relative_to=reference,
        claims=plan.claims,
    )


def _training_images(plan: Plan, out: Path, data: str) -> int | None:
    """How many images of a training set the runs on it have had."""
    runs = (RunDirectory(row.run(out, seed)) for row, seed in plan.runs() if row.settings.data == data)
    counts = (run.read_environment().get("images") for run in runs)
    return next((count for count in counts if count is not None), None)


def _entry(row: Row, results: Sequence[Mapping[Kind, Any]], timing: Mapping[str, Any], to: Sequence[float]) -> Entry:
    settings = row.settings
    seconds = timing["seconds_per_image"]
    return Entry(
        name=row.name,
        method=settings.method,
        symmetric=is_symmetric(settings),
        crops=2 + len(settings.small_crops) if isinstance(settings, AdCoSettings) else 2,
        batch=known(settings.batch_size),
        negatives=negatives(settings),
        trained_negatives=isinstance(settings, AdCoSettings) and known(settings.adversary_learning_rate) > 0,
        extra_parameters=timing["extra_parameters"],
        knn=[result["knn"]["top1"] for result in results],
        linear=[result["linear"]["top1"] for result in results],
        seconds_per_image=seconds,
        relative_time=relative_time(seconds, to),
        peak_megabytes=timing["peak_megabytes"],
    )


def negatives(settings: PretrainSettings) -> int | None:
    """Adversaries or keys in a queue; None where there are only the batch's, or none."""
    if isinstance(settings, AdCoSettings):
        return settings.adversaries
    return settings.queue if isinstance(settings, MoCoSettings) else None


def is_symmetric(settings: PretrainSettings) -> bool:
    """Whether both views are queries or predicted; all methods but adco and moco always are."""
    return bool(getattr(settings, "symmetric", True))


def is_done(path: Path, plan: Plan) -> bool:
    """Whether a run is trained and evaluated."""
    return len(results(path, plan)) == len(KINDS)


def results(path: Path, plan: Plan) -> dict[Kind, Any]:
    """The result of each kind of evaluation of a trained run, if it was made with the plan's data and settings."""
    run = RunDirectory(path)
    if not run.is_finished:
        return {}
    config = run.read_config()
    data = plan.evaluate_on or config["data"]
    found: dict[Kind, Any] = {}
    for kind in KINDS:  # knn-cifar10.json, or knn.json of earlier versions, and whatever else was evaluated
        files = sorted(run.results.glob(f"{kind}*.json"))
        size = config["test_image_size"]
        alike = [result for file in files if _is_alike(kind, result := json.loads(file.read_text()), data, size, plan)]
        if alike:
            found[kind] = alike[0]
    return found


def _is_alike(kind: Kind, result: Mapping[str, Any], data: str, size: int, plan: Plan) -> bool:
    """Whether a result is of this data, at this size, with the settings of the plan."""
    if "protocol" not in result:  # another program's
        return False
    told, usual = result["protocol"], EvaluateSettings()
    if kind == "knn":
        usual_k = min(default_k(told["train_images"]), told["train_images"])
        alike = (told["k"], told["temperature"]) == (usual_k, usual.temperature)
    else:
        alike = told.get("protocol", "cached") == plan.protocol
    return alike and (result["data"], result.get("evaluation", {}).get("image_size", size)) == (data, size)


def _floors(of_first: Mapping[Kind, Any]) -> dict[str, dict[str, float]]:
    """Top-1 in % of what a run should beat, by kind; empty where they were not evaluated."""
    found: dict[str, dict[str, float]] = {}
    for kind, result in of_first.items():
        for name, floor in result.get("floors", {}).items():
            found.setdefault(name, {})[kind] = floor["top1"]
    return found


def few_images(count: int) -> str:
    """What a small number of test images means for an accuracy; empty for enough of them."""
    if count >= FEW:
        return ""
    width = 98 / math.sqrt(count)  # 1.96 standard deviations of a share of one half, in points
    return f"With only {counted(count, 'test image')}, the 95 % interval of an accuracy is up to ± {width:.0f} points"


def mean_and_std(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
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
    """An entry as text, a cell a column."""
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
