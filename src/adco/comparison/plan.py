"""What a comparison consists of: rows of settings, each for every seed, from one YAML file.

shared: {data: cifar10, epochs: 10, ...}    settings of all rows
seeds: [0, 1, 2]
protocol: sgd                               of the linear probe, as of adco evaluate; cached where it is not given
rows:
  AdCo: {method: adco, symmetric: true}     settings of one, over the shared ones
  MoCo v2: {recipe: imagenet_moco}          or over a recipe's
images: 1281167                             how many there are, for a dry run where they are not
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from adco.configure import pretrain_settings, read_recipe
from adco.settings import PretrainSettings, Protocol


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

    def runs(self) -> list[tuple[Row, int]]:
        """Every row with every seed, all rows with the first one first."""
        return [(row, seed) for seed in self.seeds for row in self.rows]


def read_plan(recipe: str | Path) -> Plan:
    """The plan in a recipe.

    Raises:
        ValueError: of one line, for an unknown recipe, a key that is none, a row that cannot be, or two of one name.
    """
    values = read_recipe(recipe)
    unknown = set(values) - {"shared", "seeds", "rows", "images", "protocol"}
    if unknown or not isinstance(values.get("rows"), Mapping) or not values["rows"]:
        found = f", not {', '.join(sorted(unknown))}" if unknown else ""
        raise ValueError(f"{recipe} is no comparison: it must hold shared, seeds and rows{found}")
    seeds = values.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds {seeds} must be a list of whole numbers, at least 0")
    rows = [_row(str(name), values.get("shared") or {}, given or {}) for name, given in values["rows"].items()]
    folders = [row.run(Path(), 0) for row in rows]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            twin = rows[folders.index(folder)].name
            raise ValueError(f"rows {twin} and {rows[number].name} would share the folder {folder.name}: rename one")
    protocol = values.get("protocol", "cached")
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol {protocol} must be one of {', '.join(get_args(Protocol))}")
    return Plan(rows, seeds, values.get("images"), protocol)


def _row(name: str, shared: Mapping[str, Any], given: Mapping[str, Any]) -> Row:
    fixed = [key for key in ("seed", "out") if key in {**shared, **given}]
    if fixed:
        raise ValueError(f"row {name}: {fixed[0]} is the comparison's to give: leave it out")
    if "recipe" in shared:
        raise ValueError("recipe is of a row: it cannot stand in shared")
    over = {key: value for key, value in {**shared, **given}.items() if key != "recipe"}
    try:
        settings = pretrain_settings(given.get("recipe"), **over)
        settings.check()
    except ValueError as error:
        raise ValueError(f"row {name}: {error}") from error
    return Row(name, settings)
