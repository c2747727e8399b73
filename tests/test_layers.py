"""Imports point down: what a module may use stands in its own layer or below it."""

import ast
from pathlib import Path

import pytest

import adco

ROOT = Path(adco.__file__).parent
LAYERS = [  # from the top; a package stands for all that is in it
    ["__main__"],
    ["cli"],
    ["comparison"],
    ["api", "configure", "demo"],
    ["rehearsal"],
    ["pretraining", "resolve", "callbacks", "evaluation", "console"],
    ["methods", "data", "run_directory", "checkpoints"],
    ["verdict", "advice", "curves", "health"],
    ["floor", "awake"],
    ["trends"],
    ["adversaries", "momentum", "encoder", "batchnorm", "distributed"],
    ["losses", "blockwise", "optimizers"],
    ["defaults"],
    ["help"],
    ["settings", "recipes", "quiet", "words"],
]
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "numpy",
    "numba",
    "matplotlib",
    "sklearn",
    "PIL",
    "simplejpeg",
    "rich",
}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def layer(name: str) -> int:
    (found,) = (number for number, rooms in enumerate(LAYERS) if name in rooms)
    return found


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function, as a dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it points"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_layers_name_every_module_once() -> None:
    named = [name for rooms in LAYERS for name in rooms]
    assert len(named) == len(set(named))
    assert set(named) == {room(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    for name in imported(path):
        head, *rest = name.split(".")
        if head == "adco" and rest:
            assert layer(rest[0]) >= layer(room(path)), f"{path.relative_to(ROOT)} imports {name}, which lies above it"


@pytest.mark.parametrize("name", ["__init__.py", "settings.py", "recipes/__init__.py", "configure.py", "help.py"])
def test_what_help_needs_imports_nothing_heavy_anywhere(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text())
    checking = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    for_types = {alias for node in checking for alias in map(id, ast.walk(node))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in for_types:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not HEAVY & {module.split(".")[0] for module in names}


def test_methods_are_written_side_by_side() -> None:
    """No method is built on another; they share what is in method.py."""
    methods = {path.stem for path in (ROOT / "methods").glob("*.py")} - {"__init__", "method"}
    for name in methods:
        used = imported(ROOT / "methods" / f"{name}.py")
        assert not [module for module in used for other in methods - {name} if f"adco.methods.{other}" in module]


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "common", "base", "misc"}
