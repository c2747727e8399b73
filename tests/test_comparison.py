"""A comparison: what is read from its file, what is skipped and redone, and what the table and the claims say."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image
from scipy.stats import t as student

from adco.cli import main as cli
from adco.comparison.check import check_labels, check_plan
from adco.comparison.claims import Claim
from adco.comparison.dry import dry_run
from adco.comparison.findings import Finding, findings, statements
from adco.comparison.picture import draw
from adco.comparison.plan import Plan, Row, first_difference, read_plan
from adco.comparison.report import markdown, to_json
from adco.comparison.run import BUSY, RunsFailed, compare, run_next_stage
from adco.comparison.table import Entry, Table, cells, collect, mean_and_std, results
from adco.comparison.timing import known_timings, relative_time, time_rows
from adco.config import recipes
from adco.config.commands import EvaluateSettings
from adco.config.load import pretrain_settings
from adco.config.resolve import resolve
from adco.data.sources.arrays import ArraySource
from adco.data.sources.open import open_source
from adco.evaluation.evaluate import evaluate_one
from adco.evaluation.evaluation import Evaluation
from adco.evaluation.knn import KNN
from adco.evaluation.linear import Linear
from adco.evaluation.linear_sgd import LinearSGD
from adco.evaluation.results import find_result, result_file, save_result, with_known_floors
from adco.methods.adco import AdCoSettings
from adco.methods.byol import BYOLSettings
from adco.methods.moco import MoCoSettings
from adco.methods.query_key import BatchNorm
from adco.optim.optimizers import make_optimizer
from adco.runs.directory import RunDirectory
from adco.training.build import make_method, make_views
from adco.training.rehearsal import TrialTraining

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_processes")]

TINY: dict[str, Any] = {
    "data": "digits",
    "epochs": 1,
    "batch_size": 256,
    "backbone_args": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "image_size": 8,
    "hidden": 8,
    "dim": 8,
    "knn_images": 0,
    "accelerator": "cpu",
}
ROWS: dict[str, Any] = {
    "MoCo v2": {"method": "moco", "queue": 300, "split_groups": 2},
    "AdCo": {"method": "adco", "adversaries": 64, "symmetric": True, "split_groups": 2},
}


def write(path: Path, **changed: Any) -> Path:
    path.write_text(
        "# Tiny\n" + yaml.safe_dump({"shared": TINY, "seeds": [0, 1], "rows": ROWS, **changed}, sort_keys=False)
    )
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison."""
    folder = tmp_path_factory.mktemp("comparison")
    compare(write(folder / "tiny.yaml"), folder / "out")
    return folder


def table(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "out" / "table.json").read_text())
    return values


def test_every_row_and_seed_is_trained_and_evaluated(done: Path) -> None:
    runs = {path.name for path in (done / "out").iterdir() if path.is_dir()}
    assert runs == {".locks", "moco-v2-0", "moco-v2-1", "adco-0", "adco-1"}
    first, second = table(done)["rows"]
    for entry, run in ((first, "moco-v2"), (second, "adco")):
        for kind in ("knn", "linear"):
            files = [done / "out" / f"{run}-{seed}" / "results" / f"{kind}-digits.json" for seed in (0, 1)]
            assert entry[kind] == [json.loads(file.read_text())["top1"] for file in files]
    assert (first["negatives"], second["negatives"]) == (300, 64)
    assert (first["symmetric"], second["symmetric"]) == (False, True)
    assert (first["extra_parameters"], second["extra_parameters"]) == (0, 64 * 8)
    results = done / "out" / "moco-v2-0" / "results"
    floors = {kind: json.loads((results / f"{kind}-digits.json").read_text())["floors"] for kind in ("knn", "linear")}
    assert table(done)["floors"] == {
        name: {kind: found[name]["top1"] for kind, found in floors.items()} for name in ("random weights", "raw pixels")
    }
    assert first["relative_time"] == 1
    measured = json.loads((done / "out" / "timing.json").read_text())["rows"].values()
    base, of = (np.array(row["seconds_per_image"]) for row in measured)
    assert second["relative_time"] == pytest.approx(np.median(of / base))
    assert "| AdCo | yes | 2 | 256 | 64 | 512 |" in (done / "out" / "table.md").read_text()
    assert (done / "out" / "table.png").stat().st_size > 10_000
    page = (done / "out" / "table.html").read_text()
    assert all(f"<td>{cell}</td>" in page for cell in ("MoCo v2", "AdCo", "yes", "no", "256", "64", "512"))


def test_a_run_that_is_gone_is_redone_alone_with_the_same_figures(done: Path) -> None:
    before = table(done)
    stamps = {path: path.stat().st_mtime_ns for path in (done / "out").rglob("backbone.safetensors")}
    timing = (done / "out" / "timing.json").stat().st_mtime_ns
    shutil.rmtree(done / "out" / "adco-1")
    compare(done / "tiny.yaml", done / "out")
    assert table(done) == before
    assert (done / "out" / "timing.json").stat().st_mtime_ns == timing
    for path, stamp in stamps.items():
        assert (path.stat().st_mtime_ns == stamp) == ("adco-1" not in str(path))


def test_a_run_that_was_stopped_goes_on(done: Path) -> None:
    """As killed between its last checkpoint and its end, and between training and evaluation."""
    before = table(done)
    environment = done / "out" / "adco-0" / "environment.json"
    known = json.loads(environment.read_text())
    environment.write_text(json.dumps({key: value for key, value in known.items() if key != "finished"}))
    shutil.rmtree(done / "out" / "moco-v2-0" / "results")
    compare(done / "tiny.yaml", done / "out")
    assert table(done) == before


