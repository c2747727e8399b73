"""Resuming under other conditions: by the same line, from an earlier checkpoint, with other data or devices."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import adco
import tiny
from adco.cli import main as cli
from adco.data.batch import Batch
from adco.errors import InputError
from adco.runs.directory import RunDirectory
from adco.training.errors import NotEnoughMemoryError, NotWrittenError
from adco.training.memory_full import memory_full
from adco.training.module import Pretraining
from adco.training.monitor import Monitor

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_curves")]

EPOCHS, STEPS = 3, 4
TINY: dict[str, Any] = {
    **tiny.SETTINGS,
    "data": "few",
    "adversaries": 100,
    "epochs": EPOCHS,
    "batch_size": 24,
    "knn_images": 0,
    "log_every": 1,
}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception | None = None) -> None:
    """Let the run end at a step, before it is recorded and saved."""
    record = Monitor.on_train_batch_end

    def hook(self: Monitor, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == step:
            raise error or KeyboardInterrupt
        record(self, trainer, *rest)

    monkeypatch.setattr(Monitor, "on_train_batch_end", hook)


def stopped(monkeypatch: pytest.MonkeyPatch, step: int, **settings: Any) -> None:
    """Begin a run that ends as if killed at a step."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            adco.pretrain(**{**TINY, **settings})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {**torch.load(RunDirectory(run).checkpoint, weights_only=True)["state_dict"]}


