import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adco.data.sources.protocol import Unreadable
from adco.errors import InputError
from adco.files import write_text
from adco.runs import directory
from adco.runs.directory import RunDirectory, newest_run


def step(number: int) -> dict[str, float]:
    return {"step": number, "loss": 1 / number}


def test_a_new_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a" / "b")
    assert run.checkpoint == tmp_path / "a" / "b" / "checkpoints" / "last.ckpt"
    assert run.checkpoint.parent.is_dir()
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty")


@pytest.mark.fault("64 runs are begun in the same second")
def test_runs_of_the_same_second_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda layout: "20260101-120000")
    with ThreadPoolExecutor(16) as threads:
        runs = list(threads.map(RunDirectory.create_named, ["adco-photos"] * 64))
    names = sorted(run.path.name for run in runs)
    expected = ["adco-photos-20260101-120000", *(f"adco-photos-20260101-120000-{number}" for number in range(2, 65))]
    assert names == sorted(expected)


@pytest.mark.fault("16 runs want the same directory at once")
def test_of_those_that_want_the_same_directory_one_gets_it(tmp_path: Path, report: Callable[..., None]) -> None:
    def create(name: int) -> bool:
        try:
            RunDirectory.create(tmp_path / str(name), lambda run: run.write_config({}))
        except InputError as error:
            report(says=error)
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        for name in range(20):
            assert sum(threads.map(create, [name] * 16)) == 1
    report(tried=20)


@pytest.mark.fault("a process is killed before its directory is a run, and the same line runs again")
@pytest.mark.parametrize("left", [[], ["checkpoints/.lock"], ["environment.json", f"config.yaml.{'0f' * 16}.part"]])
def test_a_directory_is_taken_over_if_it_never_became_a_run(tmp_path: Path, left: list[str]) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in left:
        (tmp_path / "run" / name).touch()
    run = RunDirectory.create(tmp_path / "run", lambda run: run.write_config({"method": "adco"}))
    assert run.config.read_text() == "{method: adco}\n"
    with pytest.raises(InputError, match="is not empty: continue with --resume"):
        RunDirectory.create(run.path)


@pytest.mark.parametrize("file", ["environment.json", "checkpoints/last.ckpt", "checkpoints/a/.lock", "note.txt"])
def test_a_directory_of_others_is_not_taken_over(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(InputError, match="is not empty: choose another --out"):
        RunDirectory.create(tmp_path)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out '.*' is not empty: choose another --out"):
        RunDirectory.create(tmp_path)
    with pytest.raises(ValueError, match=r"out '.*note\.txt' is not empty"):
        RunDirectory.create(tmp_path / "note.txt")
    with pytest.raises(ValueError, match=r"out '.*below' cannot be created: Not a directory"):
        RunDirectory.create(tmp_path / "note.txt" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    (tmp_path / "config.yaml").write_text("method: adco")
    with pytest.raises(ValueError, match=r"out '.*' is not empty: continue with --resume .*, or choose another --out"):
        RunDirectory.create(tmp_path)


def test_only_a_run_directory_is_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"'{path}' is not a run directory: it has no config.yaml"):
            RunDirectory.open(path)
    run = RunDirectory.create(tmp_path / "run")
    run.write_config({"epochs": 3})
    assert RunDirectory.open(str(run.path)) == run


@pytest.mark.parametrize("text", ["a: [1", "- epochs", "", "3: 4\nepochs: 3"])
def test_a_configuration_without_settings_is_named(run: RunDirectory, text: str) -> None:
    run.config.write_text(text)
    with pytest.raises(ValueError, match=f"^{run.config} does not contain the settings of a run"):
        run.read_config()


def test_files_are_read_back(run: RunDirectory) -> None:
    values = {
        "method": "simsiam",
        "backbone_rate": 0.5,
        "fixed_patches": True,
        "data": "photos",
        "crop_scale": [0.2, 1.0],
        "workers": None,
        "backbone_args": {"layers": [1, 2]},
    }
    run.write_config(values)
    assert run.read_config() == values
    run.write_environment(seed=3, images=7)
    environment = json.loads((run.path / "environment.json").read_text())
    assert (environment["seed"], environment["images"]) == (3, 7)
    assert {"adco", "torch", "timm", "lightning"} <= set(environment["packages"])
    if Path("/proc/cpuinfo").is_file():
        assert f": {environment['machine']['processor']}\n" in Path("/proc/cpuinfo").read_text()
    assert run.read_damaged() == []
    run.write_unreadable([Unreadable(Path("a.jpg"), "empty file")], {7: Unreadable(Path("b.jpg"), "not an image")})
    assert json.loads((run.path / "unreadable.json").read_text()) == [
        {"file": "a.jpg", "reason": "empty file"},
        {"file": "b.jpg", "reason": "not an image", "image": 7},
    ]
    assert run.read_damaged() == [7]


def test_records_are_appended_and_cut(run: RunDirectory) -> None:
    assert run.records() == []
    for number in range(1, 8):
        run.append(step(number))
    run.append({"step": 7, "word": "learning"})
    assert len(run.metrics.read_text().splitlines()) == 8
    run.forget_after(7)
    assert run.records() == [*map(step, range(1, 8)), {"step": 7, "word": "learning"}]
    run.forget_after(4)
    assert run.records() == [*map(step, range(1, 5))]
    run.append(step(5))
    assert run.records() == [*map(step, range(1, 6))]
    run.forget_after(0)
    assert run.records() == []


def test_a_record_that_a_crash_cut_is_dropped_before_others_follow(run: RunDirectory) -> None:
    run.append(step(1))
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    run.forget_after(5)
    run.append(step(2))
    assert run.records() == [step(1), step(2)]


def test_nothing_to_forget_is_no_error(run: RunDirectory) -> None:
    run.forget_after(3)
    assert run.records() == []


@pytest.mark.parametrize(
    ("records", "checkpoint", "kept"),
    [([], False, False), ([{"step": 1, "loss": "nan"}], False, False), ([step(1)], False, True), ([], True, True)],
)
def test_a_run_that_did_nothing_is_discarded(
    run: RunDirectory, records: list[dict[str, float]], checkpoint: bool, kept: bool
) -> None:
    run.write_config({})
    for record in records:
        run.append(record)
    if checkpoint:
        run.checkpoint.touch()
    run.discard_if_empty()
    assert run.path.exists() == kept


def test_finished_is_taken_back(run: RunDirectory) -> None:
    run.write_environment(images=7)
    run.write_finished()
    assert run.is_finished
    run.write_unfinished()
    assert not run.is_finished
    assert run.read_environment()["images"] == 7


def test_the_newest_run_is_the_one_started_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no run directory under runs/: give the path of one, or pretrain first"):
        newest_run()
    for number, name in enumerate(["b", "c", "a"]):
        run = RunDirectory.create(directory.RUNS / name)
        run.write_config({})
        os.utime(run.config, (number, number))
    (directory.RUNS / "z").mkdir()  # no run
    assert newest_run().path == directory.RUNS / "a"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_text(path, "old")

    def full(self: Path, target: Path) -> Path:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new text")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_json_file_is_named_in_one_line(run: RunDirectory) -> None:
    (run.path / "environment.json").write_text("{")
    with pytest.raises(InputError, match=r"^.*environment\.json is damaged: Expecting property name") as raised:
        run.read_environment()
    assert "\n" not in str(raised.value)
