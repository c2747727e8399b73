"""What a comparison consists of: rows of settings, each for every seed, from one YAML file.

shared: {data: cifar10, epochs: 10, ...}    settings of all rows
seeds: [0, 1, 2]
evaluate_on: labelled/                      labelled images for the evaluation of all rows; default: the rows' data
protocol: sgd                               of the linear probe, as of adco evaluate; cached where it is not given
claims: appendix                            also test the claims of the paper's appendix, for the paper's own tables
rows:
  AdCo: {method: adco, symmetric: true}     settings of one, over the shared ones
  MoCo v2: {recipe: imagenet_moco}          or over a recipe's
images: 1281167                             how many there are, for a dry run where they are not
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from adco.configure import pretrain_settings, read_recipe
from adco.settings import PretrainSettings, Protocol, to_dict

Claims = Literal["appendix"]

NO_DIFFERENCE = ("seed", "out", "log_every", "stop_when_collapsed")  # settings that tell no rows apart


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    settings: PretrainSettings  # of any seed

    def run(self, out: Path, seed: int) -> Path:
        """Where the row's run with a seed lies."""
        return out / f"{re.sub(r'[^a-z0-9]+', '-', self.name.lower()).strip('-')}-{seed}"


@dataclass(frozen=True)
class Plan:
    """Rows × seeds."""

    rows: list[Row]
    seeds: list[int]
    images: int | None = None  # how many there are, for a dry run where they are not
    protocol: Protocol = "cached"  # of the linear probe
    evaluate_on: str | None = None  # labelled images for all rows; None for the rows' own data
    claims: Claims | None = None  # whose claims are tested on the table

    def runs(self) -> list[tuple[Row, int]]:
        """Every row with every seed, all rows with the first one first."""
        return [(row, seed) for seed in self.seeds for row in self.rows]

    @property
    def training_data(self) -> list[str]:
        """The data of all rows, each once."""
        return list(dict.fromkeys(row.settings.require_data() for row in self.rows))

    @property
    def evaluation_data(self) -> str:
        """The labelled images that every row is evaluated on."""
        return self.evaluate_on or self.rows[0].settings.require_data()


def read_plan(recipe: str | Path) -> Plan:
    """The plan in a recipe.

    Raises:
        ValueError: of one line, for an unknown recipe, a key that is none, a row that cannot be, or two of one name.
    """
    values = read_recipe(recipe)
    unknown = set(values) - {"shared", "seeds", "rows", "images", "protocol", "evaluate_on", "claims"}
    if unknown or not isinstance(values.get("rows"), Mapping) or not values["rows"]:
        found = f", not {', '.join(sorted(unknown))}" if unknown else ""
        raise ValueError(f"{recipe} is no comparison: it must hold shared, seeds and rows{found}")
    seeds = values.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds {seeds} must be a list of whole numbers, at least 0")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {seeds} must differ from each other: a run counts once")
    shared = values.get("shared") or {}
    for name, given in {"shared": shared, **values["rows"]}.items():
        if not isinstance(given, Mapping | None):
            raise ValueError(f"{name} of {recipe} must hold settings, {{name: value, ...}}; it is {given}")
    rows = [_row(str(name), shared, given or {}) for name, given in values["rows"].items()]
    folders = [row.run(Path(), 0) for row in rows]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            twin = rows[folders.index(folder)].name
            raise ValueError(f"rows {twin} and {rows[number].name} would share the folder {folder.name}: rename one")
    protocol = values.get("protocol", "cached")
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol {protocol} must be one of {', '.join(get_args(Protocol))}")
    evaluate_on, claims = values.get("evaluate_on"), values.get("claims")
    if not isinstance(evaluate_on, str | None):
        raise ValueError(f"evaluate_on {evaluate_on} must be a folder of labelled images, or the name of a set")
    if claims not in (None, *get_args(Claims)):
        raise ValueError(f"claims {claims} must be {', '.join(get_args(Claims))}, or left out")
    plan = Plan(rows, seeds, values.get("images"), protocol, evaluate_on, claims)
    if len(plan.training_data) > 1 and not evaluate_on:
        found = ", ".join(plan.training_data)
        raise ValueError(f"rows have different data ({found}): add evaluate_on, the labelled images for all of them")
    return plan


def first_difference(settings: PretrainSettings, known: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """The first setting whose known value is not the one asked for; None if there is none.

    A setting that did not exist when the known values were written differs only where `settings` give it a value.
    """
    defaults = to_dict(type(settings)(method=settings.method))
    for name, value in asked.items():
        if name in NO_DIFFERENCE or value is None or value == "auto":
            continue
        if known[name] != value if name in known else to_dict(settings)[name] != defaults[name]:
            return name
    return None


@contextmanager
def naming(row: str) -> Iterator[None]:
    """Put the row's name in front of the messages of ValueErrors."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"row {row}: {error}") from error


def _row(name: str, shared: Mapping[str, Any], given: Mapping[str, Any]) -> Row:
    fixed = [key for key in ("seed", "out") if key in {**shared, **given}]
    if fixed:
        raise ValueError(f"row {name}: {fixed[0]} is the comparison's to give: leave it out")
    if "recipe" in shared:
        raise ValueError("recipe is of a row: it cannot stand in shared")
    over = {key: value for key, value in {**shared, **given}.items() if key != "recipe"}
    with naming(name):
        settings = pretrain_settings(given.get("recipe"), **over)
        settings.check()
        if settings.minutes is not None:
            raise ValueError(f"minutes {settings.minutes:g} would give rows different lengths: give epochs")
    return Row(name, settings)
