"""Embeddings in arrays and files: the right image, the right label, whatever happened on the way."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import adco
from adco.cli import main as cli
from adco.config.commands import EmbedSettings
from adco.data.damage import DamagedImage
from adco.data.sources.folder import FolderSource
from adco.embeddings import blocks, embed
from adco.embeddings.embed import embed_to_file
from adco.embeddings.formats import READERS, read_embeddings
from adco.embeddings.parts import Parts
from adco.errors import InputError
from adco.evaluation.subject import open_subject

SIDE = 16  # px


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small ResNet with timm's names, as of another program."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(network.state_dict(), file)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty images of different sizes in three classes."""
    rng = np.random.default_rng(0)
    for number in range(30):
        folder = tmp_path / "photos" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(16, 40, 2)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).resize((int(width) * 2, int(height) * 2)).save(folder / f"{number:02}.png")
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight images, two batches each."""
    for module in (blocks, embed):
        monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(blocks, "BATCH", 4)


def settings(weights: Path, data: Path | str, **more: Any) -> dict[str, Any]:
    return {
        "backbone": "test_resnet",
        "weights": str(weights),
        "data": str(data),
        "image_size": SIDE,
        "device": "cpu",
        **more,
    }


def by_hand(weights: Path, photos: Path) -> dict[str, np.ndarray]:
    """Embed every file on its own with timm and torchvision."""
    network = timm.create_model("test_resnet", num_classes=0, checkpoint_path=str(weights)).eval()
    found = {}
    for path in sorted(photos.rglob("*.png")):
        image = Image.open(path).convert("RGB")
        side = min(image.size) * 224 / 256
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
        pixels = (np.asarray(image) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        with torch.no_grad():
            found[str(path)] = network(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None])[0].numpy()
    return found


def test_each_image_has_its_path_its_label_and_its_embedding(weights: Path, photos: Path) -> None:
    found = adco.embed(**settings(weights, photos, stem="standard"))
    expected = by_hand(weights, photos)
    assert found.paths == sorted(expected)
    np.testing.assert_allclose(found.embeddings, np.stack([expected[path] for path in found.paths]), atol=1e-5)
    assert found.embeddings.dtype == np.float32
    assert found.labels is not None
    assert [found.classes[label] for label in found.labels] == [Path(path).parent.name for path in found.paths]
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("suffix", READERS)
def test_every_format_is_read_by_others_and_by_us(weights: Path, photos: Path, tmp_path: Path, suffix: str) -> None:
    arrays = adco.embed(**settings(weights, photos))
    out = embed_to_file(None, EmbedSettings(**settings(weights, photos, out=str(tmp_path / f"e{suffix}"))))
    names = [arrays.classes[label] for label in np.asarray(arrays.labels).tolist()]
    if suffix == ".npz":
        with np.load(out) as file:
            paths, labels, values = file["paths"].tolist(), file["classes"][file["labels"]].tolist(), file["embeddings"]
    elif suffix == ".csv":
        with out.open(newline="") as text:
            rows = list(csv.DictReader(text))
        paths, labels = [row["path"] for row in rows], [row["label"] for row in rows]
        values = np.array([[row[f"e{i}"] for i in range(arrays.embeddings.shape[1])] for row in rows], np.float32)
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        paths, labels = table["path"].to_pylist(), table["label"].to_pylist()
        values = np.array(table["embedding"].to_pylist(), np.float32)
    assert (paths, labels) == (arrays.paths, names)
    np.testing.assert_array_equal(values, arrays.embeddings)
    again = read_embeddings(out)
    assert again.paths == arrays.paths
    np.testing.assert_array_equal(again.embeddings, arrays.embeddings)
    np.testing.assert_array_equal(np.asarray(again.labels), np.asarray(arrays.labels))
    assert again.classes == arrays.classes
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "photos"]


def test_images_without_classes_have_no_labels(weights: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 20, 20, 3), np.uint8)
    given = settings(weights, "")
    del given["data"]
    arrays = adco.embed(data=images, **given)
    assert (arrays.paths, arrays.labels, arrays.classes) == ([str(i) for i in range(9)], None, ())
    for number, image in enumerate(images):
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "flat" / f"{number}.png")
    for suffix in READERS:
        out = tmp_path / f"e{suffix}"
        embed_to_file(None, EmbedSettings(**settings(weights, tmp_path / "flat", out=str(out))))
        again = read_embeddings(out)
        assert again.labels is None
        np.testing.assert_allclose(again.embeddings, arrays.embeddings, atol=1e-5)


def test_an_unreadable_file_is_named_and_shifts_nothing(weights: Path, photos: Path, tmp_path: Path) -> None:
    expected = by_hand(weights, photos)
    for name in ("b/13.png", "c/14.png"):
        (photos / name).write_bytes(b"no image")
        del expected[str(photos / name)]
    given = settings(weights, photos, stem="standard", max_unreadable=0.1)
    with pytest.warns(UserWarning, match=r"2 of 30 .*13\.png .*14\.png"):
        found = adco.embed(**given)
    assert found.paths == sorted(expected)
    for path, values in zip(found.paths, found.embeddings, strict=True):
        np.testing.assert_allclose(values, expected[path], atol=1e-5)


def test_files_that_turn_bad_later_are_left_out_and_counted(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder of which only a sample has been decoded when it was opened: a block of bad files, and one more."""
    load = FolderSource.load
    bad = {path.name for path in photos.rglob("*.png") if int(path.stem) in (8, 9, 10, 11, 12, 13, 14, 15, 21)}

    def damaged(self: FolderSource, indices: Any) -> Any:
        for index in indices:
            if self.paths[index].name in bad:
                raise DamagedImage(self.paths[index], "made so")
            yield from load(self, [index])

    monkeypatch.setattr(FolderSource, "load", damaged)
    given = settings(weights, photos, max_unreadable=0.5)
    with pytest.warns(UserWarning, match=r"9 of 30 files .* cannot be read; left out: .*made so"):
        found = adco.embed(**given)
    assert {Path(path).name for path in found.paths} == {path.name for path in photos.rglob("*.png")} - bad
    assert {file.path.name for file in found.unreadable} == bad
    with pytest.raises(InputError, match=r"9 of 30 .* a share above max_unreadable 0\.1: .*raise --max_unreadable"):
        adco.embed(**settings(weights, photos, max_unreadable=0.1))


