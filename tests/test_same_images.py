"""The same images in the same order give the same weights, bit for bit, wherever they are kept."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

import adco
import tiny
from adco.data.sources.address import full_name
from adco.runs.directory import RunDirectory
from adco.training.errors import Interrupted
from adco.training.saving import StopOnSignal

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_curves")]

SETTINGS: dict[str, Any] = {
    **tiny.SETTINGS,
    "adversaries": 32,
    "batch_size": 16,
    "epochs": 2,
    "image_size": 16,
    "knn_images": 0,
    "workers": 0,
}


def folder(at: Path) -> str:
    """48 photographs of noise, of many sizes, JPEG and PNG, in two classes."""
    random = np.random.default_rng(0)
    for i in range(48):
        path = at / "photos" / "ab"[i // 24] / f"{i:02}.{('jpg', 'png')[i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + i % 7, 18 + i % 5, 3), np.uint8)).save(path)
    return str(at / "photos")


def files(at: Path) -> list[Path]:
    return sorted(path for path in (at / "photos").rglob("*") if path.is_file())


def listed(at: Path) -> str:
    lines = [f"{path.relative_to(at)},{path.parent.name}" for path in files(at)]
    (at / "files.csv").write_text("\n".join(lines))
    return f"list:{at / 'files.csv'}"


def several(at: Path) -> str:
    return f"folders:{at}/photos/a,{at}/photos/b"


def shards(at: Path) -> str:
    for shard in range(3):
        with tarfile.open(at / f"train-{shard}.tar", "w") as tar:
            for path in files(at)[16 * shard : 16 * (shard + 1)]:
                for name, content in ((path.name, path.read_bytes()), (f"{path.stem}.cls", path.parent.name.encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"wds:{at}/train-{{0..2}}.tar"


def hub(at: Path) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": None} for path in files(at)],
        "label": ["ab".index(path.parent.name) for path in files(at)],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(at / "saved")
    return f"hf:{at / 'saved'}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The images, and the weights of a run on their folder."""
    at = tmp_path_factory.mktemp("images")
    run = adco.pretrain(data=folder(at), **SETTINGS, out=str(at / "run"))
    return at, load_file(run / "backbone.safetensors")


KINDS = [listed, several, shards, hub]


def assert_same(run: Path, expected: dict[str, torch.Tensor]) -> None:
    weights = load_file(run / "backbone.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_elsewhere(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, kind: Callable[[Path], str]
) -> None:
    at, expected = whole
    assert_same(adco.pretrain(data=kind(at), **SETTINGS, out=str(tmp_path / "run")), expected)


def test_given_from_python(whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    at, expected = whole
    images = [Image.open(path) for path in files(at)]
    assert_same(adco.pretrain(data=images, **SETTINGS, out=str(tmp_path / "list")), expected)
    dataset = ImageFolder(at / "photos")
    assert_same(adco.pretrain(data=dataset, **{**SETTINGS, "workers": 2}, out=str(tmp_path / "dataset")), expected)


@pytest.mark.fault("a run on images of five kinds is resumed in another current directory")
@pytest.mark.parametrize("kind", [*KINDS, lambda at: str(at / "photos")])
@pytest.mark.parametrize("step", [2, 4])
def test_stopped_and_resumed_by_workers_in_another_directory(
    whole: tuple[Path, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[Path], str],
    step: int,
) -> None:
    """The paths of the data are relative to the directory in which the run began."""
    at, expected = whole
    receive = StopOnSignal.on_train_batch_end

    def hook(self: StopOnSignal, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if trainer.global_step == step:
            signal.raise_signal(signal.SIGTERM)
        receive(self, trainer, module, outputs, batch, index)

    settings = {**SETTINGS, "workers": 2, "out": str(tmp_path / "run")}
    data = kind(at).replace(f"{at}/", "")
    monkeypatch.chdir(at)
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "on_train_batch_end", hook)
        with pytest.raises(Interrupted):
            adco.pretrain(data=data, **settings)
    monkeypatch.chdir(tmp_path)
    run = adco.pretrain(resume=Path("run"))
    assert_same(run, expected)
    assert RunDirectory(run).read_config()["data"] == full_name(data, at)


KILLED = """
import os, signal, sys, tiny, adco
from adco.training.saving import StopOnSignal
receive = StopOnSignal.on_train_batch_end
def hook(self, trainer, module, outputs, batch, index):
    if trainer.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    receive(self, trainer, module, outputs, batch, index)
StopOnSignal.on_train_batch_end = hook
adco.pretrain(**{settings!r})
"""


@pytest.mark.parametrize("kind", [shards, hub])
def test_killed_and_resumed(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, kind: Callable[[Path], str]
) -> None:
    at, expected = whole
    settings = {**SETTINGS, "data": kind(at), "checkpoint_every": 2, "out": str(tmp_path / "run")}
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(settings=settings)], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    step = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step == 4
    assert_same(adco.pretrain(resume=tmp_path / "run"), expected)