def test_figures_and_records_are_enough_to_go_on_from(done: Path) -> None:
    """Weights and checkpoints of finished runs may be gone, as from a repository that keeps the table."""
    before = table(done)
    for path in [*(done / "out").rglob("*.safetensors"), *(done / "out").rglob("*.ckpt")]:
        path.unlink()
    compare(done / "tiny.yaml", done / "out")
    assert table(done) == before


def test_what_another_process_is_at_is_left_to_it(done: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = table(done)
    shutil.rmtree(done / "out" / "adco-0")
    with FileLock(done / "out" / ".locks" / "adco-0"):
        assert run_next_stage(done / "tiny.yaml", done / "out", "adco-0") == BUSY
        found = compare(done / "tiny.yaml", done / "out")
    assert "skipped AdCo, seed 0: another process is working on it" in caplog.text
    assert [len(entry.top1["linear"]) for entry in found.entries] == [2, 1]
    compare(done / "tiny.yaml", done / "out")
    assert table(done) == before


def test_a_run_that_fails_keeps_no_other_from_being_done(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", seeds=[0], rows={"Too fast": {"learning_rate": 1e30}, "MoCo": ROWS["MoCo v2"]})
    with pytest.raises(RunsFailed, match=r"failed runs: too-fast-0 \(errors above\); the same command retries them"):
        compare(recipe, tmp_path)
    assert [row["name"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]] == ["MoCo"]


def test_a_run_on_two_devices_is_one_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning starts the second process by the command line of the first; a second call finds all done."""
    monkeypatch.setattr("adco.comparison.run.subprocess", subprocess)
    row = {"MoCo": ROWS["MoCo v2"]}
    recipe = write(tmp_path / "r.yaml", seeds=[0], shared={**TINY, "devices": 2}, rows=row)
    first = compare(recipe, tmp_path / "out")
    assert [len(entry.top1["linear"]) for entry in first.entries] == [1]
    assert RunDirectory(tmp_path / "out" / "moco-0").read_config()["batch_norm"] == "shuffle"
    caplog.clear()
    assert compare(recipe, tmp_path / "out") == first
    assert "run 1" not in caplog.text


def test_a_comparison_that_is_told_to_stop_saves_and_goes(tmp_path: Path) -> None:
    recipe = write(tmp_path / "long.yaml", shared={**TINY, "epochs": 1000}, rows={"MoCo": ROWS["MoCo v2"]})
    command = [sys.executable, "-m", "adco", "compare", str(recipe), "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    run = RunDirectory(tmp_path / "moco-0")
    while not run.records():
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert said.rstrip().endswith("adco: stopped; the same command continues from the last checkpoint")
    assert run.checkpoint.is_file()
    FileLock(tmp_path / ".locks" / "moco-0").acquire(timeout=0)  # nobody is at it any more


def photographs(folder: Path, count: int = 24) -> Path:
    """A flat folder of JPEGs of noise, 20 x 16 px."""
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (count, 16, 20, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"IMG_{number}.JPG")
    return folder


def of_photographs(tmp_path: Path, **changed: Any) -> Path:
    """A comparison of one row on such a folder, with loader workers, as a folder has by default."""
    shared = {**TINY, "data": str(photographs(tmp_path / "photos")), "batch_size": 8, "workers": 1}
    return write(tmp_path / "mine.yaml", shared=shared, seeds=[0], rows={"MoCo": {"method": "moco"}}, **changed)


def test_photographs_without_labels_are_evaluated_on_labelled_data_beside_them(tmp_path: Path) -> None:
    recipe = of_photographs(tmp_path, evaluate_on="digits")
    out = tmp_path / "out"
    found = compare(recipe, out)
    assert (found.trained_on, found.evaluated_on, found.test_images) == ({str(tmp_path / "photos"): 24}, "digits", 355)
    assert json.loads((out / "moco-0" / "results" / "linear-digits.json").read_text())["data"] == "digits"
    values = json.loads((out / "table.json").read_text())
    assert values["evaluated_on"] == "digits"
    assert values["claims"] == []
    assert f"Trained on {tmp_path}/photos (24 images), evaluated on digits (355" in (out / "table.md").read_text()
    if sys.platform == "linux":
        assert found.entries[0].peak_megabytes is not None
    assert not results(out / "moco-0", replace(read_plan(recipe), evaluate_on="digits-validation"))


def test_photographs_without_labels_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"photos has no labels to evaluate the rows with: add a line evaluate_on: "):
        compare(of_photographs(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": {"A": {}, "B": {"backbone": "resnet81"}}}, "row B: backbone 'resnet81' is not a timm model"),
        (
            {"rows": {"A": {}, "B": {"weights": "gone.pth", "precision": "32-true"}}},
            "row B: weights 'gone.pth' is neither a file nor a run",
        ),
        ({"rows": {"A": {}, "B": {"batch_size": 2000}}}, "row B: batch_size 2000 is more than the 1442 images"),
        ({"rows": {"A": {}, "B": {"devices": 3}}}, "row B: batch_size 256 must be a multiple of devices"),
        ({"evaluate_on": "labeled/"}, "the rows cannot be evaluated on labeled/: data 'labeled/' is neither a folder"),
    ],
)
def test_a_row_that_cannot_be_trained_or_evaluated_is_named_before_anything_is_done(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(write(tmp_path / "wrong.yaml", **changed), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_few_test_images_are_allowed_and_said(tmp_path: Path) -> None:
    for name in ("left", "right"):
        photographs(tmp_path / name, count=10)
    said: list[str] = []
    plan = replace(read_plan(write(tmp_path / "tiny.yaml")), evaluate_on=str(tmp_path))
    check_labels(plan, open_source("digits"), said.append)
    assert said[0].endswith("16 training and 4 test images of 2 classes")
    half = 100 * 1.96 * math.sqrt(0.25 / 4)  # of a binomial share of one half
    assert said[1] == f"warning: with only 4 test images, the 95 % interval of an accuracy is up to ± {half:.0f} points"


def test_a_setting_that_is_newer_than_a_run_differs_only_where_a_row_gives_it() -> None:
    row = MoCoSettings(temperature=0.3)
    asked = {"temperature": 0.3, "queue": 1024, "seed": 5}
    assert first_difference(row, {"temperature": 0.3, "queue": 1024, "seed": 0}, asked) is None
    assert first_difference(row, {"temperature": 0.2, "queue": 1024}, asked) == "temperature"
    assert first_difference(row, {"queue": 1024}, asked) == "temperature"
    assert first_difference(row, {"temperature": 0.3}, asked) is None


def test_the_committed_comparison_is_done_and_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    black = ArraySource("cifar10", np.broadcast_to(np.uint8(0), (50_000, 32, 32, 3)), None, ())
    monkeypatch.setattr("adco.comparison.check.open_source", lambda *_: black)
    out = Path(__file__).parents[1] / "benchmarks" / "results" / "cifar10_table5"
    plan, said = read_plan("cifar10_table5"), list[str]()
    used = check_plan(plan, out, said.append)
    timing = known_timings(plan.rows, used, out / "timing.json", said.append)
    table = collect(replace(plan, rows=[replace(row, settings=used[row.name]) for row in plan.rows]), out, timing)
    assert said == []
    assert {entry.name: entry.seeds for entry in table.entries} == {row.name: row.seeds for row in plan.rows}
    assert json.loads(json.dumps(to_json(table))) == json.loads((out / "table.json").read_text())
    assert markdown(table) == (out / "table.md").read_text()


def test_a_launcher_of_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="starts its own processes, one per device: call it without a launcher"):
        compare(write(tmp_path / "tiny.yaml"), tmp_path)


def test_one_run_alone_is_named_as_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only 'moco' must be one of moco-v2-0, adco-0, moco-v2-1, adco-1"):
        run_next_stage(write(tmp_path / "tiny.yaml"), tmp_path, "moco")


def test_a_run_begun_with_other_settings_is_not_taken_for_this_row(done: Path) -> None:
    """Whether it is done or not: the table would say of it what is not so."""
    other = write(done / "other.yaml", rows={"AdCo": {**ROWS["AdCo"], "temperature": 0.5}})
    with pytest.raises(
        ValueError, match=r"adco-0 was started with temperature 0.07, but the comparison has 0.5: delete"
    ):
        compare(other, done / "out")


@pytest.mark.parametrize("file", ["environment.json", "results/knn-digits.json"])
def test_a_run_on_other_images_is_not_taken_for_this_table(done: Path, file: str, tmp_path: Path) -> None:
    folder = shutil.copytree(done, tmp_path / "done")
    path = folder / "out" / "adco-0" / file
    figures = json.loads(path.read_text())
    figures["images"] += 1
    path.write_text(json.dumps(figures))
    shutil.rmtree(folder / "out" / "moco-v2-1")  # something is left to do
    with pytest.raises(
        ValueError, match=f"adco-0 was .* on {figures['images']} images, but there are {figures['images'] - 1} now"
    ):
        compare(folder / "tiny.yaml", folder / "out")


def test_a_setting_taken_back_is_another_setting(done: Path) -> None:
    """What a row leaves open is what the images make of it, not whatever the run was begun with."""
    config = done / "out" / "adco-0" / "config.yaml"
    kept = config.read_text()
    config.write_text(kept.replace("\nlearning_rate: 0.1\n", "\nlearning_rate: 0.5\n", 1))
    with pytest.raises(ValueError, match=r"adco-0 was started with learning_rate 0.5, but the comparison has 0.1"):
        compare(done / "tiny.yaml", done / "out")
    config.write_text(kept)


def test_a_share_that_allows_fewer_groups_is_no_other_setting(tmp_path: Path) -> None:
    recipe = write(tmp_path / "r.yaml", seeds=[0], shared={**TINY, "batch_size": 8}, rows={"MoCo": ROWS["MoCo v2"]})
    first = compare(recipe, tmp_path / "out")
    assert compare(recipe, tmp_path / "out") == first


@pytest.mark.parametrize(
    ("evaluation", "data"), [(KNN(k=1), None), (KNN(temperature=0.5), None), (Linear(), "digits-validation")]
)
def test_what_was_evaluated_otherwise_is_another_file(done: Path, evaluation: Evaluation, data: str | None) -> None:
    before, kind = table(done), evaluation.NAME
    results = done / "out" / "adco-0" / "results"
    files = {file: file.read_text() for file in results.glob("*.json")}
    evaluate_one(evaluation, done / "out" / "adco-0", EvaluateSettings(data=data))
    assert {file: file.read_text() for file in files} == files
    assert len(list(results.glob(f"{kind}-*.json"))) == sum(file.name.startswith(f"{kind}-") for file in files) + 1
    compare(done / "tiny.yaml", done / "out")
    assert table(done) == before


def test_a_comparison_names_its_evaluations(tmp_path: Path) -> None:
    """Results that are there count, others are added: nothing is trained again, and each table has its own columns."""
    one: dict[str, Any] = {"seeds": [0], "rows": {"MoCo": ROWS["MoCo v2"]}}
    out = tmp_path / "out"
    usual = compare(write(tmp_path / "usual.yaml", **one), out)
    weights = (out / "moco-0" / "backbone.safetensors").stat().st_mtime_ns
    found = compare(write(tmp_path / "other.yaml", **one, evaluations={"linear": None, "knn": {"k": 3}}), out)
    assert (out / "moco-0" / "backbone.safetensors").stat().st_mtime_ns == weights
    assert (found.evaluations, found.main_evaluation) == ({"linear": "linear", "knn": "kNN"}, "knn")
    assert found.entries[0].top1["linear"] == usual.entries[0].top1["linear"]
    (k3,) = (json.loads(file.read_text()) for file in (out / "moco-0" / "results").glob("knn-digits-*.json"))
    assert (k3["protocol"]["k"], k3["top1"]) == (3, found.entries[0].top1["knn"][0])
    assert set(found.floors["raw pixels"]) == {"linear", "knn"}
    assert compare(tmp_path / "usual.yaml", out) == usual


def test_the_papers_probe_of_earlier_versions_counts_as_done(done: Path, tmp_path: Path) -> None:
    """It was called linear with protocol sgd, in recipes and in results."""
    folder = shutil.copytree(done, tmp_path / "done")
    with pytest.warns(FutureWarning, match="protocol sgd is now the evaluation linear_sgd"):
        plan = read_plan(write(folder / "sgd.yaml", protocol="sgd"))
    assert plan.evaluations == (KNN(), LinearSGD())
    run = folder / "out" / "adco-0"
    assert set(results(run, plan)) == {"knn"}
    usual = json.loads((run / "results" / "linear-digits.json").read_text())
    paper = {"epochs": 100, "batch_size": 256, "learning_rate": 10.0}
    usual["protocol"] |= {"protocol": "sgd", **paper}
    usual["evaluation"] |= {"protocol": "sgd", **paper}
    (run / "results" / "linear-digits-12345678.json").write_text(json.dumps(usual))
    assert set(results(run, plan)) == {"knn", "linear_sgd"}
    assert set(results(run, read_plan(folder / "tiny.yaml"))) == {"knn", "linear"}


def test_a_new_result_replaces_that_of_earlier_versions(done: Path, tmp_path: Path) -> None:
    """Its file has another name than today's, and its floors are kept."""
    run = RunDirectory(shutil.copytree(done, tmp_path / "done") / "out" / "adco-0")
    known = json.loads((run.results / "linear-digits.json").read_text())
    about = known.pop("evaluation")
    sgd = {"epochs": 100, "batch_size": 256, "learning_rate": 10.0}
    earlier = {**known, "evaluation": {**about, "protocol": "sgd", **sgd}, "floors": {"a": {"top1": 1.0}}}
    file = run.results / "linear-digits-12345678.json"
    file.write_text(json.dumps(earlier))
    result = with_known_floors(run, {**known, "evaluation": {**about, "kind": "linear_sgd", **sgd}} | {"top1": 1.0})
    save_result(run, result)
    found = find_result(run, LinearSGD(), "digits", 0, 8)
    assert found is not None
    assert (found["top1"], result_file(run, result["evaluation"])) == (1.0, file)


@pytest.mark.parametrize("content", [3, [1], "protocol", {"protocol": 3}, {"protocol": {"k": 3}, "data": "digits"}])
def test_other_files_beside_the_results_are_no_results(done: Path, tmp_path: Path, content: object) -> None:
    run = RunDirectory(shutil.copytree(done, tmp_path / "done") / "out" / "adco-0")
    before = find_result(run, KNN(), "digits", 0, 8)
    (run.results / "a.json").write_text(json.dumps(content))
    assert find_result(run, KNN(), "digits", 0, 8) == before


def test_names_of_rows_may_be_numbers(tmp_path: Path) -> None:
    claims = [{"claim": "more", "rows": [16], "against": [32], "at_least": 1}]
    plan = read_plan(write(tmp_path / "a.yaml", rows={16: {}, 32: {}}, relative_to=32, claims=claims))
    assert (plan.relative_to, plan.claims[0].rows) == ("32", ["16"])


def test_a_ratio_to_no_parameters_is_not_measured(done: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(done, tmp_path / "done")
    claim = {"claim": "larger", "measure": "parameters", "rows": ["AdCo"], "against": ["MoCo v2"], "at_least": 1}
    found = compare(write(folder / "claims.yaml", claims=[claim]), folder / "out")
    assert statements(found) == [
        "1. larger: not measured (MoCo v2 has no trained parameters outside backbone and projector)"
    ]


def test_results_of_earlier_versions_count_as_done(done: Path, tmp_path: Path) -> None:
    """Their files are named by the kind alone and say nothing of the image size."""
    folder = shutil.copytree(done, tmp_path / "done")
    before, results = table(folder), folder / "out" / "adco-0" / "results"
    for kind in ("knn", "linear"):
        file = results / f"{kind}-digits.json"
        result = json.loads(file.read_text())
        del result["evaluation"], result["majority"], result["top1_interval"]
        file.with_name(f"{kind}.json").write_text(json.dumps(result))
        file.unlink()
    compare(folder / "tiny.yaml", folder / "out")
    assert table(folder) == before
    assert not (results / "knn-digits.json").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": {}}, "is not a comparison: rows must be a mapping from names to settings$"),
        ({"row": 1}, "is not a comparison: it has row, but the only keys are shared, seeds, evaluate_on"),
        ({"seeds": []}, r"seeds \[\] must be a list of whole numbers, 0 or above"),
        ({"seeds": [0, 1, 0]}, r"seeds \[0, 1, 0\] must differ from each other"),
        ({"shared": ["a"]}, "shared in .* must be a mapping of settings"),
        ({"rows": {"A": "moco"}}, "A in .* must be a mapping of settings, {name: value, ...}; got moco"),
        ({"rows": {"A": {"method": ["moco"]}}}, r"row A: method \['moco'\] must be one of adco, caco, moco"),
        ({"shared": {"data": "digits", "minutes": 3}}, "row .*: minutes 3 would give rows different numbers of epochs"),
        ({"protocol": "paper"}, "protocol paper must be one of cached, sgd"),
        ({"claims": "appendix"}, "claims appendix must be a list of mappings.* adco recipes cifar10_table5"),
        ({"claims": [{"claim": "more", "rows": ["AdCo"], "against": ["AdCo"]}]}, "claim 'more' needs a bound"),
        (
            {"claims": [{"claim": "more", "rows": ["AdCo"], "against": ["AdCo"], "at_least": math.nan}]},
            "bound nan must be",
        ),
        ({"claims": [{"claim": "more", "rows": ["AdCo"], "at_least": 1}]}, "claim 'more' must name as many rows"),
        (
            {"claims": [{"claim": "more", "rows": ["A"], "against": ["AdCo"], "at_least": 1}]},
            "'more': A must be one of the r",
        ),
        ({"claims": [{"rows": ["AdCo"], "against": ["AdCo"], "at_least": 1}]}, "a claim about AdCo has no text"),
        ({"claims": [{"claim": "more", "bound": 1}]}, "unknown setting bound"),
        ({"relative_to": "MoCo"}, "relative_to MoCo must be one of the rows: MoCo v2, AdCo"),
        ({"evaluations": ["knn"]}, r"evaluations \['knn'\] must be a mapping from names to settings"),
        ({"evaluations": {"tree": {}}}, "evaluation 'tree' must be one of knn, linear, linear_sgd"),
        ({"evaluations": {"knn": {"k": 0}}}, "evaluation knn: k 0 must be at least 1"),
        ({"evaluations": {"knn": {3: 4}}}, "evaluation knn: unknown setting 3"),
        ({"evaluations": {"knn": {}}, "protocol": "sgd"}, "protocol sgd cannot be combined with evaluations"),
        ({"claims": [{False: ["AdCo"]}]}, "unknown setting False"),  # what YAML reads for `off`
        ({"shared": {"data": "digits", 3: 4}}, "shared in .* must be a mapping of settings"),
        ({"shared": 5, "rows": {"shared": {}}}, "shared in .* must be a mapping of settings"),
        ({"images": "many"}, r"images many must be a whole number, at least 1 and at most 1e\+09"),
        ({"images": 10**12}, r"images 1000000000000 must be a whole number, at least 1 and at most 1e\+09"),
        ({"seeds": [True]}, r"seeds \[True\] must be a list of whole numbers"),
        (
            {"evaluate_on": ["a/"]},
            r"evaluate_on \['a/'\] must be a folder of labelled images or the name of a data",
        ),
        (
            {"rows": {"A": {}, "B": {"data": "cifar10"}}},
            r"rows have different data \(digits, cifar10\): add",
        ),
        ({"shared": {**TINY, "recipe": "imagenet_moco"}}, "recipe must be set in a row, not in shared"),
        ({"seeds": [0.5]}, r"seeds \[0.5\] must be a list"),
        ({"rows": {"A": {"seeds": [1, 1]}}}, r"row A: seeds \[1, 1\] must differ from each other"),
        ({"shared": {"seeds": [1]}}, "seeds must be set in a row, not in shared"),
        ({"rows": {"A": {"method": "mocco"}}}, "row A: method 'mocco' must be one of adco, caco, moco"),
        ({"rows": {"A": {"method": "moco", "adversaries": 3}}}, "row A: unknown setting adversaries"),
        ({"rows": {"A": {"method": "moco", "temperature": 0.0}}}, "row A: temperature 0.0 must be above 0"),
        ({"rows": {"A": {"seed": 3}}}, "row A: seed is set by the comparison: remove it"),
        ({"rows": {"A b": {}, "a-b": {}}}, "rows A b and a-b would share the folder a-b-0: rename one"),
    ],
)
def test_a_comparison_that_cannot_be_is_told_in_a_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_plan(write(tmp_path / "wrong.yaml", **changed))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.endswith("_table5")])
def test_the_packages_comparisons_hold_all_rows_of_table_5(name: str) -> None:
    plan = read_plan(name)
    found = {(row.settings.method, getattr(row.settings, "symmetric", True)) for row in plan.rows}
    assert found >= {("simclr", True), ("moco", False), ("byol", True), ("simsiam", True), ("adco", True)}
    counts = [row.settings.adversaries or 0 for row in plan.rows if isinstance(row.settings, AdCoSettings)]
    assert {max(counts) // count for count in counts} == {1, 4, 8}


@pytest.mark.parametrize("name", [name for name in recipes.names() if not name.startswith("finetune_")])
def test_every_recipe_of_the_package_builds(name: str) -> None:
    """Network, views and optimizer of each row, without memory for their weights."""
    plan = [row.settings for row in read_plan(name).rows] if name.endswith("_table5") else [pretrain_settings(name)]
    source = ArraySource("black", np.broadcast_to(np.uint8(0), (16_384, 256, 256, 3)), None, ())
    for settings in plan:
        resolved = resolve(replace(settings, devices=1, num_nodes=1, accelerator="cpu"), source)
        with torch.device("meta"):
            method = make_method(resolved, steps_per_epoch=10)
        make_optimizer(resolved.optimizer, method.players())
        assert len(make_views(resolved)) == 2 + len(settings.further_crops)


def test_a_dry_run_builds_and_steps_each_row() -> None:
    tiny = {"epochs": 3, "image_size": 32, "backbone_args": TINY["backbone_args"], "accelerator": "cpu", "devices": 8}
    tiny["data"] = "noise"
    settings = [
        AdCoSettings(**tiny, adversaries=100, small_crops=[(16, 0.1, 0.4)], batch_norm="shuffle"),
        BYOLSettings(**tiny, hidden=16, dim=8, channels=1),
    ]
    rows = [Row(str(number), row) for number, row in enumerate(settings)]
    first, second = dry_run(Plan(rows, (), "0", images=1000))
    assert first["steps"] == second["steps"] == 1000 // 64 * 3
    assert first["finite"]
    assert second["finite"]
    assert first["parameters"] > 0.1 * 100 / 1000


ONE: dict[str, Any] = {
    "data": "digits",
    "backbone_args": TINY["backbone_args"],
    "image_size": 8,
    "accelerator": "cpu",
}


@pytest.mark.parametrize("batch_norm", ["auto", "shuffle"])
def test_a_device_that_shuffles_with_others_embeds_its_share_in_one(batch_norm: BatchNorm) -> None:
    small = {**ONE, "devices": 8}
    training = TrialTraining(MoCoSettings(**small, batch_size=64, batch_norm=batch_norm), open_source("digits"))
    assert isinstance(training.settings, MoCoSettings)
    assert (training.settings.batch_size, training.settings.split_groups) == (8, 1)


def test_no_worker_makes_views_for_a_later_turn() -> None:
    small = {**ONE, "batch_size": 8}
    training = TrialTraining(MoCoSettings(**small, workers=1), open_source("digits"), steps=3)
    training()
    assert training.loader.order.position == 4  # batches asked for; a worker looks two ahead where there are more
    assert len(training.loader) == 4
    training()
    assert training.loader.order.position == 8


def test_parameters_beyond_backbone_and_projector() -> None:
    """Claim 6: 8192 adversaries of width 128; BYOL's predictor 256-4096-256, with BatchNorm."""
    source = open_source("digits")
    small = {**ONE, "batch_size": 8}
    counts = [
        TrialTraining(settings, source).extra_parameters()
        for settings in (
            AdCoSettings(**small, adversaries=8192),
            AdCoSettings(**small, adversaries=8192, adversary_learning_rate=0),
            MoCoSettings(**small),
            BYOLSettings(**small),
        )
    ]
    assert counts == [8192 * 128, 0, 0, 256 * 4096 + 2 * 4096 + 4096 * 256 + 256]


# The table


SPEEDS = [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2]  # of the machine, in each round


def entry(name: str, method: str, symmetric: bool, negatives: int | None, linear: list[float], **more: Any) -> Entry:
    figures = {
        "crops": 2,
        "batch": 256,
        "trained_negatives": method == "adco",
        "extra_parameters": 10,
    }
    relative_time = more.get("relative_time", 1.0)
    return Entry(
        name=name,
        method=method,
        symmetric=symmetric,
        negatives=negatives,
        seeds=list(range(len(linear))),
        top1={"knn": linear, "linear": linear},
        seconds_per_image=[relative_time / 100 * speed for speed in SPEEDS],
        **{"relative_time": 1.0, "peak_megabytes": None, **figures, **more},
    )


ENTRIES = [
    entry("MoCo", "moco", False, 800, [60.0, 61.0, 62.0]),
    entry("BYOL", "byol", True, None, [63.9, 64.0, 64.1], relative_time=2.0, extra_parameters=20),
    entry("A800", "adco", False, 800, [62.4, 62.5, 62.6], relative_time=1.05),
    entry("S800", "adco", True, 800, [65.0, 65.1, 65.2], relative_time=1.6),
    entry("S50", "adco", True, 50, [65.0], relative_time=1.6),
]


def table_of(entries: list[Entry], *claims: Claim, **changed: Any) -> Table:
    facts: dict[str, Any] = {
        "evaluations": {"knn": "kNN", "linear": "linear"},
        "floors": {"raw pixels": {"linear": 40.2}, "random weights": {"linear": 35.1}},
        "measured_on": "a machine, threads: 1",
        "trained_on": {"photos/": 60_000},
        "evaluated_on": "labelled/",
        "test_images": 2000,
        "relative_to": "MoCo",
        "claims": claims,
    }
    return Table(entries, **{**facts, **changed})


def finding(entries: list[Entry], of: list[str], to: list[str], **claim: Any) -> Finding:
    (found,) = findings(table_of(entries, Claim(claim="more", rows=of, against=to, **claim)))
    return found


def test_a_difference_in_accuracy_has_welchs_interval() -> None:
    found = finding(ENTRIES, ["A800"], ["MoCo"], at_least=1.0)
    variances, freedom = (1 / 3, 0.01 / 3), 1.01**2 / (1 / 2 + 0.01**2 / 2)  # Welch 1947
    half = student.ppf(0.975, freedom) * math.sqrt(sum(variances))
    assert found.value == pytest.approx(1.5)
    assert found.interval == pytest.approx((1.5 - half, 1.5 + half))
    assert found.verdict == "cannot tell"
    assert finding(ENTRIES, ["S800"], ["BYOL"], at_least=0.0).verdict == "holds"
    assert finding(ENTRIES, ["S50"], ["BYOL"], at_least=0.0).interval is None  # one seed


def test_time_and_parameters_are_ratios() -> None:
    cost = finding(ENTRIES, ["S800"], ["BYOL"], measure="time", at_most=3.50 / 4.10)
    assert cost.value == pytest.approx(0.8)
    assert cost.interval == pytest.approx((0.8, 0.8))
    assert cost.verdict == "holds"
    size = finding(ENTRIES, ["S50"], ["BYOL"], measure="parameters", at_most=1.0)
    assert (size.value, size.interval, size.verdict) == (0.5, (0.5, 0.5), "holds")
    assert "exact" in size.sentence()


def test_what_is_said_of_several_rows_is_read_off_all() -> None:
    """The mean of the differences, by seed: rows that go up and down together are no more than one."""
    means = {"N8": 60, "N4": 61, "N1": 62, "S8": 62, "S4": 62, "S1": 65}
    rows = [entry(name, "adco", False, 8, [mean - 0.1, mean, mean + 0.1]) for name, mean in means.items()]
    found = finding(rows, ["S8", "S4", "S1"], ["N8", "N4", "N1"], at_least=1.5)
    assert found.value == pytest.approx((2 + 1 + 3) / 3)
    half = student.ppf(0.975, 2 + 2) * 0.1 * math.sqrt(2 / 3)
    assert found.interval == pytest.approx((2 - half, 2 + half))
    assert found.measured == "linear top-1 in points, mean of S8, S4 and S1 minus mean of N8, N4 and N1"
    without = [row for row in rows if row.name != "N4"]  # not finished yet
    assert finding(without, ["S8", "S4", "S1"], ["N8", "N4", "N1"], at_least=1.5).value == pytest.approx((2 + 3) / 2)
    none = finding(rows[:3], ["S8", "S4", "S1"], ["N8", "N4", "N1"], at_least=1.5)
    assert none.sentence() == "more: not measured (a row is missing)"


def test_rows_are_averaged_over_the_seeds_that_all_have() -> None:
    one = replace(entry("S8", "adco", True, 8, [70.0, 61.0, 62.0]), seeds=[0, 3, 1])
    other = entry("S4", "adco", True, 4, [60.0, 64.0])  # seeds 0 and 1
    base = [entry(name, "adco", False, 8, [49.0, 51.0]) for name in ("N8", "N4")]
    found = finding([one, other, *base], ["S8", "S4"], ["N8", "N4"], at_least=0)
    assert found.value == pytest.approx((65 + 63) / 2 - 50)
    apart = [replace(one, seeds=[5, 6, 7]), other, *base]
    assert finding(apart, ["S8", "S4"], ["N8", "N4"], at_least=0).value is None


def test_a_row_may_have_seeds_of_its_own(tmp_path: Path) -> None:
    rows = {"A": {**ROWS["MoCo v2"], "seeds": [4, 0, 7]}, "B": ROWS["MoCo v2"]}
    plan = read_plan(write(tmp_path / "r.yaml", rows=rows))
    assert [(row.name, seed) for row, seed in plan.runs()] == [("A", 4), ("B", 0), ("A", 0), ("B", 1), ("A", 7)]


def test_costs_that_change_from_round_to_round_tell_nothing() -> None:
    byol = entry("BYOL", "byol", True, None, [60.0])
    times = [0.7, 0.75, 0.8, 0.81, 0.82, 0.83, 0.84, 0.9, 1.7]
    seconds = [ratio * speed / 100 for ratio, speed in zip(times, SPEEDS, strict=True)]
    both = replace(byol, name="both", seconds_per_image=seconds)
    cost = finding([byol, both], ["both"], ["BYOL"], measure="time", at_most=3.50 / 4.10)
    # The second lowest and the second highest: the median is out of it with (1 + 9) / 2**9 on each side.
    assert cost.value == pytest.approx(0.82)
    assert cost.interval == pytest.approx((0.75, 0.9))
    assert cost.verdict == "cannot tell"


def test_an_outlier_of_costs_is_no_matter() -> None:
    byol = entry("BYOL", "byol", True, None, [60.0])
    seconds = [speed * 0.8 / 100 for speed in [*SPEEDS[:8], 9.9]]
    both = replace(byol, name="both", seconds_per_image=seconds)
    assert finding([byol, both], ["both"], ["BYOL"], measure="time", at_most=3.50 / 4.10).verdict == "holds"


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.endswith("_table5")])
def test_the_packages_claims_are_those_of_the_appendix(name: str) -> None:
    """Each pair of rows differs in what the claim is about, and in nothing else that is seen in the table."""
    plan = read_plan(name)
    rows = {row.name: row.settings for row in plan.rows}
    numbers = {claim.number for claim in plan.claims}
    assert numbers >= {1, 2, 3, 4, 5, 6}
    assert rows[plan.relative_to].method == "moco"
    for claim in plan.claims:
        for of, to in zip(claim.rows, claim.against, strict=True):
            one, other = rows[of], rows[to]
            assert one.method == "adco"
            same = {
                1: one.negatives == other.negatives and (one.is_symmetric, other.is_symmetric) == (True, False),
                2: (one.negatives or 0) == 8 * (other.negatives or 0) and one.is_symmetric == other.is_symmetric,
                3: one.is_symmetric and other.is_symmetric and other.method in ("byol", "moco"),
                4: not one.is_symmetric and other.method == "moco" and not other.is_symmetric,
                5: one.negatives == other.negatives and len(one.further_crops) == 4,
                6: other.method == "byol" and claim.measure == "parameters",
                7: one.trains_negatives and not other.trains_negatives and one.negatives == other.negatives,
            }
            assert same[claim.number], (claim.claim, of, to)
    bounds = [claim.at_least if claim.at_most is None else claim.at_most for claim in plan.claims if claim.number < 5]
    assert {round(bound or 0.0, 4) for bound in bounds} == {1.5, 0.4, 0.0, round(3.50 / 4.10, 4), 1.0, 1.066}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.7, 2.5, "holds"), (0.7, 1.5, "does not hold"), (1.2, 2.0, "cannot tell"), (math.nan, math.nan, "cannot tell")],
)
def test_within_the_interval_nobody_can_tell(low: float, high: float, verdict: str) -> None:
    assert Finding(1, "more", "a minus b", 2.0, (low, high), at_least=1.6).verdict == verdict
    assert Finding(1, "less", "b minus a", -2.0, (-high, -low), at_most=-1.6).verdict == verdict
    assert Finding(1, "more", "a minus b", 9.0, None, at_least=1.6).verdict == "cannot tell"


