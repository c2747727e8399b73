"""The examples run, and do what they say."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sklearn.neighbors import NearestCentroid  # type: ignore[import-untyped]

import adco
import tiny
from adco.config.registry import METHODS
from adco.data.sources.open import open_splits
from adco.data.sources.registry import NAMED
from adco.evaluation.extract import extract_features
from adco.evaluation.registry import EVALUATIONS

pytestmark = pytest.mark.usefixtures("no_curves")

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {**tiny.SETTINGS, "dim": 16, "batch_size": 64, "epochs": 1, "knn_images": 0}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    registries: tuple[dict[str, Any], ...] = (METHODS, NAMED, EVALUATIONS)
    before = [dict(registry) for registry in registries]
    yield importlib.import_module(request.param)
    for registry, known in zip(registries, before, strict=True):
        for name in registry.keys() - known:
            del registry[name]


@pytest.mark.parametrize("example", ["bare_loop"], indirect=True)
def test_the_loss_falls_in_a_bare_loop(example: ModuleType) -> None:
    losses = example.train(steps=100)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("example", ["own_data"], indirect=True)
def test_a_data_set_of_ones_own_is_trained_on_and_evaluated(example: ModuleType, tmp_path: Path) -> None:
    run = adco.pretrain(data="shapes", out=str(tmp_path / "run"), **SMALL)
    result = adco.evaluate("knn", run)
    assert (result["images"], list(result["per_class"])) == (128, ["square", "disc"])


@pytest.mark.slow
@pytest.mark.parametrize("example", ["own_backbone"], indirect=True)
def test_a_backbone_of_ones_own_is_trained_saved_and_evaluated(example: ModuleType, tmp_path: Path) -> None:
    own = SMALL | {"backbone": "small_cnn", "backbone_args": {"width": 8}}
    run = adco.pretrain(data="digits", out=str(tmp_path / "run"), **own)
    backbone, info = adco.load_backbone(run / "backbone.safetensors")
    assert (info.name, info.arguments, len(backbone)) == ("small_cnn", {"width": 8}, 11)  # type: ignore[arg-type]
    assert backbone(torch.zeros(2, 3, 8, 8)).shape == (2, 32)
    result = adco.evaluate("knn", run)
    assert result["top1"] == adco.evaluate("knn", weights=run, data="digits")["top1"]


@pytest.mark.filterwarnings("ignore:.*zero standard deviation")  # of scikit-learn, about a feature that is always 0
@pytest.mark.parametrize("example", ["own_evaluation"], indirect=True)
def test_an_evaluation_of_ones_own_is_scikit_learns_and_has_a_column_in_a_comparison(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from adco.cli import main as cli
    from adco.comparison.plan import read_plan

    run = adco.pretrain(data="digits", out=str(tmp_path / "run"), **SMALL)
    own: dict[str, Any] = {"normalise": False}
    found = adco.evaluate("centre", run, **own)
    backbone, info = adco.load_backbone(run / "backbone.safetensors")
    train, test = (
        extract_features(backbone, source, image_size=info.image_size, mean=info.mean, std=info.std)
        for source in open_splits("digits")
    )
    expected = NearestCentroid().fit(train.features, train.labels).score(test.features, test.labels)
    assert found["top1"] == pytest.approx(100 * expected)
    assert (run / "results" / "centre-digits.json").is_file()
    with pytest.raises(SystemExit):
        cli.run(["evaluate", "centre", "--help"])
    assert "--normalise [true|false]" in capsys.readouterr().out
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("rows: {AdCo: {data: digits}}\nevaluations: {knn: {}, centre: {normalise: false}}")
    assert [evaluation.TITLE for evaluation in read_plan(recipe).evaluations] == ["kNN", "nearest centre"]


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """Its cells, in a kernel of their own, with the images and the length of the notebook."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "use.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output.data["text/plain"] for cell in cells for output in cell.outputs if "data" in output]
    assert len(shown) == len(cells)  # each cell ends with what it shows
    top1 = eval(shown[1])
    assert top1["this backbone"] > top1["random weights"]
    assert (tmp_path / eval(shown[-1], {"PosixPath": Path, "WindowsPath": Path})).is_file()
