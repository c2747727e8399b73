import json
import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from adco.health.adversary_note import SHARE
from adco.runs.curves import PANELS, draw_panels, plot_curves
from adco.runs.records import History, Record, length_until, read_records

KEYS = [key for panel in PANELS for key in panel.curves]
RECORDS: list[dict[str, float | str]] = [
    {"step": 50 * i, "time": "2030-01-01", **dict.fromkeys(KEYS, 1 / (i + 1))} for i in range(300)
]
LOSS: list[dict[str, float | str]] = [{"step": record["step"], "loss": record["loss"]} for record in RECORDS]


def lines(path: Path, *texts: str) -> Path:
    path.write_text("".join(texts))
    return path


def shape(path: Path) -> tuple[int, ...]:
    return np.asarray(matplotlib.image.imread(path)).shape


def test_records_are_read_back(tmp_path: Path) -> None:
    path = lines(tmp_path / "metrics.jsonl", *(json.dumps(record) + "\n" for record in RECORDS))
    assert read_records(path) == RECORDS


def test_nothing_recorded_is_no_record(tmp_path: Path) -> None:
    assert read_records(lines(tmp_path / "metrics.jsonl")) == []


def test_every_cut_of_the_last_line_is_survived(tmp_path: Path) -> None:
    first, last = b'{"step": 1}\n', '{"step": 2, "note": "é"}\n'.encode()
    path = tmp_path / "metrics.jsonl"
    for cut in range(len(last) + 1):
        path.write_bytes(first + last[:cut])
        whole = cut >= len(last) - 1  # only the newline may be missing
        assert read_records(path) == [{"step": 1}, *([{"step": 2, "note": "é"}] if whole else [])]


@pytest.mark.parametrize("broken", ['{"step": 2, "lo\n', "\n", "7\n", '{"step": 1, "lo{"step": 2}\n'])
@pytest.mark.parametrize("after", ["", '{"step": 3}\n'])
def test_any_other_broken_line_is_named(tmp_path: Path, broken: str, after: str) -> None:
    path = lines(tmp_path / "metrics.jsonl", '{"step": 1}\n', broken, after)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a JSON object"):
        read_records(path)


def test_a_resumed_run_supersedes_what_it_repeats(tmp_path: Path) -> None:
    steps = [10, 20, 20, 30, 40, 30, 40, 50]  # two records at one step; a crash after 40, resumed from 20
    path = lines(tmp_path / "metrics.jsonl", *(json.dumps({"step": s, "line": i}) + "\n" for i, s in enumerate(steps)))
    assert [record["line"] for record in read_records(path)] == [0, 1, 2, 5, 6, 7]


def test_not_a_number_is_read_back(tmp_path: Path) -> None:
    (record,) = read_records(lines(tmp_path / "metrics.jsonl", json.dumps({"loss": math.nan}) + "\n"))
    assert math.isnan(float(record["loss"]))


def test_only_panels_with_data_are_drawn(tmp_path: Path) -> None:
    plot_curves(RECORDS, tmp_path / "all.png")
    plot_curves(LOSS, tmp_path / "one.png")
    (height, width, _), (one_height, one_width, _) = shape(tmp_path / "all.png"), shape(tmp_path / "one.png")
    assert (height, width) == (4 * one_height, 3 * one_width)  # eleven panels against one


def test_floor_and_sleep_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: drawn.append(figure))
    records = [{"step": 10.0 * i, "knn_top1": 40.0, SHARE: 0.5 if i < 4 else 0.0} for i in range(10)]
    for case in (records, [{"step": 0, "knn_top1_random": 30.0}, *records]):
        plot_curves(case, tmp_path / "curves.png")
    plain, floored = ([axes.get_legend_handles_labels()[1] for axes in figure.axes] for figure in drawn)
    assert plain[0] == ["kNN, held-out training images"]
    assert floored[0] == ["kNN, held-out training images", "kNN of random weights"]
    assert plain[1][-1] == floored[1][-1] == "asleep since step 40"
    assert drawn[0].axes[1].get_yscale() == "log"
    assert all(np.isfinite(line.get_ydata()).all() for line in drawn[0].axes[1].get_lines())


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = lines(tmp_path / "curves.png", "the last drawing")
    plot_curves(LOSS, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    plot_curves(LOSS, tmp_path / "a.png")
    plot_curves(LOSS, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"loss": 1.0}],
        [{"step": 1, "loss": 1.0}],
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}],
        [{"step": 1, "loss": "high"}, {"step": 2, "loss": 3.0}, {"step": 3}],
    ],
)
def test_odd_records_are_drawn(tmp_path: Path, records: list[dict[str, float | str]]) -> None:
    plot_curves(records, tmp_path / "curves.png")
    assert shape(tmp_path / "curves.png")[2] == 4


@pytest.mark.parametrize("number", [20, 39, 41, 95, 200])
def test_of_many_records_some_are_kept_the_same_in_memory_and_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("adco.runs.records.MOST", 20)
    history, path = History(), tmp_path / "metrics.jsonl"
    written: list[Record] = [
        {"step": step, **({"word": "learning"} if step % 50 == 7 else {})} for step in range(number)
    ]
    for record in written:
        history.append(record)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    stride = next(power for power in (1, 2, 4, 8, 16) if 20 * power >= number)
    expected = [r for i, r in enumerate(written) if i % stride == 0 or i == number - 1 or "word" in r]
    assert history == read_records(path) == expected
    again = read_records(path)
    history.append({"step": number})
    again.append({"step": number})
    assert history == again


@pytest.mark.parametrize(("step", "kept"), [(0, 1), (3, 4), (7, 9), (9, 9)])
def test_a_file_is_cut_after_the_last_record_of_a_step(tmp_path: Path, step: int, kept: int) -> None:
    texts = [json.dumps({"step": number, "loss": 0.5}) + "\n" for number in (*range(8), 7)]
    path = lines(tmp_path / "metrics.jsonl", *texts, '{"step": 8, "lo')
    assert length_until(path, step) == len("".join(texts[:kept]))
    assert length_until(lines(tmp_path / "empty.jsonl"), step) == 0
    other = lines(tmp_path / "other.jsonl", '{"note": "mine"}\n', '{"loss": 1, "step": 99}\n')
    assert length_until(other, step) == len('{"note": "mine"}\n')


def test_a_curve_of_a_panel_of_several_is_named_and_values_have_no_offset() -> None:
    """Without labels, top-1 is that of the instances; norms differ by little from 1 at the start."""
    norms = dict.fromkeys(("adversary_norm_max", "adversary_norm_mean"), 1.0)
    records = [{"step": i, "instance_top1": 10.0 + i, **norms, "adversary_norm_min": 1 - 1e-5 * i} for i in range(9)]
    pictures = {panel.title: svg for panel, svg in draw_panels(records)}
    assert "instance: own key in the batch" in pictures["top-1 (%)"]
    assert "0.99994" in pictures["norms of the adversaries"]
