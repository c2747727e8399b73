"""Runs of seconds, from images to the run directory."""

import json
import math
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]

import adco
import tiny
from adco.config.load import pretrain_settings
from adco.config.pretrain import to_dict
from adco.config.resolve import resolve
from adco.data.draws import permutation
from adco.data.sources.open import open_source
from adco.evaluation.knn import knn_scores
from adco.methods.adco import AdCo
from adco.models.backbone import build_backbone, load_backbone
from adco.runs.directory import RunDirectory
from adco.training import train as training
from adco.training.build import backbone_info
from adco.training.errors import NotFiniteError
from adco.training.online_knn import CHOICE, OnlineKNN, online_knn

pytestmark = pytest.mark.usefixtures("no_curves")

TINY = {**tiny.SETTINGS, "adversaries": 256, "epochs": 2, "log_every": 1}
FEW = {**TINY, "data": "few", "batch_size": 50, "epochs": 1, "adversaries": 40}  # filled in the first step of two
DIGITS = {**TINY, "data": "digits", "batch_size": 256, "knn_images": 300}
DIGITS |= {"adversary_learning_rate": 12.0, "adversary_temperature": 0.1}  # a few steps show beside rounding


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of seconds, with its curves."""
    return RunDirectory(adco.pretrain(**DIGITS, out=str(tmp_path_factory.mktemp("runs") / "digits")))


def train(out: Path, **settings: Any) -> RunDirectory:
    """An epoch of few images, with these settings."""
    return RunDirectory(adco.pretrain(**{**FEW, **settings}, out=str(out)))


def pieces(folder: Path, number: int = 64, side: int = 40) -> Path:
    """PNGs cut from a photograph."""
    folder.mkdir(parents=True)
    photo = load_sample_images().images[0]
    for i in range(number):
        top, left = divmod(i * 37, 500)
        top = top * 40 % (427 - side)
        Image.fromarray(photo[top : top + side, left : left + side]).save(folder / f"{i:03}.png")
    return folder


def state(run: RunDirectory) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run.checkpoint, weights_only=True)["state_dict"]
    return weights


@pytest.mark.slow
def test_a_run_leaves_everything(digits: RunDirectory) -> None:
    assert sorted(path.name for path in digits.path.iterdir()) == [
        "adversaries",
        "backbone.safetensors",
        "checkpoints",
        "config.yaml",
        "curves.png",
        "environment.json",
        "metrics.jsonl",
        "unreadable.json",
    ]
    assert sorted(path.name for path in digits.checkpoint.parent.iterdir()) == [".lock", "last.ckpt"]
    config = digits.read_config()
    assert (config["image_size"], config["workers"], config["split_groups"]) == (8, 0, 8)
    environment = json.loads((digits.path / "environment.json").read_text())
    assert (environment["seed"], environment["images"]) == (0, 1442)
    assert environment["started"] <= environment["finished"]
    assert json.loads((digits.path / "unreadable.json").read_text()) == []
    assert matplotlib.image.imread(digits.curves).ndim == 3
    backbone, info = load_backbone(digits.backbone)
    assert (info.name, info.image_size, info.arguments) == ("resnet18", 8, tiny.NETWORK)
    assert backbone(torch.zeros(2, 3, 8, 8)).shape == (2, tiny.NETWORK["channels"][-1])


@pytest.mark.slow
def test_what_is_exported_is_what_was_trained(digits: RunDirectory) -> None:
    exported, trained = load_file(digits.backbone), state(digits)
    for name, tensor in exported.items():
        assert torch.equal(tensor, trained[f"encoder.backbone.{name}"])


@pytest.mark.slow
def test_every_step_has_a_record_and_every_epoch_a_verdict(digits: RunDirectory) -> None:
    records = digits.records()
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 11))
    epochs = [record for record in records if "word" in record]
    assert [(record["step"], record["epoch"]) for record in epochs] == [(5, 0), (10, 1)]
    for record in epochs:
        assert record["reason"]
        assert 0 <= float(record["knn_top1"]) <= 100
    for record in records:
        numbers = [value for value in record.values() if not isinstance(value, str)]
        assert all(math.isfinite(value) for value in numbers)


def test_the_knn_of_an_epoch_is_that_of_a_fifth_of_the_drawn_images() -> None:
    """The first fifth of 60 drawn images, each classified by the five nearest of the others."""
    source = open_source("few")
    settings = resolve(pretrain_settings(**FEW, knn_images=60, seed=3), source)
    backbone, online = build_backbone(backbone_info(settings)), online_knn(settings, source)
    assert online is not None
    assert source.labels is not None
    drawn = permutation(3, CHOICE, length=100)[:60]
    images = torch.from_numpy(np.stack(list(source.load(drawn)))).permute(0, 3, 1, 2) / 255
    normalised = (images - torch.tensor(settings.mean)[:, None, None]) / torch.tensor(settings.std)[:, None, None]
    with torch.no_grad():
        features = backbone.eval()(normalised)
    labels = torch.as_tensor(source.labels[drawn])
    scores = knn_scores(features[12:], labels[12:], features[:12], 10, k=5)
    right = scores.argmax(1) == labels[:12]
    assert 0 < right.sum() < 12
    assert online(backbone) == pytest.approx(100 * right.double().mean().item())


@pytest.mark.slow
def test_both_players_and_the_momentum_encoder_have_moved(digits: RunDirectory) -> None:
    weights = state(digits)
    norms = weights["adversaries.weight"].norm(dim=1)
    assert norms.max() > 1.001  # they start as keys, of norm 1; decay only shortens them, a step lengthens
    query, key = weights["encoder.projector.0.weight"], weights["momentum_encoder.encoder.projector.0.weight"]
    assert 0 < (query - key).norm() < 0.5 * query.norm()


@pytest.mark.slow
def test_a_run_can_be_done_again_from_its_configuration(digits: RunDirectory, tmp_path: Path) -> None:
    again = RunDirectory(adco.pretrain(digits.config, out=str(tmp_path / "again")))
    assert again.read_config() == digits.read_config()
    expected, found = load_file(digits.backbone), load_file(again.backbone)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    weights, others = state(digits), state(again)
    assert all(torch.equal(others[name], weights[name]) for name in weights)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    first, second = (state(train(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert (first["encoder.projector.0.weight"] != second["encoder.projector.0.weight"]).any()


@pytest.mark.parametrize(
    "variant",
    [
        {"symmetric": True},
        {"small_crops": [[6, 0.1, 0.4], [5, 0.05, 0.2]]},
        {"symmetric": True, "small_crops": [[6, 0.1, 0.4]], "batch_norm": "split", "split_groups": 5},
        {"accumulate": 2},
        {"in_batch_negatives": False, "warm_start": False, "knn_images": 0},
        {"precision": "64-true"},
        {"precision": "bf16-mixed", "channels_last": False},
        {"adversaries": 333, "dim": 16, "warmup_epochs": 1.0},
        {"test_image_size": 12},
        {"knn_images": 1},
        {"batch_size": 33},
    ],
    ids=lambda variant: ",".join(variant),
)
def test_variants_run(tmp_path: Path, variant: dict[str, Any]) -> None:
    run = train(tmp_path / "run", **variant)
    steps = [record["step"] for record in run.records() if "loss" in record]
    assert steps == list(range(1, len(steps) + 1))
    assert all(tensor.isfinite().all() for tensor in state(run).values())
    assert load_backbone(run.backbone)[1].image_size == variant.get("test_image_size", 8)


def test_accumulated_epochs_are_whole_steps(tmp_path: Path) -> None:
    """A hundred images are three batches of 28, so six of 14, though seven of 14 would fit."""
    run = train(tmp_path / "run", batch_size=28, accumulate=2, epochs=2, knn_images=0)
    steps = [(record["step"], record["epoch"]) for record in run.records() if "loss" in record]
    assert steps == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)]
    rates = [float(record["lr"]) for record in run.records() if "loss" in record]
    assert rates == sorted(rates, reverse=True)


def test_a_flat_folder_without_labels_is_enough(tmp_path: Path) -> None:
    data = pieces(tmp_path / "photos")
    run = RunDirectory(
        adco.pretrain(**{**TINY, "epochs": 1}, data=data, batch_size=32, workers=0, out=str(tmp_path / "run"))
    )
    assert run.read_config()["image_size"] == 40
    assert not [record for record in run.records() if "knn_top1" in record]
    assert [record["word"] for record in run.records() if "word" in record] == ["finished"]
    with pytest.raises(ValueError, match=r"photos has no labels: give --data labelled images"):
        adco.evaluate("knn", run.path)
    for name in ("cat", "dog"):
        pieces(tmp_path / "labelled" / name, 10)
    with pytest.warns(UserWarning, match="only 4 test images"):
        result = adco.evaluate("knn", run.path, data=str(tmp_path / "labelled"))
    assert 0 <= result["top1"] <= 100
    assert json.loads((run.results / "knn-labelled.json").read_text()) == result


def test_exactly_the_damaged_files_are_left_out(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    photo = Image.fromarray(load_sample_images().images[0][:48, :48])
    data.mkdir()
    for i, suffix in enumerate(["jpg", "png", "webp", "bmp", "tif", "gif", "JPEG"] * 4):
        photo.rotate(10 * i).save(data / f"{i:02}.{suffix}")
    photo.convert("L").save(data / "grey.png")
    photo.convert("RGBA").save(data / "transparent.png")
    (data / "empty.jpg").touch()
    (data / "text.png").write_text("no image")
    (data / "cut.jpg").write_bytes((data / "00.jpg").read_bytes()[:400])
    (data / "folder.jpg").mkdir()
    (data / "notes.txt").write_text("not looked at")
    settings = {**TINY, "data": str(data), "epochs": 1, "batch_size": 16, "adversaries": 16, "workers": 0}
    with pytest.raises(ValueError, match=r"3 of 33 files .* a share above max_unreadable 0.01"):
        adco.pretrain(**settings, out=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = RunDirectory(adco.pretrain(**settings, max_unreadable=0.1, out=str(tmp_path / "run")))
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(said) == 1
    assert "3 of 33 files" in said[0]
    assert "; left out: " in said[0]
    unreadable = json.loads((run.path / "unreadable.json").read_text())
    assert [Path(entry["file"]).name for entry in unreadable] == ["cut.jpg", "empty.jpg", "text.png"]
    assert all(entry["reason"] for entry in unreadable)
    assert json.loads((run.path / "environment.json").read_text())["images"] == 30


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": "nowhere"}, "data 'nowhere' is neither a folder nor one of"),
        ({"class_level": 1}, "class_level 1 is for folders: digits has classes of its own"),
        (
            {"backbone": "vit_tiny_patch16_224", "backbone_args": {}},
            "image_size 8 does not suit backbone vit_tiny_patch16_224 .*: the nearest size that it takes is 16 px",
        ),
        ({"batch_size": 5000}, "batch_size 5000 is more than the 1442 images of digits: try --batch_size 128"),
        ({"data": np.zeros((1, 8, 8, 3), np.uint8)}, "python:ndarray has only one image: .* needs at least two"),
        ({"batch_size": 1}, "batch_size 1 leaves 1 image .*: it must be at least 2"),
        ({"batch_size": 4, "accumulate": 4}, "batch_size 4 leaves 1 image .*: it must be at least 8"),
        ({"small_crops": [[9, 0.1, 0.2]]}, "small_crops has a size of 9: it must be at most image_size 8"),
        (
            {"small_crops": [[6, 0.1, 0.4], [4, 0.1, 0.2]], "precision": "bf16-mixed"},
            "small_crops 4 px: the network reduces them to one pixel before its last stride",
        ),
        ({"batch_norm": "shuffle"}, "batch_norm shuffle needs more than one device"),
        ({"batch_norm": "sync", "devices": 2}, "batch_norm sync over several devices needs GPUs"),
        ({"backbone": "resnet19"}, "backbone 'resnet19' is not a timm model: try .*resnet18"),
        ({"backbone_args": {"colour": "red"}}, "timm model resnet18 does not accept backbone_args .*"),
        ({"accelerator": "gpu"}, "accelerator gpu with devices auto is not available here"),
        ({"accelerator": "abacus"}, "accelerator abacus with devices auto is not available here"),
        ({"devices": 5000}, "devices 5000 is more than the .* of this machine"),
        ({"num_nodes": 2}, "num_nodes 2 needs a launcher: start the command by torchrun or srun on each node"),
        ({"devices": 0}, "accelerator cpu with devices 0 is not available here"),
        ({"temperature": -1.0}, "temperature -1.0 must be at least 0.0016"),
    ],
)
def test_what_cannot_be_is_told_before_writing(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    if torch.cuda.is_available() and values.get("accelerator") == "gpu":
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=f"^.*{message}") as raised:
        adco.pretrain(**{**DIGITS, **values}, out=str(tmp_path / "run"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_directory_in_use_is_not_touched(digits: RunDirectory) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.path.rglob("*")}
    with pytest.raises(ValueError, match=r"out '.*' is not empty: continue with --resume .*, or choose another --out"):
        adco.pretrain(**DIGITS, out=str(digits.path))
    assert {path: path.stat().st_mtime_ns for path in digits.path.rglob("*")} == before


def test_a_run_is_named_after_its_method_data_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = adco.pretrain(**FEW)
    assert path.parent == Path("runs")
    assert path.name.startswith("adco-few-20")


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rate explodes at the sixth step of eight."""
    from adco.optim.players import Schedule

    monkeypatch.setattr(Schedule, "__call__", lambda self, step: 1e30 if step >= 5 else 0.03)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(NotFiniteError, match="try a lower learning_rate"):
        train(run.path, batch_size=25, epochs=2, checkpoint_every=2, knn_images=0)
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    assert checkpoint["global_step"] in (4, 6)
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    lines = run.metrics.read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert (records[-1]["step"], records[-1]["loss"]) == (7, "nan")
    for name, weights in load_file(run.backbone).items():
        assert torch.equal(weights, checkpoint["state_dict"][f"encoder.backbone.{name}"])


