"""Recipes: YAML files of settings, each with where its numbers come from and what to expect."""

import difflib
from pathlib import Path

from adco.errors import InputError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(recipe: str) -> Path:
    """The file of a recipe, by its name or its path.

    Raises:
        InputError: if there is no such recipe; names the nearest.
    """
    named = FOLDER / f"{recipe}.yaml"
    if named.is_file():
        return named
    if Path(recipe).is_file():
        return Path(recipe)
    near = difflib.get_close_matches(recipe, names(), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
    raise InputError(f"recipe {recipe!r} is neither a file nor a recipe of the package: {hint}")


def summary(recipe: str) -> str:
    """The first line of a recipe's comment."""
    return find(recipe).read_text().splitlines()[0].lstrip("# ")
