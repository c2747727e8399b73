"""`adco duplicates`: planted copies are found, other images are not, and the expected errors are right."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy.ndimage import zoom

import adco
from adco.cli import main as cli
from adco.data.sources.arrays import ArraySource
from adco.embeddings.agreement import agreements, thumbnail
from adco.embeddings.copies import KINDS, altered, copies_of
from adco.embeddings.duplicates import Duplicates
from adco.embeddings.groups import groups_of
from adco.embeddings.threshold import choose_threshold, fisher, fit_tail, given_threshold
from adco.errors import InputError
from photographs import NETWORK, photograph, write_photographs

FLAGS = [f"--{name}={value}" for name, value in NETWORK.items()]


def names_of(found: Duplicates) -> set[tuple[str, ...]]:
    return {tuple(sorted(Path(found.paths[index]).name for index in pair)) for pair in found.pairs}


# ---------------------------------------------------------------------------------------------------- groups


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda pair: pair[0] != pair[1])))
def test_groups_are_what_pairs_connect(pairs: list[tuple[int, int]]) -> None:
    group_of = {image: {image} for image in range(15)}
    for one, other in pairs:
        merged = group_of[one] | group_of[other]
        group_of |= dict.fromkeys(merged, merged)
    expected = sorted({tuple(sorted(group)) for group in group_of.values() if len(group) > 1})
    found = groups_of(np.array(pairs, np.int64).reshape(-1, 2), 15)
    assert [tuple(group.tolist()) for group in found] == expected


# ------------------------------------------------------------------------------------------------- agreement


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    pair = np.array([[0, 0]])
    return float(agreements(thumbnail(one)[None], thumbnail(other)[None], pair, "cpu")[0])


def correlation_by_loops(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of the details of two thumbnails, laid over each other as they are or mirrored."""

    def details(pixels: np.ndarray) -> np.ndarray:
        small = pixels.astype(np.float64).reshape(16, 2, 16, 2).mean((1, 3))
        found = np.empty((16, 16))
        for row in range(16):
            for column in range(16):
                around = small[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
                found[row, column] = small[row, column] - around.mean()
        return found.ravel()

    sides = (other, other[:, ::-1])
    return float(max(np.corrcoef(details(one), details(side))[0, 1] for side in sides))


def test_agreement_without_a_shift_is_a_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adco.embeddings.agreement.BOXES", [((0, 32), (0, 32))])
    for number in range(5):
        one, other = thumbnail(photograph(number)), thumbnail(photograph(number)[:, ::-1] // 2 + photograph(9) // 2)
        found = agreements(one[None], other[None], np.array([[0, 0]]), "cpu")[0]
        assert found == pytest.approx(correlation_by_loops(one, other), abs=1e-4)


def test_agreement_is_symmetric_and_high_only_for_the_same_picture() -> None:
    image = photograph(0)
    same = {
        "mirrored": image[:, ::-1],
        "crop": image[5:62, 2:60],
        "smaller": np.asarray(Image.fromarray(image).resize((40, 50))),
        "brighter": np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.1)),
        "grey": zoom(image.mean(2, keepdims=True), (2, 2, 1), order=1).astype(np.uint8),
    }
    for name, copy in same.items():
        assert agreement(image, copy) > 0.85, name
        assert agreement(copy, image) == pytest.approx(agreement(image, copy), abs=1e-5), name
    for number in range(1, 20):
        assert agreement(image, photograph(number)) < 0.6


def test_images_without_detail_agree_only_if_they_are_equal() -> None:
    white, black = np.full((9, 9, 3), 255, np.uint8), np.zeros((9, 9, 3), np.uint8)
    assert agreement(white, white) == 1
    assert agreement(white, black) == 0
    assert agreement(white, photograph(0)) < 0.1


