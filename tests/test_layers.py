"""Imports point down: what a module may use stands in its own layer or below it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import adco
from adco.config.registry import METHODS

ROOT = Path(adco.__file__).parent
ROOMS = [  # from the top
    "__main__",
    "cli",
    "comparison",
    "demo",
    "api",
    "reporting",
    "embeddings",
    "finetuning",
    "exporting",
    "training",
    "evaluation",
    "methods",
    "models",
    "optim",
    "runs",
    "health",
    "adversaries",
    "losses",
    "shards",
    "config",
    "data",
    "ranks",
    "devices",
    "processor",
    "distributed",
    "files",
    "quiet",
    "launcher",
    "untrusted",
    "memory",
    "errors",
    "words",
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
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}


def room(module: str) -> int:
    return ROOMS.index(module.split(".")[0])


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, at its top or inside a function, except for types."""
    tree = ast.parse(path.read_text())
    for_types = {part for node in ast.walk(tree) if is_for_types(node) for part in ast.walk(node)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it points"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return {name.removeprefix("adco.") for name in names if name.startswith("adco.")} & set(MODULES)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def test_every_module_is_in_a_room() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for name in imported(MODULES[module]):
        assert room(name) >= room(module), f"{module} imports {name}, which lies above it"


def test_no_modules_import_each_other() -> None:
    """Inside a room, too: no circle of imports."""
    packages = {name: {other for other in MODULES if other.startswith(f"{name}.")} for name in MODULES}
    imports = {module: imported(path) - {module} - packages[module] for module, path in MODULES.items()}
    imports |= {module: imported(path) - {module} for module, path in MODULES.items() if path.stem == "__init__"}
    # A package's __init__ runs before its modules do: they may not need what it imports.
    TopologicalSorter(imports).prepare()


@pytest.mark.parametrize(
    "name",
    ["__init__.py", *(f"config/{name}.py" for name in ("topics", "checks", "pretrain", "commands", "load", "help"))],
)
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
    for name in METHODS:
        others = {f"methods.{other}" for other in METHODS} - {f"methods.{name}"}
        assert not imported(MODULES[f"methods.{name}"]) & others


def test_nothing_but_the_registry_knows_the_methods() -> None:
    """Neither by import nor by `isinstance`: what differs between methods is in their files."""
    of_methods = {f"methods.{name}" for name in METHODS}
    for module, path in MODULES.items():
        if module not in of_methods:
            assert not imported(path) & of_methods, module


def test_only_the_command_prints() -> None:
    """All other modules log, so that a Python user decides what is seen."""
    for module, path in MODULES.items():
        if module.split(".")[0] != "cli":
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert "print" not in {getattr(call, "id", getattr(call, "attr", None)) for call in calls}, module


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not {path.stem for path in MODULES.values()} & {"utils", "util", "helpers", "common", "base", "misc"}
