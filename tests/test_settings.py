import dataclasses
import subprocess
import sys
import typing
from typing import Any

import pytest
import yaml

from adco.comparison.claims import Claim
from adco.config.commands import CompareSettings, CostSettings, DemoSettings, EvaluateSettings
from adco.config.load import Parser
from adco.config.pretrain import PretrainSettings, to_dict
from adco.config.registry import METHODS, settings_of
from adco.evaluation.evaluation import Evaluation
from adco.evaluation.knn import KNN
from adco.evaluation.linear_sgd import LinearSGD
from adco.evaluation.registry import EVALUATIONS, evaluation_of
from adco.methods.adco import AdCoSettings

INF, NAN = float("inf"), float("nan")
BAD: list[tuple[str, Any]] = [
    *((name, 0) for name in ("epochs", "batch_size", "accumulate", "num_nodes", "log_every", "checkpoint_every")),
    *((name, 0) for name in ("image_size", "test_image_size", "adversaries", "dim", "hidden", "split_groups")),
    *((name, -1) for name in ("epochs", "batch_size", "workers", "knn_images", "seed", "adversaries", "image_size")),
    *((name, -0.1) for name in ("warmup_epochs", "weight_decay", "adversary_weight_decay", "final_learning_rate")),
    *(("learning_rate", value) for value in (0.0, -1.0, INF, NAN)),
    *(("adversary_learning_rate", value) for value in (-1.0, INF, NAN)),
    *((name, value) for name in ("temperature", "adversary_temperature") for value in (0.0, -1.0, INF, NAN)),
    *((name, value) for name in ("ema_decay", "max_unreadable") for value in (-0.1, 1.1, NAN)),
    *((f"{kind}_probability", value) for kind in ("jitter", "grayscale", "blur", "flip") for value in (-0.1, 1.1)),
    *((name, value) for name in ("brightness", "contrast", "saturation") for value in (-0.1, 1.1, INF)),
    ("class_level", -1),
    *(("hue", value) for value in (-0.1, 0.6)),
    *(("crop_scale", value) for value in ((0.0, 1.0), (0.5, 0.2), (0.2, 1.1), (-1.0, 0.5), (NAN, 1.0))),
    *(("std", value) for value in ((0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, NAN), (1.0, INF, 1.0))),
    *(("mean", value) for value in ((NAN, 0.0, 0.0), (0.0, 0.0, INF))),
    *(("small_crops", [value]) for value in ((0, 0.1, 0.2), (8, 0.3, 0.2), (8, 0.0, 0.2), (8, 0.1, 1.2))),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_an_impossible_value_is_named_with_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} ") as raised:
        AdCoSettings(**{name: value}).check()
    message = str(raised.value)
    assert "\n" not in message
    number = value[0] if name == "small_crops" else value
    shown = [str(number), str(list(number))] if isinstance(number, tuple) else [str(number)]
    assert any(text in message for text in [*shown, f"size of {number}", *_parts(number)])
    assert any(words in message for words in ("must be", "is at least"))