def test_a_comparison_of_ones_own_states_differences_to_its_first_row() -> None:
    rows = [
        entry("MoCo", "moco", False, 800, [60.0, 61.0, 62.0]),
        entry("AdCo", "adco", False, 800, [62.0, 63.0, 64.0]),
        entry("one seed", "adco", True, 800, [70.0]),
    ]
    half = student.ppf(0.975, 2 + 2) * math.sqrt(2 / 3)  # equal variances of 1, three seeds each
    expected = f"+2.00 points (95 % interval over seeds {2 - half:+.2f} to {2 + half:+.2f})"
    assert statements(table_of(rows)) == [f"AdCo minus MoCo, linear top-1: {expected}"]
    claim = Claim(claim="AdCo is better", number=4, rows=["AdCo"], against=["MoCo"], at_least=0.0)
    assert statements(table_of(rows, claim))[0].startswith("4. AdCo is better: **")


def test_the_picture_shows_floors_and_data_and_does_not_blow_up_small_differences() -> None:
    rows = [entry("MoCo", "moco", False, 800, [60.0]), entry("AdCo", "adco", False, 800, [60.25], relative_time=1.02)]
    (axes,) = draw(table_of(rows)).axes
    assert axes.get_title() == "trained on photos/, evaluated on labelled/ (2,000 test images)"
    assert axes.get_xlim()[0] == 0
    assert axes.get_ylim()[0] < 35.1
    assert {"raw pixels 40.2", "random weights 35.1"} <= {text.get_text() for text in axes.texts}
    assert {40.2, 35.1} <= {float(np.max(line.get_ydata())) for line in axes.lines}
    (axes,) = draw(table_of(rows, floors={})).axes
    assert np.diff(axes.get_ylim()) >= 10
    draw(table_of([], floors={}, test_images=None))


