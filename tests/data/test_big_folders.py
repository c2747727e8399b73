"""Folders of more files than are decoded when they are opened: a sample, a check on request, paths in one array."""

import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adco.cli import main as cli
from adco.data.sources import decode, folder, survey
from adco.data.sources.folder import FolderSource
from adco.data.sources.listing import list_images
from adco.data.sources.open import open_source
from adco.data.sources.paths import Paths


def put(root: Path, *names: str, size: tuple[int, int] = (4, 3)) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "red").save(root / name)


def walk(root: Path) -> list[Path]:
    """The order of earlier versions: the files of a folder by name, then its folders by name."""
    files = sorted(p for p in root.iterdir() if p.is_file() and p.suffix == ".png")
    return files + [path for child in sorted(root.iterdir()) if child.is_dir() for path in walk(child)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded to get their sizes, in any order."""
    names: list[str] = []

    def counting(path: Path, read: object = decode.read_size) -> tuple[int, int]:
        names.append(path.name)
        return read(path)  # type: ignore[operator, no-any-return]

    monkeypatch.setattr(decode, "read_size", counting)
    return names


def test_the_order_of_images_is_that_of_earlier_versions(tmp_path: Path) -> None:
    names = ["b.png", "B.png", "10.png", "2.png", "é.png", "😀.png", "new\nline.png", os.fsdecode(b"\xff.png")]
    put(tmp_path, "one.png")
    for place in ("", "k", "k/deeper", "k-1", "K", "é"):
        for name in names:
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / place / name).hardlink_to(tmp_path / "one.png")
    assert list(list_images(tmp_path).images) == walk(tmp_path)


def test_paths_are_a_sequence() -> None:
    paths = Paths.below("/photos", "a.jpg\0cat/b.jpg\0ü.jpg\0".encode())
    whole = [Path("/photos/a.jpg"), Path("/photos/cat/b.jpg"), Path("/photos/ü.jpg")]
    assert list(paths) == whole
    assert (paths[-1], list(paths[1:]), list(paths.subset(np.array([2, 0])))) == (whole[2], whole[1:], whole[::-2])
    assert list(pickle.loads(pickle.dumps(paths))) == whole
    assert (len(Paths.below("/photos", b"")), list(paths.subset([]))) == (0, [])
    with pytest.raises(IndexError):
        paths[3]


def test_a_source_takes_little_more_memory_than_the_text_of_its_paths() -> None:
    names = "".join(f"class-{i % 100:03}/image-{i:06}.jpg\0" for i in range(100_000)).encode()
    labels = np.arange(100_000) % 100
    source = FolderSource("/photos", Paths.below("/photos", names), 96, 96, labels, ("a",) * 100, ())
    assert len(pickle.dumps(source)) < len(names) + 2_000_000


def test_of_many_files_a_sample_is_decoded_which_depends_only_on_their_number(
    tmp_path: Path, decoded: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "SAMPLE", 5)
    put(tmp_path, *(f"{i:02}.png" for i in range(20)))
    source = open_source(tmp_path)
    sample = sorted(decoded)
    assert (len(source), len(sample), source.shorter_side) == (20, 5, 3)
    for path in own_cache.rglob("*.npy"):
        path.unlink()
    decoded.clear()
    open_source(tmp_path)
    assert sorted(decoded) == sample
    decoded.clear()
    open_source(tmp_path)
    assert decoded == []


def test_the_sample_estimates_sides_and_the_share_of_damaged_files(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "SAMPLE", 5)
    put(tmp_path, *(f"{i:02}.png" for i in range(20)))
    open_source(tmp_path)
    sample = sorted(decoded)
    for name in sample[:3]:
        put(tmp_path, name, size=(9, 8))
    (tmp_path / sample[3]).write_text("damaged")
    other = next(path for path in sorted(tmp_path.iterdir()) if path.name not in sample)
    other.write_text("damaged too")
    with pytest.warns(
        UserWarning, match=rf"^1 of 5 files in .*, of 20 in all; left out: {sample[3]} \(not an image\)$"
    ):
        source = open_source(tmp_path, max_unreadable=0.2)
    assert (len(source), source.shorter_side, source.smallest_side) == (19, 8, 3)
    assert isinstance(source, FolderSource)
    assert other in source.paths
    with pytest.raises(ValueError, match=r"^1 of 5 .*max_unreadable 0.1: .*adco check .* lists all\. Repair"):
        open_source(tmp_path, max_unreadable=0.1)


def run_check(*arguments: str) -> int:
    return cli.run(["check", *arguments])


def test_check_reads_all_files_and_lists_the_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, *(f"{part}/{kind}/{i}.png" for part in ("train", "test") for kind in "ab" for i in range(3)))
    assert run_check(str(tmp_path)) == 0
    assert capsys.readouterr().out == f"12 of 12 files in {tmp_path} can be read\n"
    (tmp_path / "train/a/1.png").write_text("damaged")
    (tmp_path / "test/b/2.png").write_bytes(b"")
    assert run_check(str(tmp_path)) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/train/a/1.png: not an image",
        f"{tmp_path}/test/b/2.png: empty file",
        f"10 of 12 files in {tmp_path} can be read",
    ]


def test_an_interrupted_check_continues_where_it_stopped(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "PART", 4)
    put(tmp_path, *(f"{i:02}.png" for i in range(12)))
    images = list_images(tmp_path).images
    interrupted = survey.survey(tmp_path, images)
    assert [next(interrupted) for _ in range(6)] == [(3, 4)] * 6
    interrupted.close()  # type: ignore[attr-defined]
    decoded.clear()
    assert run_check(str(tmp_path)) == 0
    assert {"08.png", "09.png", "10.png", "11.png"} <= {*decoded}
    assert not {f"{i:02}.png" for i in range(6)} & {*decoded}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"give one folder: adco check FOLDER; it takes no flags \(got nothing\)"),
        (["a", "b"], r"give one folder: .*\(got a b\)"),
        (["--all"], r"give one folder: .*\(got --all\)"),
        (["nowhere"], "'nowhere' is not a folder: adco check needs a folder of images"),
    ],
)
def test_check_explains_a_mistake_in_one_line(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_check(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"^adco: {message}$", line)