# ---------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_altered_and_the_same_each_time(kind: str, channels: int) -> None:
    images = np.stack([np.resize(photograph(number), (64, 64, channels)) for number in range(3)])
    source = ArraySource("images", images, None, ())
    copies, again = copies_of(source, kind, 0), copies_of(source, kind, 0).subset([2, 0])
    found = list(copies.load([0, 1, 2]))
    for one, other in zip((found[2], found[0]), again.load([0, 1]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {copy.shape[2] for copy in found} == {channels}
    assert any(
        copy.shape != image.shape or (copy != image).any() for copy, image in zip(found, images, strict=True)
    )  # a copy resized to 99.9 % is the image
    assert (
        any(
            one.shape != other.shape or (one != other).any()
            for one, other in zip(found, copies_of(source, kind, 1).load([0, 1, 2]), strict=True)
        )
        or kind == "flip"
    )


def test_a_crop_is_a_part_of_the_image() -> None:
    image = np.arange(100 * 50 * 3, dtype=np.uint32).reshape(100, 50, 3).astype(np.uint8)
    crop = altered(image, "crop", np.array([0.0, 0.5, 1.0, 0.0]))  # 82 % across at the right, 91 % down at the top
    np.testing.assert_array_equal(crop, image[:91, 9:])


# ------------------------------------------------------------------------------------------------- threshold


def exponential(count: int, scale: float) -> np.ndarray:
    """Agreements whose Fisher's z has exactly an exponential distribution."""
    return np.tanh(-scale * np.log((np.arange(count) + 0.5) / count))


def test_the_expected_number_of_false_pairs_is_that_of_the_distribution() -> None:
    pairs = exponential(100_000, 0.15)
    tail = fit_tail(pairs, below=0.9)
    assert tail is not None
    for agreed in (0.5, 0.7, 0.8, 0.85):
        assert float(tail.above(agreed)) == pytest.approx((pairs >= agreed).sum(), rel=0.05, abs=1)
    assert tail.where(1) == pytest.approx(np.tanh(0.15 * np.log(100_000)), abs=0.003)


@pytest.mark.parametrize("duplicates", [0, 50, 5_000, 50_000])
def test_duplicates_in_the_data_do_not_change_what_is_expected(duplicates: int) -> None:
    others = exponential(100_000, 0.15)
    copies = np.linspace(0.9, 1, 500)
    choice = choose_threshold({"crop": copies}, np.concatenate([others, np.linspace(0.92, 1, duplicates)]))
    assert choice.false == pytest.approx(min((others >= choice.threshold).sum(), choice.found), abs=5)
    assert choice.false is not None
    assert choice.false <= max(0.05 * choice.found, 0.05) + 1e-9
    if duplicates >= 5_000:  # so many that a few false pairs do not matter
        assert choice.threshold == np.quantile(copies, 0.01, method="lower")
        assert choice.recall == {"crop": pytest.approx(0.99, abs=0.003)}
    if not duplicates:
        assert choice.found == 0


def test_a_copy_that_is_not_among_the_neighbours_is_missed() -> None:
    copies = {"crop": np.array([0.9, 0.99, np.nan, np.nan]), "flip": np.array([np.nan] * 4)}
    choice = choose_threshold(copies, exponential(1000, 0.05))
    assert choice.recall == {"crop": 0.5, "flip": 0.0}


def test_images_that_look_like_each_others_copies_raise_the_threshold() -> None:
    """The agreement of copies reaches down into that of most other images, as for tiny digits."""
    others = np.tanh(np.random.default_rng(0).normal(1.2, 0.3, 20_000))
    choice = choose_threshold({"crop": np.linspace(0.6, 1, 500)}, others)
    assert choice.found < 20
    assert choice.threshold > 0.95


def test_few_pairs_have_no_expectation() -> None:
    choice = choose_threshold({"crop": np.linspace(0.9, 1, 101)}, np.array([0.3, 0.95]))
    assert (choice.found, choice.false) == (1, None)
    assert choice.threshold == pytest.approx(0.901)  # all but the lowest of 101 copies


def test_a_given_threshold_is_kept() -> None:
    pairs = exponential(10_000, 0.15)
    choice = given_threshold(0.8, pairs)
    assert (choice.threshold, choice.recall, choice.found) == (0.8, {}, (pairs >= 0.8).sum())
    assert choice.false == pytest.approx(choice.found, abs=2)
    assert fisher(1.0) < 20


# ------------------------------------------------------------------------------------------------ end to end


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty photographs, and copies of some."""
    folder = tmp_path / "photos"
    write_photographs(folder, range(40))
    shutil.copy(folder / "0007.png", folder / "exact.png")
    shutil.copy(folder / "0007.png", folder / "exact2.png")
    Image.fromarray(photograph(20)[2:62, 4:]).save(folder / "crop.png")
    Image.fromarray(photograph(30)).save(folder / "jpeg.jpg", quality=60)
    return folder


PLANTED = {
    ("0007.png", "exact.png"),
    ("0007.png", "exact2.png"),
    ("exact.png", "exact2.png"),
    ("0020.png", "crop.png"),
    ("0030.png", "jpeg.jpg"),
}


@pytest.mark.slow
def test_planted_copies_are_found_and_nothing_else(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "table.csv", tmp_path / "sheet.png"
    assert cli.run(["duplicates", "--data", str(photos), "--out", str(out), "--sheet", str(sheet), *FLAGS]) == 0
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {tuple(sorted(Path(row[c]).name for c in ("path", "duplicate"))) for row in table} == PLANTED
    assert table[0]["agreement"] == "1.000000"
    assert len({row["group"] for row in table}) == 3
    summary = json.loads(out.with_suffix(".json").read_text())
    assert (summary["images"], summary["pairs"], summary["groups"], summary["images_in_groups"]) == (44, 5, 3, 7)
    assert set(summary["recall_of_copies"]) == set(KINDS)
    assert min(summary["recall_of_copies"].values()) > 0.8
    assert summary["expected_false_pairs"] <= 0.25
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "5 pairs in 3 groups: 7 of 44 images"
    assert said[1].startswith(f"threshold: agreement {summary['threshold']:.3f}; expected false pairs: 0.")
    assert said[2].startswith("altered copies of 44 images found (%): crop ")
    height = 6 + 3 * (112 + 18 + 6)  # three groups
    with Image.open(sheet) as opened:
        assert opened.size == (6 + 3 * (112 + 6), height)


@pytest.mark.slow
def test_a_damaged_image_in_the_middle_shifts_nothing(photos: Path) -> None:
    (photos / "0012.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"0012\.png"):
        found = adco.duplicates(data=photos, max_unreadable=0.5, **NETWORK)
    assert names_of(found) == PLANTED


@pytest.mark.slow
def test_leaks_between_two_folders_are_found(photos: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    write_photographs(test, range(100, 130))
    Image.fromarray(photograph(3)[:, ::-1]).save(test / "mirrored.png")
    shutil.copy(test / "0110.png", test / "0110 again.png")  # a duplicate, but not between the folders
    sheet = tmp_path / "sheet.png"
    found = adco.duplicates(data=photos, against=test, sheet=sheet, **NETWORK)
    assert names_of(found) == {("0003.png", "mirrored.png")}
    ((one, other),) = found.pairs
    assert Path(found.paths[one]).parent == photos
    assert Path(found.paths[other]).parent == test
    assert sheet.is_file()


@pytest.mark.slow
def test_a_file_of_embeddings_gives_the_same(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = adco.duplicates(data=photos, **NETWORK)
    file = str(tmp_path / "photos.npz")
    assert cli.run(["embed", "--data", str(photos), "--out", file, *FLAGS]) == 0
    filed = adco.duplicates(embeddings=file, **NETWORK)
    assert filed.choice == direct.choice
    np.testing.assert_array_equal(filed.pairs, direct.pairs)
    with pytest.raises(InputError, match="another backbone or image size"):
        adco.duplicates(embeddings=file, **{**NETWORK, "image_size": 64})
    monkeypatch.setattr("adco.embeddings.collection.open_subject", None)  # with a threshold, no backbone is needed
    chosen = adco.duplicates(embeddings=file, threshold=direct.choice.threshold)
    np.testing.assert_array_equal(chosen.pairs, direct.pairs)
    (photos / "0002.png").unlink()
    with pytest.raises(InputError, match=r"names images that are no files, such as .*0002\.png: give --data instead"):
        adco.duplicates(embeddings=file, threshold=0.9)


@pytest.mark.slow
def test_images_may_be_given_from_python() -> None:
    images = np.stack([*map(photograph, range(30)), photograph(4)[:, ::-1]])
    found = adco.duplicates(data=images, **NETWORK)
    assert found.pairs.tolist() == [[4, 30]]
    assert [group.tolist() for group in found.groups] == [[4, 30]]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"threshold": 0.0}, r"threshold 0\.0 must be above 0 and at most 1"),
    ({"out": "table.json"}, r"out table\.json must end with"),
    ({"against": "nowhere"}, "data 'nowhere' is neither a folder nor"),
    ({"embeddings": "a.npz"}, r"take the images either from --embeddings a\.npz or from --data"),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES)
def test_a_mistake_is_one_line(photos: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        adco.duplicates(data=photos, **settings, **NETWORK)
    assert "\n" not in str(error.value)


def test_nothing_is_written_over_a_summary_that_exists(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("mine")
    with pytest.raises(InputError, match=r"table\.json exists"):
        adco.duplicates(data=photos, out=tmp_path / "table.csv", **NETWORK)
    assert not (tmp_path / "table.csv").exists()
