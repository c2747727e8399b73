"""Plan of a comparison, read from one YAML file: rows of settings, each run with every seed.

shared: {data: cifar10, epochs: 10, ...}    settings of all rows
seeds: [0, 1, 2]                            default: [0]
evaluate_on: labelled/                      labelled images to evaluate all rows on; default: the rows' own data
evaluations: {knn: {k: 20}, linear: {}}     evaluations with their settings; default: knn and linear. The picture and
                                            the lines below the table use the last one
relative_to: MoCo v2                        the row whose time per epoch is 1; default: the first
rows:
  AdCo: {method: adco, symmetric: true}     settings of one row; they override the shared ones. `seeds: [0, 1, 2, 3]`
                                            gives a row seeds of its own, for example more than the others
  MoCo v2: {recipe: imagenet_moco}          or start from a recipe
claims:                                     what to test; default: show the differences from the first row
- {claim: AdCo beats MoCo v2, measure: accuracy, rows: [AdCo], against: [MoCo v2], at_least: 1.0}
images: 1281167                             number of training images, for a dry run without the data
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adco.comparison.claims import Claim, read_claims
from adco.config.load import Parser, build, pretrain_settings, read_recipe
from adco.config.pretrain import Given, to_dict
from adco.config.topics import MOST
from adco.config.versions import current_evaluation
from adco.errors import AdcoError, InputError
from adco.evaluation.evaluation import Evaluation
from adco.evaluation.registry import evaluation_of

KEYS = ("shared", "seeds", "evaluate_on", "evaluations", "relative_to", "rows", "claims", "images")  # of the YAML file
MAY_DIFFER = ("seed", "out", "log_every", "stop_when_collapsed")  # settings in which runs of one row may differ


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    settings: Given  # its own seed is not used
    seeds: Sequence[int] = (0,)

    def run_directory(self, out: Path, seed: int) -> Path:
        """Return the run directory of this row with `seed`."""
        return out / f"{re.sub(r'[^a-z0-9]+', '-', self.name.lower()).strip('-')}-{seed}"


@dataclass(frozen=True)
class Plan:
    """The rows of a comparison; each is run with each of its seeds."""

    rows: list[Row]
    evaluations: tuple[Evaluation, ...]
    relative_to: str  # row whose time per epoch is 1
    images: int | None = None  # number of training images, for a dry run without the data
    evaluate_on: str | None = None  # labelled images for all rows; None for the rows' own data
    claims: tuple[Claim, ...] = ()  # tested on the table

    def runs(self) -> list[tuple[Row, int]]:
        """Return every (row, seed): all rows with their first seed, then all rows with their second, and so on."""
        most = max(len(row.seeds) for row in self.rows)
        return [(row, row.seeds[place]) for place in range(most) for row in self.rows if place < len(row.seeds)]

    @property
    def training_data(self) -> list[str]:
        """The training data of all rows, without repetitions."""
        return list(dict.fromkeys(row.settings.require_data() for row in self.rows))

    @property
    def evaluation_data(self) -> str:
        """The labelled images that every row is evaluated on."""
        return self.evaluate_on or self.rows[0].settings.require_data()


def read_plan(recipe: str | Path) -> Plan:
    """Read the plan of a comparison from a recipe.

    Raises:
        InputError: the recipe or one of its keys is unknown, a row is invalid, or two rows have the same directory. The
            message is a single line.
    """
    values = read_recipe(recipe)
    protocol = values.pop("protocol", None)  # of earlier versions
    if protocol is not None and "evaluations" in values:
        raise InputError(f"protocol {protocol} cannot be combined with evaluations, which replaces it: remove protocol")
    unknown = [key for key in values if key not in KEYS]
    if unknown or not isinstance(values.get("rows"), Mapping) or not values["rows"]:
        reason = "rows must be a mapping from names to settings"
        if unknown:
            reason = f"it has {', '.join(sorted(map(str, unknown)))}, but the only keys are {', '.join(KEYS)}"
        raise InputError(f"{recipe} is not a comparison: {reason}")
    rows = _rows(recipe, values)
    evaluate_on, names = values.get("evaluate_on"), [row.name for row in rows]
    if not isinstance(evaluate_on, str | None):
        raise InputError(f"evaluate_on {evaluate_on} must be a folder of labelled images or the name of a data set")
    relative_to = str(values.get("relative_to", names[0]))  # text, because row names may be numbers in the YAML file
    if relative_to not in names:
        raise InputError(f"relative_to {relative_to} must be one of the rows: {', '.join(names)}")
    images = values.get("images")
    if images is not None and (type(images) is not int or not 1 <= images <= MOST):
        raise InputError(f"images {images} must be a whole number, at least 1 and at most {MOST:g}")
    plan = Plan(
        rows,
        _evaluations(values.get("evaluations", {"knn": {}, current_evaluation("linear", protocol): {}})),
        relative_to,
        images,
        evaluate_on,
        read_claims(values.get("claims") or [], names),
    )
    if len(plan.training_data) > 1 and not evaluate_on:
        data = ", ".join(plan.training_data)
        raise InputError(
            f"rows have different data ({data}): add evaluate_on, the labelled images to evaluate all rows on"
        )
    return plan


def _seeds(seeds: Any) -> list[int]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"seeds {seeds} must be a list of whole numbers, 0 or above")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds {seeds} must differ from each other: a repeated run is not a new sample")
    return seeds


def _evaluations(given: Any) -> tuple[Evaluation, ...]:
    if (
        not isinstance(given, Mapping)
        or not given
        or not all(isinstance(each, Mapping | None) for each in given.values())
    ):
        raise InputError(f"evaluations {given} must be a mapping from names to settings, such as {{knn: {{k: 20}}}}")
    found = []
    for name, settings in given.items():
        parser = Parser([evaluation_of(name)], "adco evaluate", "")
        with error_prefix(f"evaluation {name}"):
            (evaluation,) = build(parser, settings or {})
            evaluation.check()
        found.append(evaluation)
    return tuple(found)


def _rows(recipe: str | Path, values: Mapping[str, Any]) -> list[Row]:
    shared = values.get("shared") or {}
    for name, given in (("shared", shared), *values["rows"].items()):
        if not isinstance(given, Mapping | None) or not all(isinstance(key, str) for key in given or {}):
            raise InputError(f"{name} in {recipe} must be a mapping of settings, {{name: value, ...}}; got {given}")
    seeds = _seeds(values.get("seeds", [0]))
    rows = [_row(str(name), shared, given or {}, seeds) for name, given in values["rows"].items()]
    folders = [row.run_directory(Path(), 0) for row in rows]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            first = rows[folders.index(folder)].name
            raise InputError(f"rows {first} and {rows[number].name} would share the folder {folder.name}: rename one")
    return rows


def first_difference(settings: Given, existing: Mapping[str, Any], resolved: Mapping[str, Any]) -> str | None:
    """Return the name of the first setting in which an existing run differs from a row; None if they agree.

    Settings in MAY_DIFFER are ignored, as are those that are still unset or "auto" in `resolved`. If the run was
    written before a setting existed, it agrees with a row that has the setting's default.

    Args:
        settings: of the row, as given by the user.
        existing: the settings of the existing run or timing.
        resolved: the row's settings after they were resolved as far as possible.
    """
    given, defaults = to_dict(settings), to_dict(type(settings)(method=settings.method))
    for name, value in resolved.items():
        if name in MAY_DIFFER or value is None or value == "auto":
            continue
        differs = existing[name] != value if name in existing else given[name] != defaults[name]
        if differs:
            return name
    return None


@contextmanager
def error_prefix(part: str) -> Iterator[None]:
    """Prefix the messages of errors with the part of the recipe they are about, such as "row AdCo"."""
    try:
        yield
    except AdcoError as error:
        raise type(error)(f"{part}: {error}") from error


def _row(name: str, shared: Mapping[str, Any], given: Mapping[str, Any], seeds: list[int]) -> Row:
    reserved = [key for key in ("seed", "out") if key in {**shared, **given}]
    if reserved:
        raise InputError(f"row {name}: {reserved[0]} is set by the comparison: remove it")
    for key in ("recipe", "seeds"):
        if key in shared:
            raise InputError(f"{key} must be set in a row, not in shared")
    overrides = {key: value for key, value in {**shared, **given}.items() if key not in ("recipe", "seeds")}
    with error_prefix(f"row {name}"):
        settings = pretrain_settings(given.get("recipe"), **overrides)
        settings.check()
        if settings.minutes != math.inf:
            raise InputError(f"minutes {settings.minutes:g} would give rows different numbers of epochs: set epochs")
        return Row(name, settings, _seeds(given["seeds"]) if "seeds" in given else seeds)