def _parts(number: Any) -> list[str]:
    """How a small crop is shown: its size, or its scale."""
    return [f"size of {number[0]}:", str(list(number[1:]))] if isinstance(number, tuple) else []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 2, "warmup_epochs": 3.0}, "warmup_epochs 3.0 must be at most epochs 2"),
        ({"batch_size": 10, "accumulate": 4}, "batch_size 10 must be a multiple of accumulate 4"),
    ],
)
def test_impossible_pairs_name_both(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        AdCoSettings(**values).check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warmup_epochs", 0.5),
        ("weight_decay", 0.0),
        ("final_learning_rate", 0.0),
        ("ema_decay", 1.0),
        ("ema_decay", 0.0),
        ("hue", 0.5),
        ("saturation", 1.0),
        ("crop_scale", (1.0, 1.0)),
        ("knn_images", 0),
        ("workers", 0),
        ("seed", 0),
        ("small_crops", [(96, 0.05, 0.14), (64, 0.05, 0.14)]),
    ],
)
def test_bounds_are_allowed(name: str, value: Any) -> None:
    AdCoSettings(**{name: value}).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (KNN(k=0), "k 0 must be at least 1"),
        (KNN(temperature=0.0), "temperature 0.0 must be above 0"),
        (LinearSGD(epochs=0), "epochs 0 must be at least 1"),
        (LinearSGD(learning_rate=0.0), "learning_rate 0.0 must be above 0"),
        (EvaluateSettings(image_size=-1), "image_size -1 must be at least 1"),
    ],
)
def test_an_impossible_evaluation_is_named(settings: EvaluateSettings | Evaluation, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        settings.check()


@pytest.mark.parametrize(
    "settings",
    [
        *map(settings_of, METHODS),
        EvaluateSettings,
        *map(evaluation_of, EVALUATIONS),
        Claim,
        CompareSettings,
        CostSettings,
        DemoSettings,
    ],
)
def test_every_setting_is_explained(settings: type[Any]) -> None:
    parents = [parent for parent in settings.__mro__ if dataclasses.is_dataclass(parent)]
    words = "\n".join(parent.__doc__ or "" for parent in parents)
    for field in dataclasses.fields(settings):
        assert f"\n        {field.name}: " in words or field.name == "method"


def test_defaults_are_the_papers() -> None:
    settings = AdCoSettings()
    settings.check()
    assert settings.adversary_weight_decay == 1e-4
    assert (settings.epochs, settings.dim, settings.hidden) == (200, 128, 2048)
    assert (settings.brightness, settings.contrast, settings.saturation, settings.hue) == (0.4, 0.4, 0.4, 0.1)
    assert settings.in_batch_negatives
    assert settings.warm_start
    assert not settings.symmetric


def test_a_configuration_is_all_settings_but_where_it_lies() -> None:
    settings = AdCoSettings(out="somewhere", small_crops=[(96, 0.1, 0.4)])
    values = to_dict(settings)
    assert set(values) == {field.name for field in dataclasses.fields(settings)} - {"out", "minutes"}
    assert values["small_crops"] == [[96, 0.1, 0.4]]
    assert yaml.safe_load(yaml.safe_dump(values)) == values


def test_methods_are_named_by_their_literal() -> None:
    for name in METHODS:
        settings = settings_of(name)
        assert issubclass(settings, PretrainSettings)
        assert typing.get_args(typing.get_type_hints(settings)["method"]) == (name,)
        assert settings(method=name).method == name


def test_the_command_without_a_method_loads_nothing_heavy() -> None:
    code = """
import sys, adco, adco.config.topics, adco.config.recipes, adco.config.load, adco.cli.main
assert adco.cli.main.run(["--help"]) == 0
assert adco.cli.main.run(["recipes"]) == 0
assert adco.cli.main.run(["compare", "--help"]) == 0
heavy = {"torch", "torchvision", "timm", "lightning", "numpy", "matplotlib", "sklearn", "PIL"}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--only" in done.stdout


def test_help_on_evaluations_imports_neither_lightning_nor_timm() -> None:
    code = """
import sys, adco.cli.main
try:
    adco.cli.main.run(["evaluate", "linear_sgd", "--help"])
except SystemExit:
    sys.exit(", ".join(sorted({"lightning", "timm", "torchvision", "matplotlib"} & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--learning_rate X" in done.stdout


def test_a_configuration_holds_all_settings_of_a_method_that_inherits_its_topic() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(AdCoSettings[None]):
        further: float = 0.5

    values = to_dict(Own())
    assert set(values) == {field.name for field in dataclasses.fields(Own)} - {"out", "minutes"}


def test_a_mistake_in_a_methods_settings_is_told_to_its_author() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Unexplained(AdCoSettings[None]):
        further: float = 0.5

    class Undecorated(AdCoSettings[None]):
        further: float = 0.5

    for settings, message in (
        (Unexplained, "setting further of Unexplained has no explanation: add an entry 'further: …' under Args: in"),
        (Undecorated, r"Undecorated is not a dataclass: write @dataclass\(frozen=True, kw_only=True\) above it"),
    ):
        with pytest.raises(TypeError, match=message):
            Parser([settings], "adco pretrain", "")
