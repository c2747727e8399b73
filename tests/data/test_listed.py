"""Images that a file names, and images of several folders."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adco.data.sources.address import full_name, is_here, short_name
from adco.data.sources.open import open_source, open_splits


def put(path: Path, value: int) -> None:
    """An image whose red is the value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, 0, 0)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(("cats/1.png", "cats/2.png", "dogs/7, old.png", "dogs/8.png")):
        put(tmp_path / "photos" / name, 10 * i)
    return tmp_path / "photos"


def reds(data: str) -> list[int]:
    source = open_source(data)
    return [int(image[0, 0, 0]) for image in source.load(range(len(source)))]


def test_a_text_file_names_images(photos: Path) -> None:
    """In its own order, twice if it says so, relative to its folder or absolute."""
    file = photos.parent / "files.txt"
    file.write_text(f"photos/dogs/8.png\n\n  photos/cats/2.png\r\n{photos / 'dogs' / '7, old.png'}\nphotos/dogs/8.png")
    assert reds(f"list:{file}") == [30, 10, 20, 30]
    source = open_source(f"list:{file}")
    assert (source.labels, source.classes, source.shorter_side, source.smallest_side) == (None, (), 4, 4)
    assert source.description == f"list:{file}: 4 images, no classes"
    part = pickle.loads(pickle.dumps(source.subset([2, 0])))
    assert [int(image[0, 0, 0]) for image in part.load([1, 0])] == [30, 20]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("file", ["files.txt", "files.csv"])