def test_a_run_that_explodes_at_once_says_so_and_gives_the_signals_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(NotFiniteError, match="at step 2: try a lower learning_rate"):
        train(run.path, learning_rate=1e30)
    assert run.records()[-1]["loss"] == "nan"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_that_fails_in_its_first_step_leaves_no_folder_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "run", AdCo.step

    def fail(self: AdCo, batch: Any) -> Any:
        raise MemoryError("CUDA out of memory")

    monkeypatch.setattr(AdCo, "step", fail)
    with pytest.raises(MemoryError):
        train(out, knn_images=0)
    assert not out.exists()
    monkeypatch.setattr(AdCo, "step", lambda self, batch: step(self, batch) if batch.position == 0 else fail(self, 0))
    with pytest.raises(MemoryError):
        train(out, knn_images=0)
    assert len(RunDirectory(out).records()) == 1  # a step that was made is kept


@pytest.mark.skipif(sys.platform == "win32", reason="files have other permissions there")
@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_files_have_the_permissions_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        run = train(tmp_path / "run").path
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_file()}
    assert {"last.ckpt", "backbone.safetensors", "config.yaml", "metrics.jsonl"} <= modes.keys()
    assert set(modes.values()) == {0o666 & ~mask}, modes


@pytest.mark.slow
def test_python_hears_of_the_run_if_it_logs_and_nothing_of_lightning(tmp_path: Path) -> None:
    """In a process of its own, with Python's own warnings and logging: before and after logging is configured."""
    code = f"""
import logging, sys, adco
settings = dict(data="digits", epochs=1, batch_size=360, hidden=16, adversaries=64, workers=1, accelerator="cpu")
settings |= dict(backbone_args={tiny.NETWORK}, knn_images=0)
adco.pretrain(**settings, out="silent")
logging.basicConfig(level=logging.INFO, format="%(message)s")
adco.pretrain(**settings, out="run")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == ""
    first, images, *block, epoch, last = done.stderr.splitlines()
    assert (first, images) == ("reading digits …", "digits: 1,442 images of 8 × 8 px, 10 classes")
    assert [line.split()[0] for line in block] == ["images", "steps", "method", "backbone", "device", "run"]
    assert epoch.startswith("epoch 1/1  loss ")
    assert last.startswith("run: ")


@pytest.mark.slow
def test_config_is_yaml_that_the_parser_takes(digits: RunDirectory) -> None:
    values = yaml.safe_load(digits.config.read_text())
    settings = pretrain_settings(**values)
    settings.check()
    assert settings.out == ""


def test_a_run_is_not_resumed_on_other_images(run: RunDirectory) -> None:
    run.write_config(to_dict(resolve(pretrain_settings(data="few"), open_source("few"))))
    run.write_environment(images=3)
    with pytest.raises(ValueError, match="the run had 3: start a new run"):
        adco.pretrain(resume=run.path)


def test_the_knn_of_an_epoch_is_a_pause_after_its_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not timed as a step, and may take longer than a step may."""
    made: dict[str, Any] = {}
    for name in ("TimeLeft", "EndIfHanging"):
        original = getattr(training, name)
        monkeypatch.setattr(training, name, lambda given, name=name, make=original: made.setdefault(name, make(given)))
    seen = []

    def knn(online: OnlineKNN, backbone: torch.nn.Module) -> float:
        seen.append((made["TimeLeft"].seen, made["EndIfHanging"].deadline))
        return 50.0

    monkeypatch.setattr(OnlineKNN, "__call__", knn)
    train(tmp_path / "run", epochs=2, knn_images=20)
    assert seen == [(0, math.inf), (2, math.inf), (4, math.inf)]
