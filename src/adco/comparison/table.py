"""From runs and timings to the table: one row a method, mean and spread over seeds, and what it costs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from adco.comparison.plan import Plan, Row
from adco.comparison.timing import relative_time
from adco.evaluation.runs import Kind
from adco.run_directory import RunDirectory
from adco.settings import AdCoSettings, EvaluateSettings, MoCoSettings, PretrainSettings

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
    relative_time: float  # of an epoch, to plain MoCo v2's; to the first row's where there is none
    peak_megabytes: float | None


@dataclass(frozen=True)
class Table:
    """An entry for each row of which a run is done, the floors beneath them, and where the costs were measured."""

    entries: list[Entry]
    floors: dict[str, dict[str, float]]  # top-1 in % by kind: of raw pixels and of random weights
    costs_of: str

    def lines(self) -> list[list[str]]:
        """A line an entry, then a line a floor, as text, a cell a column."""
        return [*(cells(entry) for entry in self.entries), *(_floor_cells(*floor) for floor in self.floors.items())]


def collect(plan: Plan, out: Path, timing: Mapping[str, Any]) -> Table:
    """The table as far as it is there; `timing` is what `known_timings` gives."""
    machine = timing["machine"]["processor"] or timing["machine"]["platform"]
    return Table(
        entries=_entries(plan, out, timing["rows"]),
        floors=_floors(results(plan.rows[0].run(out, plan.seeds[0]), plan)),
        costs_of=f"{machine}, threads: {timing['threads']}",
    )


def _entries(plan: Plan, out: Path, timings: Mapping[str, Any]) -> list[Entry]:
    found = {row.name: [results(row.run(out, seed), plan) for seed in plan.seeds] for row in plan.rows}
    done = {name: [result for result in of_seeds if len(result) == len(KINDS)] for name, of_seeds in found.items()}
    plain = (row for row in plan.rows if isinstance(row.settings, MoCoSettings) and not row.settings.symmetric)
    reference = next(plain, plan.rows[0])
    return [
        _entry(row, done[row.name], timings[row.name], timings[reference.name]["seconds_per_image"])
        for row in plan.rows
        if done[row.name]
    ]


def _entry(row: Row, results: Sequence[Mapping[Kind, Any]], timing: Mapping[str, Any], to: Sequence[float]) -> Entry:
    settings = row.settings
    seconds = timing["seconds_per_image"]
    return Entry(
        name=row.name,
        method=settings.method,
        symmetric=is_symmetric(settings),
        crops=2 + len(settings.small_crops) if isinstance(settings, AdCoSettings) else 2,
        batch=settings.batch_size,
        negatives=negatives(settings),
        trained_negatives=isinstance(settings, AdCoSettings) and settings.adversary_learning_rate > 0,
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
    """What each kind of evaluation found of a run that is trained, if it was made as for all rows."""
    run = RunDirectory(path)
    if not run.is_finished:
        return {}
    files = {kind: run.results / f"{kind}.json" for kind in KINDS}
    found = {kind: json.loads(file.read_text()) for kind, file in files.items() if file.is_file()}
    data = run.read_config()["data"]
    return {kind: result for kind, result in found.items() if _is_alike(kind, result, data, plan)}


def _is_alike(kind: Kind, result: Mapping[str, Any], data: str, plan: Plan) -> bool:
    """Whether `adco evaluate` was not called with other settings, which leaves its results in the same file."""
    told, usual = result["protocol"], EvaluateSettings()
    if kind == "knn":
        alike = (told["k"], told["temperature"]) == (usual.k, usual.temperature)
    else:
        alike = told.get("protocol", "cached") == plan.protocol
    return alike and result["data"] == data


def _floors(of_first: Mapping[Kind, Any]) -> dict[str, dict[str, float]]:
    """Top-1 in % of what a run should beat, by kind; empty where they were not evaluated."""
    found: dict[str, dict[str, float]] = {}
    for kind, result in of_first.items():
        for name, floor in result.get("floors", {}).items():
            found.setdefault(name, {})[kind] = floor["top1"]
    return found


def with_spread(values: Sequence[float]) -> str:
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
        with_spread(entry.knn),
        with_spread(entry.linear),
        str(len(entry.linear)),
        f"{1 / statistics.median(entry.seconds_per_image):.0f}",
        f"{entry.relative_time:.2f}",
        "–" if entry.peak_megabytes is None else f"{entry.peak_megabytes:.0f}",
    ]


def _floor_cells(name: str, top1: Mapping[str, float]) -> list[str]:
    figures = {{"knn": "kNN"}.get(kind, kind): f"{figure:.1f}" for kind, figure in top1.items()} | {"method": name}
    return [figures.get(column, "–") for column in COLUMNS]
