"""The report: one file that asks for nothing else, and says what the run's own files say."""

import base64
import html
import io
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adco
import tiny
from adco.config.commands import ReportSettings
from adco.data.sources.arrays import ArraySource
from adco.embeddings.embeddings import Embeddings
from adco.errors import InputError
from adco.evaluation.subject import Subject
from adco.models.backbone import BackboneInfo, build_backbone
from adco.reporting.map import map_figure, positions
from adco.reporting.material import Material, thumbnail
from adco.reporting.report import report
from adco.reporting.tables import results_in
from adco.runs.directory import RunDirectory

pytest.importorskip("bokeh")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page(HTMLParser):
    """What a page contains: headings, addresses and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings, self.addresses, self._inside = list[str](), list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        if self._inside in ("h1", "h2") and data.strip():
            self.headings.append(data.strip())
        self._inside = ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    out = tmp_path_factory.mktemp("runs") / "few"
    run = RunDirectory(adco.pretrain(data="few", epochs=2, batch_size=20, out=out, **tiny.SETTINGS))
    adco.evaluate("knn", run.path, device="cpu")
    return run


@pytest.fixture(scope="module")
def written(run: RunDirectory) -> Path:
    return report(run.path, ReportSettings(images=60, device="cpu"))


@pytest.mark.slow
def test_a_report_is_one_small_file_that_asks_for_nothing_else(run: RunDirectory, written: Path) -> None:
    assert written == run.path / "report.html"
    assert written.stat().st_size < 5_000_000
    page = Page(written.read_text())
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert page.headings == [
        "few on few",
        "Training",
        "Map of the images",
        "Nearest neighbours",
        "Duplicates",
        "What the adversaries look like",
        "Results with labels",
        "Settings and versions",
    ]


@pytest.mark.slow
def test_it_says_what_the_files_of_the_run_say(run: RunDirectory, written: Path) -> None:
    text = written.read_text()
    last = [record for record in run.records() if "word" in record][-1]
    assert f"The last verdict is “{last['word']}”: {last['reason']}." in html.unescape(text)
    assert f"{[record['knn_top1'] for record in run.records() if 'knn_top1' in record][-1]:.1f} %" in text
    result = json.loads((run.results / "knn-few.json").read_text())
    assert f"<td>{result['top1']:.1f}</td>" in text
    assert "<td>adversary_temperature</td>" in text


def test_the_figures_of_a_probe_are_a_table(tmp_path: Path) -> None:
    entry = {"mean": 41.26, "interval": [39.04, 43.5], "top1": [41.26], "l2": [0.1]}
    result = {
        "data": "few",
        "evaluation": {"kind": "probe"},
        "points": [
            {"name": "1 per class", "labels": 10, "draws": 5},
            {"name": "100 %", "labels": 1234, "draws": 1},
        ],
        "networks": {
            "this backbone": [entry, {**entry, "mean": 70, "interval": [68, 72]}],
            "raw pixels": [{**entry, "mean": 12.3}, {**entry, "mean": 20}],
        },
    }
    file = tmp_path / "probe-few.json"
    file.write_text(json.dumps(result))
    section = results_in(tmp_path)
    assert section is not None
    (table,) = section.values["tables"]  # there is none of single accuracies
    assert table["columns"] == ["amount", "labels", "draws", "this backbone", "raw pixels"]
    assert table["rows"] == [
        ["1 per class", "10", "5", "41.3 (39.0 to 43.5)", "12.3 (39.0 to 43.5)"],
        ["100 %", "1,234", "1", "70.0 (68.0 to 72.0)", "20.0 (39.0 to 43.5)"],
    ]


def test_a_damaged_result_of_a_probe_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "probe-few.json"
    file.write_text('{"networks": {"this backbone": [{"mean": 1}]}, "points": []}')
    with pytest.raises(InputError, match=r"probe-few\.json is damaged .*: delete it, and evaluate again") as raised:
        results_in(tmp_path)
    assert "\n" not in str(raised.value)


def _console(page: Path, folder: Path, width: int) -> list[str]:
    """Open a page in Chromium, save a screenshot as page.png in the folder, and return the lines of the console."""
    assert CHROMIUM is not None
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        f"--window-size={width},900",
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={folder / 'page.png'}",
    ]
    done = subprocess.run(
        [CHROMIUM, *flags, page.absolute().as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1400, 390])
def test_a_browser_shows_it_without_an_error_or_a_request(written: Path, tmp_path: Path, width: int) -> None:
    console = _console(written, tmp_path, width)
    assert any("document idle" in line for line in console)  # Bokeh has drawn the map
    assert not [line for line in console if "error" in line.lower() or "violates" in line]
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert picture.shape[1] == width
    assert picture.std() > 10  # not blank


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_page_forbids_requests(written: Path, tmp_path: Path) -> None:
    """With a picture from elsewhere in it, the browser refuses to fetch that: so the test above would see a request."""
    page = tmp_path / "page.html"
    page.write_text(written.read_text().replace("<main>", '<main><img src="https://example.org/a.png">'))
    errors = [line for line in _console(page, tmp_path, 1400) if "error" in line.lower() or "violates" in line]
    assert any("example.org" in line for line in errors)


@pytest.mark.slow
def test_a_folder_without_labels_and_a_backbone_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(_folder(tmp_path) / f"<b>{number}.png")
    asked = ReportSettings(data="photos", backbone="test_resnet", image_size=32, device="cpu")
    out = report(None, asked)
    assert out == Path("report.html")
    page = Page(out.read_text())
    sections = ["Backbone", "Map of the images", "Nearest neighbours", "Duplicates", "Settings and versions"]
    assert page.headings == ["test_resnet on photos", *sections]
    assert "<b>1.png" not in out.read_text()  # names of files are text, not HTML


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir(exist_ok=True)
    return tmp_path / "photos"


def test_thumbnails_are_the_images(tmp_path: Path) -> None:
    images = np.zeros((2, 40, 80, 3), np.uint8)
    images[1] = 200
    source = ArraySource("two", images, None, ())
    for index, value in enumerate((0, 200)):
        picture = _picture(thumbnail(source, index, side=20))
        assert picture.size == (20, 10)
        assert abs(np.asarray(picture).mean() - value) < 2


def _picture(uri: str) -> Image.Image:
    start, content = uri.split(",")
    assert start == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_pictures_of_a_sample_are_those_of_its_images() -> None:
    """Image i is of the grey 20 i, and so is its picture, in a row and on the map."""
    images = np.broadcast_to(20 * np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 8, 8, 3))
    source, shown = ArraySource("greys", images, None, ()), np.array([5, 2, 9, 0])
    info = BackboneInfo("resnet18", 8, (0.5,) * 3, (0.25,) * 3, tiny.NETWORK, "cifar")
    subject = Subject(build_backbone(info), info, 8, "greys", 0, (source,), 0.0, None)
    embeddings = Embeddings([str(i) for i in shown], None, (), np.eye(4, dtype=np.float32))
    material = Material(subject, True, [], shown, embeddings, "cpu")
    drawn = map_figure(material, np.zeros((4, 2), np.float32)).renderers[0].data_source.data["picture"]
    for place, index in enumerate(shown):
        for uri in (material.image(place, "")["uri"], drawn[place]):
            assert abs(np.asarray(_picture(uri)).mean() - 20 * index) < 3
        assert str(index) in material.image(place, "")["path"]


def test_the_map_keeps_groups_together() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 20)
    directions = np.concatenate([centre + 0.05 * rng.normal(size=(20, 20)) for centre in centres]).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = positions(directions)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(60)
    assert (distances.argmin(1) // 20 == np.arange(60) // 20).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": 5}, "images 5 must be at least 10"),
        ({"out": "photo.jpg"}, r"out photo\.jpg must be an \.html file"),
        ({"out": "/proc/none/report.html"}, "cannot be written .*: choose another --out"),
        ({"data": "nowhere/"}, "data 'nowhere/' is neither a folder nor one of"),
        ({"backbone": None, "data": None}, "no run"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"backbone": "test_resnet", "data": "few", **changed}
    with pytest.raises(InputError, match=message) as raised:
        report(None, ReportSettings(**given))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(_folder(tmp_path) / "a.png")
    with pytest.raises(InputError, match=r"photos has 1 image: a report needs at least 10$"):
        report(None, ReportSettings(data=str(tmp_path / "photos"), backbone="test_resnet"))
