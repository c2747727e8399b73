"""Evaluating what a run left: its directory, its checkpoint, its backbone, or a network by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import adco
from adco.models.backbone import build_backbone, save_backbone
from adco.runs.directory import RunDirectory

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {
    "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "hidden": 32,
    "adversaries": 100,
    "epochs": 1,
    "batch_size": 360,
    "image_size": 6,
    "test_image_size": 8,
    "knn_images": 0,
    "accelerator": "cpu",
}


FEW_IMAGES = pytest.mark.filterwarnings("ignore:only 12 test images")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return RunDirectory(adco.pretrain(**TINY, data="digits", out=str(tmp_path_factory.mktemp("runs") / "digits")))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Red and blue noise, twenty of each, of 40 px."""
    draw = np.random.default_rng(0)
    for channel, name in enumerate(["red", "green", "blue"]):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for i in range(20):
            pixels = draw.integers(0, 60, (40, 40, 3), np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(tmp_path / "labelled" / name / f"{i}.png")
    return tmp_path / "labelled"


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_results_stand_beside_the_run(run: RunDirectory, kind: Any) -> None:
    result = adco.evaluate(kind, run.path)
    assert json.loads((run.results / f"{kind}-digits.json").read_text()) == result
    assert (result["data"], result["images"], result["protocol"]["kind"]) == ("digits", 355, kind)
    assert 10 < result["top1"] <= result["top5"] <= 100
    assert matplotlib.image.imread(run.results / f"{kind}-digits_confusion.png").ndim == 3


def test_directory_checkpoint_and_backbone_are_one(run: RunDirectory) -> None:
    expected = adco.evaluate("knn", run.path)
    for path in (str(run.path), run.checkpoint, run.backbone, str(run.backbone)):
        assert adco.evaluate("knn", path) == expected


def test_a_run_that_was_stopped_is_evaluated_by_its_checkpoint(run: RunDirectory, tmp_path: Path) -> None:
    stopped = RunDirectory.create(tmp_path / "stopped")
    stopped.config.write_bytes(run.config.read_bytes())
    with pytest.raises(ValueError, match=r"has neither backbone\.safetensors nor .*last\.ckpt: the run has not saved"):
        adco.evaluate("knn", stopped.path)
    stopped.checkpoint.write_bytes(run.checkpoint.read_bytes())
    assert adco.evaluate("knn", stopped.path) == adco.evaluate("knn", run.path)
    assert (stopped.results / "knn-digits.json").is_file()


def test_no_run_is_the_newest(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no run directory under runs/"):
        adco.evaluate("knn")
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(run.path)
    assert adco.evaluate("knn") == adco.evaluate("knn", run.path)


def test_floors_are_pixels_and_random_weights(run: RunDirectory) -> None:
    result = adco.evaluate("knn", run.path, floors=True)
    assert set(result["floors"]) == {"raw pixels", "random weights"}
    assert result["floors"]["raw pixels"]["top1"] > 90  # digits are easy
    assert json.loads((run.results / "knn-digits.json").read_text()) == result
    again = adco.evaluate("knn", run.path, floors=True)
    assert again["floors"] == result["floors"]


def test_the_floor_of_random_weights_is_of_a_new_network(run: RunDirectory, tmp_path: Path) -> None:
    result = adco.evaluate("knn", run.path, floors=True)
    info = adco.load_backbone(run.backbone)[1]
    torch.manual_seed(0)
    new = RunDirectory.create(tmp_path / "new")
    new.config.write_bytes(run.config.read_bytes())
    save_backbone(new.backbone, build_backbone(info), info)
    assert result["floors"]["random weights"]["top1"] == adco.evaluate("knn", new.path)["top1"] != result["top1"]


@pytest.mark.filterwarnings("ignore:only 1[23] test images")
def test_floors_of_the_same_evaluation_are_kept(run: RunDirectory, labelled: Path) -> None:
    floors = adco.evaluate("knn", run.path, data=str(labelled), floors=True)["floors"]
    again = adco.evaluate("knn", run.path, data=str(labelled))
    assert again["floors"] == floors
    assert again in [json.loads(file.read_text()) for file in run.results.glob("*.json")]
    assert "floors" not in adco.evaluate("knn", run.path, data=str(labelled), k=5)
    for i in range(5):  # other images in the same folder
        shutil.copy(labelled / "red" / f"{i}.png", labelled / "red" / f"more-{i}.png")
    assert "floors" not in adco.evaluate("knn", run.path, data=str(labelled))


def test_settings_are_used(run: RunDirectory) -> None:
    result = adco.evaluate("knn", run.path, k=5, temperature=0.5)
    assert (result["protocol"]["k"], result["protocol"]["temperature"]) == (5, 0.5)
    usual = adco.evaluate("knn", run.path)
    assert adco.evaluate("knn", run.path, image_size=16)["top1"] != usual["top1"] != result["top1"]


@FEW_IMAGES
def test_other_images_than_the_runs_may_be_given(run: RunDirectory, labelled: Path) -> None:
    result = adco.evaluate("knn", run.path, data=str(labelled), k=5)
    assert (result["images"], set(result["per_class"])) == (12, {"red", "green", "blue"})


@FEW_IMAGES
def test_a_network_by_name_needs_no_run(labelled: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    result = adco.evaluate("knn", backbone="resnet10t", data=str(labelled), image_size=96, k=5)
    assert result["images"] == 12
    assert adco.evaluate("knn", backbone="resnet10t", data=str(labelled), image_size=96, k=5) == result
    assert set(tmp_path.rglob("*")) == before


@FEW_IMAGES
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_network_by_name_takes_weights(labelled: Path, tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(5)
    weights = timm.create_model("resnet10t", num_classes=0).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    given = adco.evaluate("linear", backbone="resnet10t", weights=str(path), data=str(labelled), image_size=96)
    assert given["images"] == 12
    with pytest.raises(ValueError, match=f"weights .*{suffix} have .* % of the backbone's parameters"):
        adco.evaluate("knn", backbone="resnet18", weights=str(path), data=str(labelled), image_size=96)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "resnet18"}, "backbone resnet18 needs --data"),
        (
            {"backbone": "resnet18", "data": "digits", "weights": "nowhere.pth"},
            "weights 'nowhere.pth' is neither a file nor a run",
        ),
        ({"backbone": "resnet19", "data": "digits"}, "backbone 'resnet19' is not a timm model: try .*resnet18"),
        ({"weights": "w.pth"}, "the backbone of weights w.pth needs --data"),
        ({"weights": "w.pth", "data": "digits"}, "weights w.pth need --backbone, the timm network"),
        ({"kk": 3}, "unknown setting kk"),
        ({"temperature": -1.0}, "temperature -1.0 must be above 0"),
    ],
)
def test_what_cannot_be_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        adco.evaluate("knn", **values)
    assert "\n" not in str(raised.value)