def assert_same(run: Path, other: Path) -> None:
    mine, theirs = weights(run), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not stopped."""
    return adco.pretrain(**TINY, keep_every=1, out=tmp_path_factory.mktemp("whole") / "run")


# By the same line


@pytest.mark.fault("a job is killed and queued again, with --out DIR --resume auto")
@pytest.mark.parametrize("step", [2, STEPS + 2])
def test_the_same_line_begins_a_run_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path, step: int
) -> None:
    line: dict[str, Any] = {"out": tmp_path / "run", "resume": "auto"}
    stopped(monkeypatch, step, **line)
    assert adco.pretrain(**TINY, **line) == tmp_path / "run"
    assert_same(tmp_path / "run", whole)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert adco.pretrain(**TINY, **line) == tmp_path / "run"  # it is finished
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    adco.pretrain(**{**TINY, "epochs": EPOCHS + 1}, **line)
    assert RunDirectory(tmp_path / "run").records()[-1]["step"] == STEPS * (EPOCHS + 1)


@pytest.mark.fault("a job is queued again with another setting")
def test_a_line_with_other_settings_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[..., None]
) -> None:
    line: dict[str, Any] = {"out": tmp_path / "run", "resume": "auto"}
    stopped(monkeypatch, STEPS + 2, **line)
    with pytest.raises(
        InputError, match=r"^seed is 1, but the run in .*run began with 0: choose another --out$"
    ) as told:
        adco.pretrain(**TINY, seed=1, **line)
    report(says=told.value)
    with pytest.raises(InputError, match=r"^method is simclr, but the run in .* began with adco"):
        adco.pretrain(method="simclr", data="few", **line)
    with pytest.raises(InputError, match=r"^resume auto needs --out"):
        adco.pretrain(**TINY, resume="auto")


# From an earlier checkpoint


@pytest.mark.fault("a run went wrong, and continues from an earlier checkpoint, kept by --keep_every")
def test_a_run_goes_back_to_a_checkpoint_that_was_kept(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(Path(shutil.copytree(whole, tmp_path / "run")))
    assert [path.name for path in run.checkpoints()] == ["epoch-1.ckpt", "epoch-2.ckpt", "epoch-3.ckpt", "last.ckpt"]
    kept = run.kept_checkpoint(1)
    assert torch.load(kept, weights_only=True)["global_step"] == STEPS
    adco.embed(kept, "few", device="cpu")
    run.kept_checkpoint(2).write_bytes(b"gone wrong")
    before = run.checkpoint.read_bytes()
    assert cli.run(["pretrain", "--resume", str(run.kept_checkpoint(2))]) == 2
    assert "epoch-2.ckpt is damaged" in capsys.readouterr().err
    assert run.checkpoint.read_bytes() == before
    assert run.kept_checkpoint(3).is_file()
    assert cli.run(["pretrain", "--resume", str(kept)]) == 0
    assert_same(run.path, whole)
    assert torch.load(run.kept_checkpoint(2), weights_only=True)["global_step"] == 2 * STEPS
    records, expected = run.records(), RunDirectory(whole).records()
    assert [record["step"] for record in records] == [record["step"] for record in expected]
    assert cli.run(["pretrain", "--resume", str(run.kept_checkpoint(7))]) == 2
    says = f"epoch-7.ckpt is no checkpoint of {run.path}, which has epoch-1.ckpt, epoch-2.ckpt, epoch-3.ckpt, last.ckpt"
    assert says in capsys.readouterr().err


def test_files_of_the_user_beside_the_checkpoints_are_no_checkpoints(tmp_path: Path, whole: Path) -> None:
    run = RunDirectory(Path(shutil.copytree(whole, tmp_path / "run")))
    good, backup = run.checkpoint.with_name("epoch-2-good.ckpt"), run.path / "backup" / "last.ckpt"
    backup.parent.mkdir()
    for copy in (good, backup):
        shutil.copy(run.kept_checkpoint(1), copy)
    before = run.checkpoint.read_bytes()
    for copy in (good, backup):
        with pytest.raises(InputError, match=r"is no checkpoint of .*run, which has epoch-1\.ckpt"):
            adco.pretrain(resume=copy)
    assert run.checkpoint.read_bytes() == before
    run.go_back_to(run.kept_checkpoint(2))
    assert [file.name for file in run.checkpoints()] == ["epoch-1.ckpt", "epoch-2.ckpt", "last.ckpt"]
    assert good.is_file()


# With other data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(50):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def of_photos(photos: Path, tmp_path: Path) -> dict[str, Any]:
    return {"data": photos, "out": tmp_path / "run", "image_size": 12, "workers": 0, "max_unreadable": 0.1}


@pytest.mark.fault("the images have moved, and a run is resumed with --data")
def test_images_that_moved_are_found_where_the_user_says(
    photos: Path, of_photos: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(monkeypatch, 3, **of_photos)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"photos' does not exist|photos' is neither a folder nor"):
        adco.pretrain(resume=tmp_path / "run")
    adco.pretrain(resume=tmp_path / "run", data=tmp_path / "elsewhere")
    assert RunDirectory(tmp_path / "run").read_config()["data"] == str(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(photos)
    adco.pretrain(**{**TINY, **of_photos, "out": tmp_path / "whole"})
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.fault("files are deleted and added before a run is resumed, which --changed_data accepts")
def test_changed_images_are_named_and_accepted_if_asked(
    photos: Path,
    of_photos: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[..., None],
) -> None:
    twin = tmp_path / "twin"
    for out in (tmp_path / "run", twin):
        stopped(monkeypatch, 3, **of_photos | {"out": out})
    (photos / "07.png").unlink()
    shutil.copy(photos / "08.png", photos / "new.png")
    changes = r"1 gone: 07\.png; 1 new: new\.png"
    with pytest.raises(InputError, match=rf"began with \({changes}\): put them back, or add --changed_data") as raised:
        adco.pretrain(resume=tmp_path / "run")
    assert "\n" not in str(raised.value)
    report(says=raised.value)
    adco.pretrain(resume=tmp_path / "run", changed_data=True)
    assert RunDirectory(tmp_path / "run").read_damaged() == [7]
    (photos / "new.png").unlink()  # the same as if the file had only been damaged
    (photos / "07.png").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"1 of 50 files in .* cannot be read; left out: 07\.png"):
        adco.pretrain(resume=twin)
    assert_same(tmp_path / "run", twin)


# On other devices


@pytest.mark.fault("a run is resumed with --accumulate 2, as when memory was full")
def test_a_run_goes_on_in_smaller_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    """As after an error that memory is full; the images of a step stay the same."""
    stopped(monkeypatch, STEPS + 2, out=tmp_path / "run")
    adco.pretrain(resume=tmp_path / "run", accumulate=2)
    assert RunDirectory(tmp_path / "run").read_config()["accumulate"] == 2
    last, expected = (RunDirectory(run).records()[-1] for run in (tmp_path / "run", whole))
    assert last["step"] == expected["step"]


# Disks


@pytest.mark.fault("a checkpoint is larger than the limit on file sizes (ulimit -f)")
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(
    tmp_path: Path, whole: Path, report: Callable[..., None]
) -> None:
    """The limit of the size of a file stands for the end of the disk."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny
from adco.cli import main as cli
from adco.training.monitor import Monitor
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
record = Monitor.on_train_batch_end
def hook(self, trainer, *rest):
    if trainer.global_step == {2 * STEPS}:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    record(self, trainer, *rest)