def test_lines_end_with_a_line_feed_alone(tmp_path: Path, file: str, end: str) -> None:
    """Not with the other characters at which `str.splitlines` splits, which names may have."""
    names = [f"a{character}b.png" for character in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"]
    for value, name in enumerate(names):
        put(tmp_path / name, value)
    (tmp_path / file).write_bytes(end.join(names).encode())
    assert reds(f"list:{tmp_path / file}") == list(range(8))


TABLES = {
    "without a header": ('cats/1.png,cat\n"dogs/7, old.png",dog\ndogs/8.png,\ncats/2.png,cat\n', ["cat", "dog"]),
    "with one": (
        '\ufeffsize,Label,Path\n9,cat,cats/1.png\n3,dog,"dogs/7, old.png"\n4,,dogs/8.png\n,cat,cats/2.png',
        ["cat", "dog"],
    ),
    "with numbers": (
        'path,label\ncats/1.png,2\n"dogs/7, old.png",10\n\ndogs/8.png\ncats/2.png,2\n',
        ["2", "10"],
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_names_images_and_labels(photos: Path, kind: str) -> None:
    text, classes = TABLES[kind]
    (photos / "files.csv").write_text(text, encoding="utf-8")
    source = open_source(f"list:{photos / 'files.csv'}")
    assert reds(f"list:{photos / 'files.csv'}") == [0, 20, 30, 10]
    assert list(source.classes) == classes
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, -1, 0]
    assert source.subset([1, 3]).labels.tolist() == [1, 0]  # type: ignore[union-attr]
    assert source.description.endswith("4 images, 2 classes (1 image without one)")


def test_a_list_is_evaluated_on_a_part_that_is_held_out(photos: Path) -> None:
    rows = [f"{name},{name[:3]}" for name in ("cats/1.png", "cats/2.png", "dogs/7 old.png", "dogs/8.png")]
    (photos / "dogs" / "7, old.png").rename(photos / "dogs" / "7 old.png")
    (photos / "files.csv").write_text("\n".join(rows))
    train, test = open_splits(f"list:{photos / 'files.csv'}")
    assert (len(train), len(test)) == (2, 2)
    with pytest.raises(ValueError, match=r"data 'list:.*files\.csv' has no test split$"):
        open_source(f"list:{photos / 'files.csv'}", "test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"cats/1.png\n\ncats/3.png\n", r"line 3: there is no file cats/3\.png \(.*photos/cats/3\.png\)"),
        ("a.txt", b"", "names no images$"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read: it is not UTF-8 text"),
        (
            "a.csv",
            b"cats/1.png,a,b\n",
            "line 1: 3 columns without a header: the first row must be path,label, not cats/1.png,a,b$",
        ),
        ("a.csv", b"id,image,class\n1,cats/1.png,a\n", "line 1: 3 columns .* must be path,label, not id,image,class$"),
        *(
            ("a.csv", f"\n{header}\ncats/1.png,a\n".encode(), f"line 2: .*; if {header} is a header, it must be path,l")
            for header in ("image,class", "filename,label", "file,target", "File")
        ),
        *(
            ("a.csv", text.replace(";", mark).encode(), rf"line 1: .*; its delimiter is '{shown}', but must be ','")
            for text in ("path;label\ncats/1.png;a\n", "image;class\ncats/1.png;a\n", "cats/1.png;a\ncats/2.png;a\n")
            for mark, shown in ((";", ";"), ("\t", r"\\t"))
        ),
        ("a.csv", b"cats/1.png,a\ncats/3.png,a\n", r"line 2: there is no file cats/3\.png \(.*photos/cats/3\.png\)$"),
        ("a.csv", b"cats/3.png,a;b\ncats/1.png,a\n", "line 1: .*; if cats/3.png,a;b is a header, it must be"),
        ("a.tsv", b"cats/1.png\ta\ncats/2.png\ta\n", "line 1: .*; labels and a header need a .csv file$"),
        ("a.csv", b"label,path\ncat,cats/1.png\ndog\n", "line 3: there is no path"),
        ("a.csv", b"path,label\n\ncats/1.png,a\n,b\n", "line 4: there is no path"),
        ("a.csv", b'cats/1.png,a\n"cats/2.png,a\n', "line 2: unexpected end of data"),
        ("a.csv", b"path\ncats\ncats/1.png", "line 2: there is no file cats"),
    ],
)
def test_what_is_wrong_in_a_list_is_one_line_with_its_number(
    photos: Path, name: str, content: bytes, message: str
) -> None:
    (photos / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^data 'list:.*{name}',? .*{message}") as error:
        open_source(f"list:{photos / name}")
    assert "\n" not in str(error.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data 'list:.*no\.txt' cannot be read: No such file"):
        open_source(f"list:{tmp_path / 'no.txt'}")
    assert not is_here(f"list:{tmp_path / 'no.txt'}")


def test_a_listed_file_that_is_no_image(photos: Path) -> None:
    (photos / "notes.png").write_text("not an image")
    (photos / "files.txt").write_text("cats/1.png\nnotes.png")
    with pytest.raises(ValueError, match=r"notes\.png cannot be read: not an image"):
        reds(f"list:{photos / 'files.txt'}")
    assert open_source(f"list:{photos / 'files.txt'}").shorter_side == 4  # of the image that can be read
    (photos / "more.png").write_text("not an image")
    (photos / "files.txt").write_text("notes.png\nmore.png")
    with pytest.raises(ValueError, match=r"no image of .* can be read; one of them: .*png .*: not an image"):
        _ = open_source(f"list:{photos / 'files.txt'}").shorter_side


def test_several_folders_are_one_source(photos: Path) -> None:
    for i in range(3):
        put(photos.parent / "scans" / ("cats", "dogs", "dogs")[i] / f"{i}.png", 100 + i)
    data = f"folders:{photos},{photos.parent / 'scans'}/"
    assert reds(data) == [0, 10, 20, 30, 100, 101, 102]
    source = open_source(data)
    assert source.classes == ("cats", "dogs")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1, 1, 0, 1, 1]
    assert "7 images in 2 parts: " in source.description
    part = pickle.loads(pickle.dumps(source.subset(np.array([5, 1]))))
    assert [int(image[0, 0, 0]) for image in part.load([0, 1])] == [101, 10]
    assert part.labels.tolist() == [1, 0]
    train, test = open_splits(data)
    assert (len(train), len(test)) == (5, 2)


def test_folders_of_different_classes_have_no_labels(photos: Path) -> None:
    for i in range(2):
        put(photos.parent / "scans" / f"birds{i}" / "1.png", 100)
    source = open_source(f"folders:{photos},{photos.parent / 'scans'}")
    assert (source.labels, source.classes) == (None, ())
    assert "without classes, because those of the parts differ" in source.description
    with pytest.raises(ValueError, match="has no labels"):
        open_splits(f"folders:{photos},{photos.parent / 'scans'}")


def test_one_folder_is_not_several() -> None:
    with pytest.raises(ValueError, match="data 'folders:a/' must name two or more folders, with commas between them"):
        open_source("folders:a/")


def test_names_of_data(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    (photos / "files.txt").write_text("")
    assert full_name("list:files.txt") == f"list:{photos}/files.txt"
    assert full_name("folders:cats,dogs/") == f"folders:{photos}/cats,{photos}/dogs"
    assert full_name("cats/") == f"{photos}/cats"
    assert full_name("digits-validation") == "digits-validation"
    assert full_name("wds:cats/") == f"wds:{photos}/cats"
    assert full_name("wds:cats/../train-{0..2}*.tar") == f"wds:{photos}/train-{{0..2}}*.tar"
    assert full_name("folders:cats,dogs", Path("..")) == f"folders:{photos.parent}/cats,{photos.parent}/dogs"
    assert full_name("hf:cats") == f"hf:{photos}/cats"
    assert full_name("hf:cats/:train") == f"hf:{photos}/cats:train"
    assert [full_name(name) for name in ("hf:user/name", "hf:user/name:train")] == [
        "hf:user/name",
        "hf:user/name:train",
    ]
    names = ("list:files.txt", "folders:cats,dogs", ".", "digits", "list:some: where/my files", "hf:user/name:train")
    shown = ["files.txt", "dogs", "photos", "digits", "my_files", "name_train"]
    assert [short_name(name) for name in names] == shown
    here = ("folders:cats,dogs", "wds:cats", "wds:cats/{1..2}.png", "wds:*/1.png", "hf:cats", "hf:cats/:train")
    assert all(is_here(data) for data in here)
    assert not any(is_here(data) for data in ("folders:cats,birds", "wds:birds", "wds:birds/{1..2}.tar", "hf:birds:a"))
    with pytest.raises(ValueError, match="nor does it begin with folders:, list:"):
        open_source("lists:files.txt")
