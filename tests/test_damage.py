"""Images that cannot be read: the next one takes their place in training, and they are left out of an evaluation."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import adco
import tiny
from adco.data import damage
from adco.data.draws import permutation
from adco.data.loader import Loader, Order
from adco.data.sources import decode, folder
from adco.data.sources.folder import FolderSource
from adco.data.sources.open import open_source
from adco.data.views import View
from adco.errors import InputError
from adco.evaluation.extract import extract_features, pixel_features
from adco.runs.checkpoints import read_checkpoint
from adco.runs.directory import RunDirectory
from adco.training.errors import Interrupted
from adco.training.monitor import Monitor

IMAGES = 24
SAMPLE = 2  # files that are decoded when the folder is opened
BAD = (5, 6, 14, 23)  # two in a row, one, and the last, after which the first image is next
IN_THEIR_PLACE = {5: 7, 6: 7, 14: 15, 23: 0}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of which no damaged file is in the sample that is decoded when it is opened."""
    monkeypatch.setattr(folder, "SAMPLE", SAMPLE)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8, 3), np.uint8)
    root = tmp_path / "photos"
    for i, image in enumerate(pixels):
        place = root / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:02}.png")
    return root


def files(root: Path) -> list[Path]:
    """The files by the index of their image: first those of a/, then those of b/."""
    return sorted(root.rglob("*.png"))


def spoil(root: Path, bad: Sequence[int] = BAD) -> None:
    for index in bad:
        files(root)[index].write_text("damaged")


def first_epoch() -> list[int]:
    """The order of the images without those that are decoded when the folder is opened."""
    sample = np.random.default_rng(0).permutation(IMAGES)[:SAMPLE]
    return [i for i in permutation(0, 0, length=IMAGES).tolist() if i not in sample]


def opened(root: Path) -> FolderSource:
    source = open_source(root)
    assert isinstance(source, FolderSource)
    assert (len(source), source.unreadable) == (IMAGES, ())
    return source


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_takes_the_place_of_a_damaged_one(photos: Path, tmp_path: Path, workers: int) -> None:
    """Its truth is a folder in which files are copies of the next ones."""
    shutil.copytree(photos, tmp_path / "copies")
    for bad, other in IN_THEIR_PLACE.items():
        shutil.copy(files(tmp_path / "copies")[other], files(tmp_path / "copies")[bad])
    spoil(photos)
    views = [View(size=8), View(size=5)]
    order = [Order(IMAGES, batch_size=8, seed=0) for _ in range(2)]
    loader = Loader(opened(photos), views, order[0], workers=workers)
    for batch, truth in zip(loader, Loader(opened(tmp_path / "copies"), views, order[1]), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(batch.views, truth.views, strict=True))
        assert batch.indices.tolist() == [IN_THEIR_PLACE.get(i, i) for i in truth.indices.tolist()]
    assert {index: file.path for index, file in loader.damaged.items()} == {i: files(photos)[i] for i in BAD}
    assert {file.reason for file in loader.damaged.values()} == {"not an image"}