def test_a_run_and_a_network_are_one_too_many(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match=r"take either the run .* or backbone resnet18, not both"):
        adco.evaluate("knn", run.path, backbone="resnet18", data="digits")


def test_images_without_labels_are_refused(run: RunDirectory, labelled: Path) -> None:
    with pytest.raises(ValueError, match=r"red has no labels: give --data labelled images, in one folder per class"):
        adco.evaluate("knn", run.path, data=str(labelled / "red"))


@pytest.mark.parametrize(
    ("data", "why"), [("labelled/red", "has no labels"), ("gone", "is neither a folder nor one of")]
)
def test_a_run_whose_own_images_do_not_do_says_what_to_give(
    run: RunDirectory, labelled: Path, tmp_path: Path, data: str, why: str
) -> None:
    other = RunDirectory.create(tmp_path / "other")
    other.write_config({**run.read_config(), "data": str(tmp_path / data)})
    other.backbone.write_bytes(run.backbone.read_bytes())
    with pytest.raises(ValueError, match=f"^without --data, the data of .*other is used: .*{why}") as e:
        adco.evaluate("knn", other.path)
    assert "\n" not in str(e.value)


def test_few_test_images_are_warned_of(run: RunDirectory, labelled: Path) -> None:
    with pytest.warns(UserWarning, match=r"^only 12 test images: "):
        adco.evaluate("knn", run.path, data=str(labelled), k=5)


@FEW_IMAGES
def test_results_of_other_data_and_settings_are_kept(run: RunDirectory, labelled: Path, tmp_path: Path) -> None:
    shutil.rmtree(run.results, ignore_errors=True)
    twin = tmp_path / "elsewhere" / "labelled"
    shutil.copytree(labelled, twin)
    asked: list[dict[str, Any]] = [
        {"data": str(labelled)},
        {"data": str(twin)},
        {"data": str(labelled), "k": 5},
        {"data": str(labelled), "image_size": 16},
        {"data": str(labelled), "class_level": 1},
        {"data": "digits"},
    ]
    results = [adco.evaluate("knn", run.path, **settings) for settings in asked]
    kept = [json.loads(file.read_text()) for file in run.results.glob("*.json")]
    assert len(kept) == len(asked)
    assert all(result in kept for result in results)
    assert {file.name for file in run.results.glob("*.json")} >= {"knn-labelled.json", "knn-digits.json"}
    assert len(list(run.results.glob("*_confusion.png"))) == len(asked)
    again = adco.evaluate("knn", run.path, data=f"{labelled}/../labelled")  # the same folder by another name
    assert again["evaluation"] == results[0]["evaluation"]
    assert len(list(run.results.iterdir())) == 2 * len(asked)


@FEW_IMAGES
def test_more_neighbours_than_images_are_all_images(run: RunDirectory, labelled: Path) -> None:
    result = adco.evaluate("knn", run.path, data=str(labelled), k=200)
    assert (result["protocol"]["k"], result["evaluation"]["k"]) == (48, 200)


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    for name in ("nowhere", "nowhere/backbone.safetensors", "nowhere/checkpoints/last.ckpt"):
        with pytest.raises(ValueError, match="nowhere"):
            adco.evaluate("knn", tmp_path / name)
