"""The examples run, and do what they say."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import adco
from adco.config.registry import METHODS
from adco.data.registry import NAMED

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL: dict[str, Any] = {
    "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "hidden": 32,
    "dim": 16,
    "batch_size": 64,
    "epochs": 2,
    "knn_images": 0,
    "accelerator": "cpu",
}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    methods, sets = set(METHODS), set(NAMED)
    yield importlib.import_module(request.param)
    for method in set(METHODS) - methods:
        del METHODS[method]
    for data in set(NAMED) - sets:
        del NAMED[data]


@pytest.mark.parametrize("example", ["bare_loop"], indirect=True)
def test_the_loss_falls_in_a_bare_loop(example: ModuleType) -> None:
    losses = example.train(steps=100)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("example", ["own_method"], indirect=True)
def test_a_method_of_ones_own_trains_and_is_in_the_help(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from adco.cli import main as cli

    run = adco.pretrain(method="barlow-twins", data="digits", out=str(tmp_path / "run"), **SMALL)
    assert "off_diagonal: 0.005" in (run / "config.yaml").read_text()
    assert adco.load_backbone(run / "backbone.safetensors")[1].image_size == 8
    capsys.readouterr()
    assert cli.run(["pretrain", "--method", "barlow-twins", "--help"]) == 0
    assert "--off_diagonal X" in capsys.readouterr().out


@pytest.mark.parametrize("example", ["own_data"], indirect=True)
def test_a_data_set_of_ones_own_is_trained_on_and_evaluated(example: ModuleType, tmp_path: Path) -> None:
    run = adco.pretrain(data="shapes", out=str(tmp_path / "run"), **SMALL)
    result = adco.evaluate("knn", run)
    assert (result["images"], list(result["per_class"])) == (128, ["square", "disc"])
