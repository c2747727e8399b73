"""`adco neighbors`: the right images, in tables and in pictures."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]

import adco
from adco.cli import main as cli
from adco.embeddings.sheet import TILE, draw_sheet, place
from adco.errors import InputError
from photographs import NETWORK, photograph, write_photographs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "photos", range(30))
    return tmp_path / "photos"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_each_image_has_the_neighbours_that_scikit_learn_finds(photos: Path, tmp_path: Path) -> None:
    found = adco.neighbors(data=photos, k=4, out=tmp_path / "table.csv", **NETWORK)
    embeddings = adco.embed(data=photos, **NETWORK)
    oracle = NearestNeighbors(n_neighbors=4, metric="cosine").fit(embeddings.embeddings.astype(np.float64))
    distances, neighbors = oracle.kneighbors()
    assert found.rows.tolist() == neighbors.tolist()
    np.testing.assert_allclose(found.similarities, 1 - distances, atol=1e-5)
    table = rows_of(tmp_path / "table.csv")
    assert list(table[0]) == ["path", "rank", "neighbor", "similarity"]
    assert [row["path"] for row in table[::4]] == embeddings.paths
    assert [row["rank"] for row in table[:4]] == ["1", "2", "3", "4"]
    assert [row["neighbor"] for row in table] == [embeddings.paths[row] for row in neighbors.ravel()]


def test_paths_with_any_characters_come_back(tmp_path: Path) -> None:
    names = ["a,b", 'c"d', "e\nf", "g\rh", "i\r\nj", "k漢字", "<b>", "=1+1"]
    write_photographs(tmp_path / "plain", range(len(names)))
    (tmp_path / "odd").mkdir()
    for file, name in zip(sorted((tmp_path / "plain").iterdir()), names, strict=True):
        file.rename(tmp_path / "odd" / f"{name}{file.suffix}")
    found = adco.neighbors(data=tmp_path / "odd", k=2, out=tmp_path / "table.csv", **NETWORK)
    table = rows_of(tmp_path / "table.csv")
    assert {Path(row["path"]).stem for row in table} == set(names)
    assert [row["neighbor"] for row in table] == [found.paths[row] for row in found.rows.ravel()]


def test_a_table_may_be_parquet(photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = adco.neighbors(data=photos, k=2, out=tmp_path / "table.parquet", **NETWORK)
    table = parquet.read_table(tmp_path / "table.parquet").to_pydict()
    assert table["neighbor"] == [found.paths[row] for row in found.rows.ravel()]
    assert table["similarity"] == pytest.approx(found.similarities.ravel().tolist())


def test_an_altered_image_finds_its_original(photos: Path, tmp_path: Path) -> None:
    query = tmp_path / "query.jpg"
    Image.fromarray(photograph(17)).save(query, quality=80)
    found = adco.neighbors(data=photos, query=query, k=3, **NETWORK)
    assert Path(found.paths[found.rows[0, 0]]).name == "0017.png"


def test_a_query_may_be_a_folder_of_one_image(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "query").mkdir()
    Image.fromarray(photograph(17)).save(tmp_path / "query" / "copy.png")
    found = adco.neighbors(data=photos, query=tmp_path / "query", k=3, **NETWORK)
    assert [Path(path).name for path in found.queries] == ["copy.png"]
    assert Path(found.paths[found.rows[0, 0]]).name == "0017.png"


def test_an_image_of_the_data_is_not_its_own_neighbour(photos: Path) -> None:
    alone = adco.neighbors(data=photos, query=photos / "0005.png", k=29, **NETWORK)
    assert 5 not in alone.rows[0]
    assert alone.rows[0].tolist() == adco.neighbors(data=photos, k=29, **NETWORK).rows[5].tolist()


def test_a_damaged_image_in_the_middle_shifts_nothing(photos: Path) -> None:
    whole = adco.neighbors(data=photos, k=5, **NETWORK)
    (photos / "0010.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"0010\.png"):
        damaged = adco.neighbors(data=photos, k=4, max_unreadable=0.5, **NETWORK)
    for path, rows in zip(damaged.queries, damaged.rows, strict=True):
        before = [whole.paths[row] for row in whole.rows[whole.queries.index(path)]]
        expected = [neighbor for neighbor in before if not neighbor.endswith("0010.png")][:4]
        assert [damaged.paths[row] for row in rows] == expected


@pytest.mark.slow
def test_a_file_of_embeddings_gives_the_same_without_a_backbone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = adco.neighbors(data=photos, k=3, **NETWORK)
    file = str(tmp_path / "photos.npz")
    network = [f"--{name}={value}" for name, value in NETWORK.items()]
    assert cli.run(["embed", "--data", str(photos), "--out", file, *network]) == 0
    monkeypatch.setattr("adco.embeddings.collection.open_subject", None)
    found = adco.neighbors(embeddings=file, k=3, sheet=tmp_path / "sheet.png")
    assert found.rows.tolist() == direct.rows.tolist()
    assert (tmp_path / "sheet.png").is_file()


def test_a_query_is_compared_with_embeddings_of_the_same_backbone_only(photos: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "photos.npz")
    network = [f"--{name}={value}" for name, value in NETWORK.items()]
    assert cli.run(["embed", "--data", str(photos), "--out", file, *network]) == 0
    query = str(photos / "0003.png")
    assert Path(adco.neighbors(embeddings=file, query=query, k=1, **NETWORK).queries[0]).name == "0003.png"
    with pytest.raises(InputError, match="has the embeddings of another backbone or image size"):
        adco.neighbors(embeddings=file, query=query, **{**NETWORK, "image_size": 64})


def test_a_sheet_shows_the_query_and_then_its_neighbours(photos: Path, tmp_path: Path) -> None:
    found = adco.neighbors(data=photos, query=photos / "0005.png", k=3, sheet=tmp_path / "sheet.png", **NETWORK)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    expected = [5, *found.rows[0].tolist()]
    for column, number in enumerate(expected):
        left, top = place(0, column)
        tile = Image.fromarray(photograph(number)).resize((TILE, TILE), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(sheet[top : top + TILE, left : left + TILE], np.asarray(tile))


def test_a_sheet_keeps_proportions_and_has_a_text_below() -> None:
    red, grey = np.full((20, 40, 3), (255, 0, 0), np.uint8), np.full((30, 30, 1), 100, np.uint8)
    sheet = np.asarray(draw_sheet([[(red, "a"), (grey, "a" * 100)], [(red, "")]]))
    (left, top), (next_left, _), (_, next_top) = place(0, 0), place(0, 1), place(1, 0)
    tile = sheet[top : top + TILE, left : left + TILE]
    assert (tile[: TILE // 4] == 255).all()
    assert (tile[TILE // 4 : 3 * TILE // 4] == (255, 0, 0)).all()
    assert (sheet[top : top + TILE, next_left : next_left + TILE] == 100).all()
    texts = sheet[top + TILE : next_top]
    assert (texts[:, left : left + TILE] < 128).any()
    assert (texts[:, next_left + TILE :] == 255).all()  # shortened
    assert (sheet[next_top + TILE :] == 255).all()


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"out": "table.txt"}, r"out table\.txt must end with \.csv, \.parquet"),
    ({"sheet": "sheet.pdf"}, r"sheet sheet\.pdf must end with \.jpg, \.jpeg, \.png, \.webp"),
    ({"out": "/proc/none/table.csv"}, r"out /proc/none/table\.csv cannot be written .*: choose another --out"),
    ({"k": 0}, "k 0 must be at least 1"),
    ({"query": "nowhere.jpg"}, r"^query nowhere\.jpg: data 'nowhere\.jpg' does not exist$"),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES)
def test_a_mistake_is_one_line(photos: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        adco.neighbors(data=photos, **settings, **NETWORK)
    assert "\n" not in str(error.value)


def test_a_file_that_exists_is_kept(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(InputError, match="exists: delete it, or choose another --out"):
        adco.neighbors(data=photos, out=tmp_path / "table.csv", **NETWORK)
    assert (tmp_path / "table.csv").read_text() == "mine"