Monitor.on_train_batch_end = hook
sys.exit(cli.run(["pretrain", "--out", {str(tmp_path / "run")!r}, *{flags()!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    run = RunDirectory(tmp_path / "run")
    assert last == (
        f"adco: {run.checkpoint}: File too large; the last checkpoint is kept: make room or repair the disk, and "
        f"continue with: adco pretrain --resume {run.path}"
    )
    report(says=last)
    assert "Traceback" not in done.stderr
    assert torch.load(run.checkpoint, weights_only=True)["global_step"] == STEPS
    assert not list(run.path.rglob("*.part"))
    adco.pretrain(resume=run.path)
    assert_same(run.path, whole)


def flags() -> list[str]:
    return [f"--{name}={value}" for name, value in TINY.items()]


@pytest.mark.fault("the run directory is moved while the run goes on")
def test_a_run_directory_that_is_gone_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[..., None]
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    record = Monitor.on_train_batch_end

    def move(self: Monitor, trainer: Any, *rest: Any) -> None:
        record(self, trainer, *rest)
        if trainer.global_step == STEPS + 1:
            run.rename(elsewhere)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "on_train_batch_end", move)
        moved = rf"^the run directory {run} is gone: if it was moved, continue with"
        with pytest.raises(NotWrittenError, match=moved) as raised:
            adco.pretrain(**TINY, out=run)
    report(says=raised.value)
    assert not run.exists()
    adco.pretrain(resume=elsewhere)


@pytest.mark.fault("checkpoints/ is deleted while the run goes on")
def test_checkpoints_that_are_gone_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    record = Monitor.on_train_batch_end

    def delete(self: Monitor, trainer: Any, *rest: Any) -> None:
        record(self, trainer, *rest)
        if trainer.global_step == STEPS + 1:
            shutil.rmtree(tmp_path / "run" / "checkpoints")

    monkeypatch.setattr(Monitor, "on_train_batch_end", delete)
    adco.pretrain(**TINY, out=tmp_path / "run")
    assert_same(tmp_path / "run", whole)


@pytest.mark.fault("parts of files that a killed run has left")
def test_parts_of_files_that_a_killed_run_left_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    run = tmp_path / "run"
    stopped(monkeypatch, STEPS + 1, out=run)
    part = run / "checkpoints" / f"last.ckpt.{'0f' * 16}.part"
    part.write_bytes(b"half")
    (run / "mine.part").write_bytes(b"mine")
    adco.pretrain(resume=run)
    assert not part.exists()
    assert (run / "mine.part").exists()
    assert_same(run, whole)
    load_file(RunDirectory(run).backbone)


# Memory


@pytest.mark.fault("the memory of a GPU is full")
def test_a_full_memory_names_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[..., None]
) -> None:
    step = Pretraining.training_step

    def limited(self: Pretraining, batch: Batch, index: int) -> dict[str, Any]:
        if len(batch.indices) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSecond line")
        return step(self, batch, index)

    monkeypatch.setattr(Pretraining, "training_step", limited)
    message = (
        r"^the GPU's memory is full: a forward pass of 24 images of 8 px is too much; what fits is --accumulate 4, "
        r"with which a step adds up 4 forward passes, or --batch_size 6, or a smaller --image_size$"
    )
    with pytest.raises(NotEnoughMemoryError, match=message) as raised:
        adco.pretrain(**TINY, out=tmp_path / "run")
    report(says=raised.value)
    assert not (tmp_path / "run").exists()
    adco.pretrain(**TINY, accumulate=4, out=tmp_path / "run")


def test_a_full_memory_in_one_of_several_processes_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processes would not take part in what it exchanges."""
    monkeypatch.setattr("adco.training.memory_full.processes_of", lambda settings: 4)
    monkeypatch.setattr("adco.training.memory_full.TrialTraining", None)
    settings: Any = SimpleNamespace(batch_size=128, accumulate=2, image_size=224)
    assert str(memory_full(torch.OutOfMemoryError(), settings, None)) == (  # type: ignore[arg-type]  # no images
        "the GPU's memory is full: a forward pass of 16 images of 224 px is too much: take a higher --accumulate, or a "
        "smaller --batch_size or --image_size"
    )


def test_what_fits_is_tried_for_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first step, the optimizer has no averages yet: a memory that is full with them fits only later."""
    step = Pretraining.training_step

    def limited(self: Pretraining, batch: Batch, index: int) -> dict[str, Any]:
        if len(batch.indices) > (7 if batch.position < 24 // len(batch.indices) else 5):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return step(self, batch, index)

    monkeypatch.setattr(Pretraining, "training_step", limited)
    with pytest.raises(NotEnoughMemoryError, match="what fits is --accumulate 8, "):
        adco.pretrain(**TINY, out=tmp_path / "run")
    adco.pretrain(**TINY, accumulate=8, out=tmp_path / "run")


@pytest.mark.fault("a metric is not implemented on the device, as torch.pdist on MPS")
def test_a_metric_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, report: Callable[..., None]
) -> None:
    def fail(queries: torch.Tensor, keys: torch.Tensor) -> dict[str, float]:
        raise NotImplementedError("The operator 'aten::_pdist_forward' is not currently implemented\nfor this device")

    monkeypatch.setattr("adco.training.monitor.embedding_health", fail)
    run = RunDirectory(adco.pretrain(**TINY, out=tmp_path / "run"))
    assert run.records()[-1]["step"] == STEPS * EPOCHS
    assert caplog.text.count("a metric is left out: The operator 'aten::_pdist_forward' is not currently imp") == 1
    report(says=f"adco: {next(line for line in caplog.messages if 'a metric is left out' in line)}")
