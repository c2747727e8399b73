"""Command lines and recipes of random settings, and what becomes of them up to the moment when work would begin."""

import contextlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest.mock import patch

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import tiny
from adco.cli.main import run as run_command
from adco.config.commands import (
    CompareSettings,
    CostSettings,
    DuplicatesSettings,
    EmbedSettings,
    EvaluateSettings,
    ExportSettings,
    NeighborsSettings,
    ProbeSettings,
    ReportSettings,
)
from adco.config.registry import METHODS, settings_of
from adco.errors import AdcoError
from adco.evaluation.registry import EVALUATIONS, evaluation_of
from adco.finetuning.settings import FinetuneSettings

MOST_SECONDS = 60.0
LARGE = 2**70
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 7, -1, 2**31 - 1, 2**31, 2**63, LARGE, -LARGE]),
    st.integers(-3, 300),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-320, 1e308, 0.5, 1.0, float("nan"), float("inf"), float("-inf")]),
)
WORDS = st.one_of(
    st.sampled_from(
        ["", " ", "auto", "true", "null", "none", "cpu", "few", "no/such", "../x", "~", "*", "{0..9}", "é✓💥"]
    ),
    st.sampled_from(["[" * 2000, "{a: " * 2000, "&a [*a]", "!!python/object/apply:os.system ['touch executed']"]),
    st.sampled_from(["a" * 5000, "list:x", "wds:{0..99999999999}", "folders:a,b", "x\ny", "\x1b[2J", "%s", "--", "-1"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), max_size=12),
)
LISTS = st.lists(st.one_of(NUMBERS, st.lists(NUMBERS, max_size=3), st.none()), max_size=4)
VALUES: st.SearchStrategy[Any] = st.one_of(
    NUMBERS, WORDS, LISTS, st.booleans(), st.none(), st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2)
)
# Values with which settings are possible, so that not only the first wrong one is found. Names are no addresses on the
# network, and devices start no further processes.
FITTING: dict[str, list[Any]] = {
    "data": ["few", "digits"],
    "method": list(METHODS),
    "backbone": ["resnet18", "resnet10t", "test_vit", "no_network"],
    "weights": ["run/backbone.safetensors", "run", "list.csv"],
    "image_size": [8, 9, 16],
    "batch_size": [32, 16],
    "epochs": [1, 2],
    "accelerator": ["cpu"],
    "device": ["cpu"],
    "devices": [1, "auto"],
    "num_nodes": [1],
    "out": ["new", "new.npz", "new.csv", "new.html", "new.json", "run"],
    "to": ["torch", "torchvision", "onnx"],
    "against": ["few"],
    "query": ["few"],
    "split": ["train"],
    "precision": ["32-true"],
}
LIMITED = (
    "device",
    "devices",
    "num_nodes",
    "accelerator",
    "against",
    "weights",
)  # no other values than these or numbers


class Reached(AdcoError):
    """The command has checked its settings, and would begin its work."""


# What begins the work of a command: it is replaced by `_reached`.
WORK = (
    "adco.ranks._start_others",
    "lightning.Trainer.fit",
    "adco.training.rehearsal.TrialTraining._train",
    "adco.evaluation.evaluate.extract_features",
    "adco.embeddings.embed.embed_blocks",
    "adco.finetuning.run.start_head",
    "adco.exporting.export._replacing",
    "adco.comparison.run.known_timings",
    "adco.comparison.dry.dry_run",
    "adco.comparison.costs.in_a_process",
)


def kinds() -> dict[str, tuple[list[str], list[type[Any]]]]:
    """Return the command lines without flags, and the classes of their settings."""
    found: dict[str, tuple[list[str], list[type[Any]]]] = {
        "embed": (["embed", "run"], [EmbedSettings]),
        "neighbors": (["neighbors", "run"], [NeighborsSettings]),
        "duplicates": (["duplicates", "run"], [DuplicatesSettings]),
        "probe": (["probe", "run"], [ProbeSettings]),
        "report": (["report", "run"], [ReportSettings]),
        "export": (["export", "run"], [ExportSettings]),
        "finetune": (["finetune", "run"], [FinetuneSettings]),
        "compare": (["compare", "compare.yaml"], [CompareSettings]),
        "cost": (["cost", "compare.yaml"], [CostSettings]),
        "check": (["check"], []),
    }
    found |= {f"pretrain {name}": (["pretrain", "--method", name], [settings_of(name)]) for name in METHODS}
    found |= {
        f"evaluate {name}": (["evaluate", name, "run"], [EvaluateSettings, evaluation_of(name)]) for name in EVALUATIONS
    }
    return found


def fitting(name: str, kind: Any) -> st.SearchStrategy[Any]:
    """Return values of the type of a setting, which are possible or out of its bounds."""
    choices = [choice for part in (kind, *get_args(kind)) if get_origin(part) is Literal for choice in get_args(part)]
    if name in FITTING or choices:
        return st.sampled_from(FITTING.get(name, choices))
    if "bool" in str(kind):
        return st.booleans()
    if "int" in str(kind):
        return st.one_of(st.integers(1, 40), st.sampled_from([0, 1, 2**31 - 1, 2**31, LARGE]))
    return st.one_of(st.floats(0.01, 1), st.sampled_from([0.0, 1e-320, 1.0, 1e308, "inf"]))


