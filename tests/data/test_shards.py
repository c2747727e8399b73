"""WebDataset shards, read by an index."""

import io
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adco.data.sources import tar_index
from adco.data.sources.open import open_source


def encoded(value: int, kind: str = "jpeg") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (9 + value, 12, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write(path: Path, files: dict[str, bytes], *, mode: Any = "w", kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards with two images each; the names in the second are long."""
    for i in range(3):
        files: dict[str, bytes] = {}
        for j in (1, 0):
            stem = f"{'x' * 150 if i == 1 else 'a'}/{i}{j}"
            files |= {f"{stem}.cls": f"{10 * j}\n".encode(), f"{stem}.JPG": encoded(2 * i + j)}
        write(tmp_path / "shards" / f"train-{i:04}.tar", files, kind=(tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[i % 2])
    return tmp_path / "shards"


def decoded(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content)))


PATTERNS = [
    "",
    "/train-*.tar",
    "/train-{0000..0002}.tar",
    "/train-{0002..0000}.tar",
    "/train-000{0,1,2}.tar",
    "/{train,train}-0001.tar",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_images_in_their_order(shards: Path, pattern: str) -> None:
    source = open_source(f"wds:{shards}{pattern}")
    order = [3, 2, 3, 2] if "train," in pattern else [1, 0, 3, 2, 5, 4]
    if "0002..0000" in pattern:  # downwards, as in a shell
        order = [5, 4, 3, 2, 1, 0]
    assert len(source) == len(order)
    for found, number in zip(source.load(range(len(source))), order, strict=True):
        np.testing.assert_array_equal(found, decoded(encoded(number)))
    assert source.classes == ("0", "10")
    assert source.labels is not None
    assert source.labels.tolist() == [number % 2 for number in order]
    assert source.smallest_side == 9 + min(order) if min(order) < 3 else 12


def test_any_image_in_any_order_by_threads_and_copies(shards: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(f"wds:{shards}").subset([4, 1, 3])))
    assert len(pickle.dumps(source)) < 10_000
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: next(iter(source.load([index]))), [2, 0, 1] * 40))
    for image, number in zip(found, [2, 5, 0] * 40, strict=True):
        np.testing.assert_array_equal(image, decoded(encoded(number)))


def test_labels_in_json_and_samples_without_an_image(tmp_path: Path) -> None:
    files = {
        "0.json": json.dumps({"label": "dog", "width": 3}).encode(),
        "0.png": encoded(0, "png"),
        "0.seg.png": encoded(9, "png"),
        "1.txt": b"a caption alone",
        "2.webp": encoded(2, "webp"),
        "2.json": json.dumps({"label": None}).encode(),
        "folder.d/3.png": encoded(3, "png"),
        "folder.d/3.json": json.dumps({"label": "cat"}).encode(),
        "__key__": b"no sample",
        ".hidden.png": b"no sample",
    }
    source = open_source(f"wds:{write(tmp_path / 'a.tar', files)}")
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [1, -1, 0]
    assert [len(image) for image in source.load(range(3))] == [9, 11, 12]
    assert source.description.endswith("3 images, 2 classes (1 image without one); 1 sample without an image left out")


def test_the_index_is_made_once_for_each_state_of_a_shard(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    samples = tar_index._samples

    def noted(path: str) -> Any:
        read.append(Path(path).name)
        return samples(path)

    monkeypatch.setattr(tar_index, "_samples", noted)
    for _ in range(2):
        open_source(f"wds:{shards}")
    assert read == [f"train-{i:04}.tar" for i in range(3)]
    before = open_source(f"wds:{shards}")
    next(iter(before.load([2])))
    changed = write(shards / "train-0001.tar", {"b.png": encoded(7, "png"), "c.png": encoded(8, "png")})
    os.utime(changed, ns=(1, 1))
    source = open_source(f"wds:{shards}")
    assert read[3:] == ["train-0001.tar"]
    assert [len(image) for image in source.load([2, 3])] == [16, 17]


def test_a_damaged_cache_is_made_again(shards: Path, own_cache: Path) -> None:
    open_source(f"wds:{shards}")
    cached = list((own_cache / "adco" / "shards").iterdir())
    assert len(cached) == 3
    for path in cached:
        path.write_bytes(path.read_bytes()[:40])
    assert len(open_source(f"wds:{shards}")) == 6


def test_what_is_wrong_with_shards_is_one_line(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "train-0000.tar").read_bytes()
    cut = shards / "cut.tar"
    cut.write_bytes(whole[: whole.index(encoded(0)) + 100])
    second = whole.index(b"a/01.JPG")  # the header of a file begins with its name
    damaged = whole[:second] + b"?" + whole[second + 1 :]
    for name, content in (("header", whole[: second + 100]), ("between", whole[:second]), ("damaged", damaged)):
        (shards / f"{name}.tar").write_bytes(content)
    (tmp_path / "empty").mkdir()
    for data, message in [
        (f"{shards}/no-*.tar", r"there is no file .*no-\*\.tar"),
        (f"{shards}/train-{{0001..0005}}.tar", r"there is no file .*train-0003\.tar and 2 more"),
        (f"{tmp_path}/empty", r"there is no file .*\*\.tar"),
        ("https://host/a.tar", "is not on this machine: only local shards"),
        ("pipe:aws s3 cp a.tar -", "is not on this machine: only local shards"),
        (str(cut), r"cut\.tar is not an uncompressed tar file, or is cut off: unexpected end of data"),
        *(
            (f"{shards}/{name}.tar", rf"is cut off: neither a file nor the end mark is at byte {second}$")
            for name in ("header", "between", "damaged")
        ),
        (str(write(tmp_path / "z.tar", {"a.png": b"1"}, mode="w:gz")), "z.tar is not an uncompressed tar file"),
        (str(write(tmp_path / "e.tar", {"a.txt": b"1"})), "has 1 shard without images$"),
        (str(write(tmp_path / "j.tar", {"a.json": b"{"})), r"j\.tar: a\.json is not the text of a label: Expe"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            open_source(f"wds:{data}")
        assert str(error.value).startswith("data 'wds:")
        assert "\n" not in str(error.value)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "a.tar", {"a/0.png": encoded(0, "png"), "a/1.png": b"no image"})
    source = open_source(f"wds:{data}")
    with pytest.raises(ValueError, match=r"^a/1\.png in .*a\.tar cannot be read: not an image$"):
        list(source.load([1]))
    data.write_bytes(data.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"^the image at byte \d+ of .*a\.tar cannot be read: the tar file ends after"):
        list(source.load([1]))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux tells which files are open")
def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    for i in range(150):
        write(tmp_path / f"{i:03}.tar", {f"{i}.png": encoded(0, "png")})
    source = open_source(f"wds:{tmp_path}")
    assert sum(1 for _ in source.load(range(150))) == 150
    opened = [path for path in Path("/proc/self/fd").iterdir() if path.resolve().suffix == ".tar"]
    assert 0 < len(opened) <= 128