@pytest.mark.fault("adco embed is stopped by Ctrl-C")
def test_an_interrupted_embedding_goes_on(
    weights: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    report: Callable[..., None],
) -> None:
    whole = embed_to_file(None, EmbedSettings(**settings(weights, photos, out=str(tmp_path / "whole.npz"))))
    given = settings(weights, photos, out=str(tmp_path / "e.npz"))
    asked = ["embed", *(f"--{name}={value}" for name, value in given.items())]
    written = list[int]()
    write = Parts.write

    def stopped(self: Parts, block: blocks.Block) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(block.number)
        write(self, block)

    monkeypatch.setattr(Parts, "write", stopped)
    assert cli.run(asked) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "adco: stopped; the same command continues from there"
    report(says=line)
    assert not (tmp_path / "e.npz").exists()
    with pytest.raises(InputError, match=r"parts belongs to an embedding with another image_size: delete it, or"):
        embed_to_file(None, EmbedSettings(**settings(weights, photos, out=str(tmp_path / "e.npz"), image_size=24)))

    def noted(self: Parts, block: blocks.Block) -> None:
        written.append(block.number)
        write(self, block)

    monkeypatch.setattr(Parts, "write", noted)
    assert cli.run(asked) == 0
    assert written == [0, 1, 2, 3]
    assert "16 of 30 images are done" in capsys.readouterr().err
    assert (tmp_path / "e.npz").read_bytes() == whole.read_bytes()
    assert not (tmp_path / "e.npz.parts").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": None}, "give --out, the file to write: FILE.parquet, FILE.npz or FILE.csv"),
        ({"out": "e.txt"}, r"out .*e\.txt must end with .npz, .parquet, .csv"),
        ({"out": "there.npz"}, r"out there\.npz exists: delete it, or choose another --out"),
        ({"split": "test"}, "has no test split"),
        ({"weights": None, "backbone": "resnet19"}, "backbone 'resnet19' is not a timm model"),
        ({"data": None}, "needs --data: the images to use it on"),
        ({"devices": 5000, "device": None}, "devices 5000 is more than the .* of this machine"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.npz").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as raised:
        embed_to_file(None, EmbedSettings(**settings(weights, photos, out="e.npz") | changed))
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_diverged_backbone_is_told(weights: Path, photos: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :4] * float("nan")

    subject = open_subject(EmbedSettings(**settings(weights, photos)), None, embed._opener(EmbedSettings(), None))
    object.__setattr__(subject, "backbone", Broken())
    with pytest.raises(InputError, match=r"embeddings of 8 of 8 images of .*photos are NaN or infinite"):
        list(blocks.embed_blocks(subject, subject.sources[0], [0], "cpu"))


@pytest.mark.slow
def test_several_processes_write_the_same_file(photos: Path, tmp_path: Path) -> None:
    """Two processes of torchrun, and one; the command is that of a shell."""
    files = []
    for processes, name in ((1, "one.npz"), (2, "two.npz")):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        flags = ["--backbone=resnet18", f"--data={photos}", f"--image_size={SIDE}", "--device=cpu"]
        command = [*launcher, "-m", "adco", "embed", *flags, f"--out={tmp_path / name}", f"--devices={processes}"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env=os.environ
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_that_was_cut_is_refused(weights: Path, photos: Path, tmp_path: Path, suffix: str) -> None:
    out = embed_to_file(None, EmbedSettings(**settings(weights, photos, out=str(tmp_path / f"e{suffix}"))))
    content = out.read_bytes()
    for kept in (0, len(content) // 2, len(content) - 3):
        out.write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"is not a file of adco embed, or is damaged") as raised:
            read_embeddings(out)
        assert "\n" not in str(raised.value)