def flags_of(classes: list[type[Any]]) -> st.SearchStrategy[list[str]]:
    """Return lists of flags of these settings: some of the right types, and at most one of any value or name."""
    kinds = {field.name: field.type for part in classes for field in fields(part) if field.name != "method"}
    usual = {"accelerator": "cpu", "device": "cpu", "data": "few", "to": "torch"}
    usual |= {"out": "new.npz"} if "devices" in kinds and "split" in kinds else {}  # which adco embed needs
    always = [f"--{name}={value}" for name, value in usual.items() if name in kinds]
    names = st.sampled_from(sorted(kinds))
    right = names.flatmap(lambda name: fitting(name, kinds[name]).map(lambda value: f"--{name}={_text(value)}"))
    wrong = names.flatmap(
        lambda name: (NUMBERS if name in LIMITED else VALUES).map(lambda value: f"--{name}={_text(value)}")
    )
    last = st.one_of(*[st.just([])] * 2, *[wrong.map(lambda flag: [flag])] * 2, WORDS.map(lambda word: [word]))
    return st.tuples(st.lists(right, max_size=3), last).map(lambda pair: [*always, *pair[0], *pair[1]])


def recipes() -> st.SearchStrategy[str]:
    """Return recipes of a pretraining or a comparison, with values of any type, as YAML."""
    names = [field.name for field in fields(settings_of("adco"))]
    pretraining = st.dictionaries(st.sampled_from(names), VALUES, max_size=3)
    row = st.one_of(st.none(), pretraining, VALUES)
    comparison = st.fixed_dictionaries(
        {"rows": st.one_of(st.dictionaries(st.text(max_size=5), row, max_size=3), VALUES)},
        optional=dict.fromkeys(("shared", "seeds", "evaluations", "evaluate_on", "claims", "relative_to"), VALUES),
    )
    return st.one_of(pretraining, comparison, VALUES).map(lambda value: yaml.safe_dump(value, allow_unicode=True))


def try_settings(folder: str, number: int, key: int) -> dict[str, Any]:
    """Run so many random command lines up to where work begins.

    Args:
        folder: the current directory, with a run named `run`.
        number: of command lines, over all commands.
        key: of the random choice.

    Returns:
        How often each exit code came, the longest time in seconds, and an example of an error.

    Raises:
        Exception: a command ended in something else than an exit code and one line.
    """
    lines: list[str] = []
    codes: Counter[int] = Counter()
    slowest = 0.0

    def attempt(command: list[str], more: list[str]) -> None:
        nonlocal slowest
        began = time.perf_counter()
        code, line = called([*command, *more])
        slowest = max(slowest, time.perf_counter() - began)
        codes[code] += 1
        lines.append(line)

    commands = kinds()
    each = -(-number // (len(commands) + 2))
    with contextlib.chdir(folder), prepared():
        for arguments, classes in commands.values():
            flags = flags_of(classes) if classes else st.lists(WORDS.filter(lambda word: "*" not in word), max_size=2)
            _search(partial(attempt, arguments), flags, each, key)
        for command, more in {"pretrain few --recipe": "--accelerator cpu", "compare": "--out table"}.items():
            named = recipes().map(partial(_written, more.split()))
            _search(partial(attempt, command.split()), named, each, key)
    assert not (Path(folder) / "executed").exists()
    example = next((line for line in lines if "must be at least" in line), "")
    return {"codes": dict(codes), "slowest": round(slowest, 1), "says": example, "tried": sum(codes.values())}


def called(arguments: list[str]) -> tuple[int, str]:
    """Run a command line; return its exit code and the last line that a person reads.

    Raises:
        Exception: it ended in something else than an exit code, took too long, or said nothing.
    """
    out, error = io.StringIO(), io.StringIO()
    began = time.perf_counter()
    shown = [argument[:200] for argument in arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = run_command(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException as wrong:
            raise AssertionError(f"{shown} ended in {wrong!r}") from wrong
    seconds = time.perf_counter() - began
    assert seconds < MOST_SECONDS, f"{shown} took {seconds:.0f} s"
    said = [line for line in error.getvalue().splitlines() if line]
    assert code == 0 or said, f"{shown} said nothing"
    assert "Traceback" not in error.getvalue(), f"{shown}: {error.getvalue()}"
    return code, said[-1] if said else ""


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Replace what begins the work of a command, and forbid the network."""
    with ExitStack() as stack:
        for place in WORK:
            stack.enter_context(patch(place, _reached))
        stack.enter_context(patch.dict(os.environ, {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}))
        yield


def _reached(*args: Any, **kwargs: Any) -> Any:
    raise Reached("the work would begin")


def _search(attempt: Callable[[Any], None], values: st.SearchStrategy[Any], number: int, key: int) -> None:
    checked = settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    def one(value: Any) -> None:
        attempt(value)

    checked(seed(key)(given(values)(one)))()


def _written(more: list[str], text: str) -> list[str]:
    Path("recipe.yaml").write_text(text)
    return ["recipe.yaml", *more]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def make_folder(folder: Path) -> None:
    """Make what the command lines name."""
    tiny.untrained_run(folder / "run", data="few")
    (folder / "compare.yaml").write_text("shared: {data: few, epochs: 1}\nrows: {AdCo: {method: adco}}\n")
    (folder / "list.csv").write_text("path,label\n")