def test_cells_and_markdown() -> None:
    assert mean_and_std([60.0, 61.0, 62.0]) == "61.0 ± 1.0"
    assert mean_and_std([60.04]) == "60.0"
    assert cells(ENTRIES[1]) == [
        "BYOL",
        "yes",
        "2",
        "256",
        "–",
        "20",
        "64.0 ± 0.1",
        "64.0 ± 0.1",
        "3",
        "50",
        "2.00",
        "–",
    ]
    claim = Claim(claim="AdCo is faster", measure="time", rows=["A100"], against=["MoCo"], at_most=1.0)
    text = markdown(table_of(ENTRIES, claim, floors={"raw pixels": {"knn": 30.3, "linear": 40.24}}))
    assert text.count("\n| ") == len(ENTRIES) + 3  # and two lines of a head, one of a floor
    assert "\n| raw pixels | – | – | – | – | – | 30.3 | 40.2 | – | – | – | – |\n" in text
    assert text.startswith("Trained on photos/ (60 000 images), evaluated on labelled/ (2 000 test images). kNN")
    assert (
        "time/epoch (relative to MoCo) and peak MB: measured on a machine, threads: 1; the rows were timed in turn"
        in text
    )
    assert text.endswith("\n\n1. AdCo is faster: not measured (a row is missing)\n")