@pytest.mark.parametrize("kind", ["list", "wds"])
def test_the_same_holds_for_lists_and_shards(photos: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(photos, tmp_path / "copies")
    for bad, other in IN_THEIR_PLACE.items():
        shutil.copy(files(tmp_path / "copies")[other], files(tmp_path / "copies")[bad])
    spoil(photos)
    names = [file.relative_to(photos) for file in files(photos)]
    if kind == "list":
        (photos / "list.txt").write_text("\n".join(map(str, names)))
        address = f"list:{photos / 'list.txt'}"
    else:
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            for index, name in enumerate(names):
                tar.add(photos / name, f"{index:03}.png")
        address = f"wds:{tmp_path / 'shard.tar'}"
    orders = [Order(IMAGES, batch_size=8, seed=0) for _ in range(2)]
    loader = Loader(open_source(address), [View(size=8)], orders[0])
    truth = Loader(opened(tmp_path / "copies"), [View(size=8)], orders[1])
    for batch, expected in zip(loader, truth, strict=True):
        assert torch.equal(batch.views[0], expected.views[0])
    assert sorted(loader.damaged) == sorted(BAD)


@pytest.mark.parametrize("workers", [0, 1])
def test_very_many_damaged_images_in_a_row_are_an_error_of_one_line(
    photos: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(damage, "MOST_IN_A_ROW", 3)
    source = opened(photos)
    spoil(photos, (8, 9, 10))
    with pytest.raises(InputError, match=r"^3 images of .* in a row cannot be read; the last: .*png .*: not an image$"):
        list(Loader(source, [View(size=8)], Order(IMAGES, batch_size=24, seed=0), workers=workers))
    assert not multiprocessing.active_children()  # a worker ignores signals: the process would wait for it for ever


def settings(root: Path, out: Path, **more: Any) -> dict[str, Any]:
    sizes = {"adversaries": 16, "epochs": 3, "batch_size": 8, "log_every": 1, "image_size": 8}
    return {
        **tiny.SETTINGS,
        "data": str(root),
        "out": str(out),
        "knn_images": 0,
        "max_unreadable": 0.5,
        **sizes,
        **more,
    }


def recorded(run: RunDirectory) -> dict[int, str]:
    return {entry["image"]: entry["file"] for entry in json.loads((run.path / "unreadable.json").read_text())}


def weights(run: RunDirectory) -> list[torch.Tensor]:
    return list(load_file(run.backbone).values())


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal reaches the process at the end of this step."""
    receive = Monitor.on_train_batch_end

    def with_signal(self: Monitor, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        receive(self, trainer, *rest)

    monkeypatch.setattr(Monitor, "on_train_batch_end", with_signal)


@pytest.mark.fault("damaged images are met in training, with 0 and 2 workers, and in a resumed run")
@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_a_run_over_damaged_images_has_the_same_weights_with_workers_and_after_an_interruption(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    report: Callable[..., None],
) -> None:
    opened(photos)
    spoil(photos)
    alone, helped = (
        RunDirectory(adco.pretrain(**settings(photos, tmp_path / str(workers), workers=workers))) for workers in (0, 2)
    )
    line = next(line for line in caplog.messages if "of 24 files" in line and "replaced by the next image: " in line)
    report(says=f"adco: {line}")
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        with pytest.raises(Interrupted):
            adco.pretrain(**settings(photos, tmp_path / "stopped", workers=2))
    resumed = RunDirectory(adco.pretrain(resume=tmp_path / "stopped"))
    for run in (helped, resumed):
        assert all(torch.equal(x, y) for x, y in zip(weights(run), weights(alone), strict=True))
    for run in (alone, helped, resumed):
        assert recorded(run) == {index: str(files(photos)[index]) for index in BAD}


@pytest.mark.fault("more images are damaged than --max_unreadable allows")
@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_too_many_damaged_images_stop_a_run_which_continues_when_they_are_repaired(
    photos: Path, tmp_path: Path, report: Callable[..., None]
) -> None:
    opened(photos)
    more = {"workers": 0, "max_unreadable": 3 / 24, "checkpoint_every": 1}
    bad = first_epoch()[-4:]  # in the third step
    spoil(photos, bad)
    with pytest.raises(
        InputError, match=r"^4 of 24 files in .* above max_unreadable 0.125: .*; the checkpoint of step"
    ) as raised:
        adco.pretrain(**settings(photos, tmp_path / "run", **more))
    report(says=raised.value)
    run = RunDirectory(tmp_path / "run")
    step = read_checkpoint(run.checkpoint)["global_step"]
    assert step in (1, 2)  # Lightning has the batch of the next step ready
    with pytest.raises(InputError, match=r"^4 of 24 files .*the checkpoint of step"):
        adco.pretrain(resume=run.path)
    assert read_checkpoint(run.checkpoint)["global_step"] == step
    for index in bad:
        shutil.copy(files(photos)[0], files(photos)[index])
    adco.pretrain(resume=run.path)
    assert run.is_finished


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_a_resumed_run_counts_the_damaged_images_it_met_before(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(photos)
    order = first_epoch()
    spoil(photos, [order[0], order[-1]])  # met in the first step and in the third
    more = {"workers": 0, "max_unreadable": 1 / 24}
    with monkeypatch.context() as patch:
        stop_at(1, patch)
        with pytest.raises(Interrupted):
            adco.pretrain(**settings(photos, tmp_path / "run", **more))
    assert list(recorded(RunDirectory(tmp_path / "run"))) == [order[0]]
    with pytest.raises(InputError, match=r"^2 of 24 files"):
        adco.pretrain(resume=tmp_path / "run")


class Failing:
    """A decoder over a file system that fails at the first attempts."""

    def __init__(self, times: int, number: int) -> None:
        self.times, self.number, self.calls, self.read = times, number, 0, decode.read_rgb

    def __call__(self, path: Path) -> np.ndarray:
        self.calls += 1
        if self.calls <= self.times:
            raise OSError(self.number, os.strerror(self.number), str(path))
        return self.read(path)


@pytest.mark.fault("a network file system fails for a moment")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_file_system_that_fails_for_a_moment_is_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("adco.data.sources.retry.time.sleep", pauses.append)
    source = opened(photos)
    (expected,) = source.load([3])
    monkeypatch.setattr(decode, "read_rgb", Failing(3, number))
    (found,) = source.load([3])
    np.testing.assert_array_equal(found, expected)
    assert pauses == sorted(pauses)
    assert len(pauses) == 3
    monkeypatch.setattr(decode, "read_rgb", Failing(4, number))
    with pytest.raises(damage.DamagedImage, match=os.strerror(number).lower()):
        list(source.load([3]))


def test_a_missing_file_is_not_tried_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(photos)
    failing = Failing(1, errno.ENOENT)
    monkeypatch.setattr(decode, "read_rgb", failing)
    with pytest.raises(damage.DamagedImage, match="no such file"):
        list(source.load([3]))
    assert failing.calls == 1


def test_a_damaged_image_is_left_out_of_an_evaluation(photos: Path) -> None:
    whole = opened(photos)
    rest = whole.subset([i for i in range(IMAGES) if i not in BAD])
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    more: dict[str, Any] = {"image_size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3, "batch_size": 2}
    expected = extract_features(backbone, rest, **more), pixel_features(rest, 8)
    spoil(photos)
    left_out = r"^4 of 24 files in .* cannot be read; left out of the evaluation: .*, … and 1 more$"
    with pytest.warns(UserWarning, match=left_out):
        found = extract_features(backbone, whole, **more, max_unreadable=0.2)
    with pytest.warns(UserWarning, match=left_out):
        pixels = pixel_features(whole, 8, max_unreadable=0.2)
    for one, other in zip((found, pixels), expected, strict=True):
        torch.testing.assert_close(one.features, other.features)
        assert torch.equal(one.labels, other.labels)
    with pytest.raises(InputError, match=r"^4 of 24 files in .*a share above max_unreadable 0.1: "):
        extract_features(backbone, whole, **more, max_unreadable=0.1)
    spoil(photos, range(IMAGES))
    with pytest.raises(InputError, match=r"^none of the 24 images of .* can be read$"):
        pixel_features(whole, 8, max_unreadable=1.0)