def test_what_was_timed_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that has timed the rows lives as long as the comparison, whose runs need the memory of the GPU."""
    methods, when_emptied = [], []

    class Remembered(TrialTraining):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            methods.append(weakref.ref(self.method))

    monkeypatch.setattr("adco.comparison.timing.TrialTraining", Remembered)
    monkeypatch.setattr("adco.comparison.timing.ROUNDS", 1)
    monkeypatch.setattr("adco.comparison.timing.peak_megabytes", lambda settings: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: when_emptied.append([method() for method in methods]))
    time_rows([Row(name, pretrain_settings(**TINY, **row)) for name, row in ROWS.items()], lambda words: None, steps=1)
    assert when_emptied == [[None, None]]


def test_the_gpu_that_costs_were_measured_on_is_named(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, rows = read_plan(done / "tiny.yaml"), json.loads((done / "out" / "timing.json").read_text())["rows"]
    monkeypatch.setattr("adco.comparison.timing.time_rows", lambda *_: rows)
    monkeypatch.setattr("adco.comparison.timing.training_device", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    used = {row.name: row.settings for row in plan.rows}
    measured = known_timings(plan.rows, used, tmp_path / "timing.json", print)
    assert collect(plan, done / "out", measured).measured_on.startswith("A100, ")
    monkeypatch.undo()
    assert known_timings(plan.rows, used, tmp_path / "timing.json", print) == measured


def test_relative_time_is_within_rounds() -> None:
    """The median of 2, 1 and 3; the ratio of the medians is 1."""
    assert relative_time([2.0, 4.0, 30.0], [1.0, 4.0, 10.0]) == 2.0


def test_the_command_prints_the_table(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", str(done / "tiny.yaml"), "--out", str(done / "out")]) == 0
    said = capsys.readouterr().out
    assert "MoCo v2" in said
    assert "Trained on digits (1 442 images), evaluated on digits (355 test images)." in said
    assert "\nAdCo minus MoCo v2, linear top-1: " in said
    assert "appendix" not in said
    assert "the symmetric loss adds" not in said
    assert cli.run(["compare", "cifar10_demo"]) == 2
    assert "is not a comparison" in capsys.readouterr().err
