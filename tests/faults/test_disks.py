"""Disks that are full or read-only, at every moment and under every command."""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

import adco
import tiny
from adco.cli import main as cli
from adco.runs.directory import RunDirectory
from adco.training.monitor import Monitor
from faults.mounts import fill, make_read_only, make_room, make_writable, mount, small_disk, with_mounts

pytestmark = pytest.mark.slow

EVERY, HARMED_AT = 2, 5  # steps between checkpoints; step at which the disk changes, of twelve
SETTINGS: dict[str, Any] = {
    **tiny.SETTINGS,
    **{"data": "few", "adversaries": 64, "epochs": 3, "batch_size": 24, "knn_images": 0, "precision": "32-true"},
    **{"log_every": 1, "checkpoint_every": EVERY},
}
FLAGS = [f"--{name}={value}" for name, value in SETTINGS.items()]
CHANGES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "fills": (fill, make_room),
    "turns read-only": (make_read_only, make_writable),
}


def command(*arguments: str) -> tuple[int, str]:
    """Run the command without curves; return its exit code and its last line."""
    with (
        contextlib.redirect_stderr(io.StringIO()) as said,
        contextlib.redirect_stdout(io.StringIO()),
        patch("adco.training.saving.plot_curves"),
        patch("adco.finetuning.saving.plot_curves"),
    ):
        code = cli.run(arguments)
    assert "Traceback" not in said.getvalue()
    return code, said.getvalue().splitlines()[-1]


@contextlib.contextmanager
def at_step(act: Callable[[], None]) -> Iterator[None]:
    """Do something in the runs of the block at the step `HARMED_AT`, before it is recorded and saved."""
    record = Monitor.on_train_batch_end

    def hook(self: Monitor, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == HARMED_AT:
            act()
        record(self, trainer, *rest)

    with patch.object(Monitor, "on_train_batch_end", hook):
        yield


def assert_as_if_nothing_had_happened(run: Path, folder: Path) -> None:
    assert command("pretrain", *FLAGS, f"--out={folder / 'whole'}")[0] == 0
    found, expected = (load_file(path / "backbone.safetensors") for path in (run, folder / "whole"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def change_in_training(folder: Path, change: str) -> str:
    harm, repair = CHANGES[change]
    disk = small_disk(folder / "disk")
    run = RunDirectory(disk / "run")
    with at_step(lambda: harm(disk)):
        code, line = command("pretrain", *FLAGS, f"--out={run.path}")
    assert code == 1
    assert torch.load(run.checkpoint, weights_only=True)["global_step"] == HARMED_AT // EVERY * EVERY
    repair(disk)
    assert command("pretrain", f"--resume={run.path}")[0] == 0
    assert not list(run.path.rglob("*.part"))
    assert_as_if_nothing_had_happened(run.path, folder)
    return line


REASONS = {"fills": "No space left on device", "turns read-only": "Read-only file system"}


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=pytest.mark.fault(f"the disk of a run {name}")) for name in CHANGES]
)
def test_a_disk_that_changes_in_training(change: str, tmp_path: Path, report: Callable[..., None]) -> None:
    line = with_mounts(change_in_training, tmp_path, change)
    report(says=line)
    kept = "the last checkpoint is kept: make room or repair the disk, and continue with: adco pretrain --resume"
    assert line.endswith(f": {REASONS[change]}; {kept} {tmp_path}/disk/run")


def begin_on_full_disk(folder: Path) -> str:
    disk = small_disk(folder / "disk")
    fill(disk)
    code, line = command("pretrain", *FLAGS, f"--out={disk / 'run'}", "--resume=auto")
    assert code == 1
    make_room(disk)
    assert command("pretrain", *FLAGS, f"--out={disk / 'run'}", "--resume=auto")[0] == 0
    return line


@pytest.mark.fault("a run begins on a full disk")
def test_a_run_begins_on_a_full_disk(tmp_path: Path, report: Callable[..., None]) -> None:
    line = with_mounts(begin_on_full_disk, tmp_path)
    report(says=line)
    assert line.startswith(f"adco: {tmp_path}/disk/run/")
    assert line.endswith(": No space left on device")


def begin_on_read_only_disk(folder: Path) -> str:
    disk = small_disk(folder / "disk")
    make_read_only(disk)
    code, line = command("pretrain", *FLAGS, f"--out={disk / 'run'}")
    assert code == 2
    return line


@pytest.mark.fault("a run begins on a read-only disk")
def test_a_run_begins_on_a_read_only_disk(tmp_path: Path, report: Callable[..., None]) -> None:
    line = with_mounts(begin_on_read_only_disk, tmp_path)
    report(says=line)
    assert line == f"adco: out '{tmp_path}/disk/run' cannot be created: Read-only file system"


def train_with_full_temporary_folder(folder: Path, workers: int) -> None:
    os.environ["TMPDIR"] = str(small_disk(folder / "tmp"))
    tempfile.tempdir = None  # which Python has read from it
    with at_step(lambda: fill(folder / "tmp")):
        assert command("pretrain", *FLAGS, f"--workers={workers}", f"--out={folder / 'run'}")[0] == 0
    assert_as_if_nothing_had_happened(folder / "run", folder)


@pytest.mark.fault("TMPDIR fills")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_temporary_folder_does_not_matter(tmp_path: Path, workers: int) -> None:
    with_mounts(train_with_full_temporary_folder, tmp_path, workers)


# Commands that write; the current directory is that of the run.
WRITING = (
    "evaluate knn run --data=few --device=cpu",
    "embed run --data=few --device=cpu --out=e.npz",
    "neighbors run --data=few --device=cpu --query=few --out=n.csv",
    "duplicates run --data=few --device=cpu --out=d.csv",
    "export run --to=torch --out=e.pt2",
    "export run --to=timm --out=exported",
    "export run --to=onnx --out=e.onnx",
    "report run --data=few --device=cpu --out=report.html",
    "probe run --data=few --device=cpu",
    "finetune run --data=few --device=cpu --epochs=1 --batch_size=24 --out=tuned",
)


def write_to_full_disk(folder: Path, line: str) -> str:
    disk = small_disk(folder / "disk")
    tiny.untrained_run(disk / "run", data="few")
    fill(disk)
    os.chdir(disk)
    code, line = command(*line.split())
    assert code in (1, 2), line
    return line


@pytest.mark.fault("other commands write to a full disk")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", WRITING)
def test_a_command_writes_to_a_full_disk(given: str, tmp_path: Path, report: Callable[..., None]) -> None:
    line = with_mounts(write_to_full_disk, tmp_path, given)
    report(says=line)
    assert line.startswith("adco: ")
    assert "No space left on device" in line


def train_in_read_only_installation(folder: Path) -> "subprocess.CompletedProcess[str]":
    home, package = small_disk(folder / "home"), Path(adco.__file__).parent
    for place in (home, package):
        make_read_only(place)
    mount("-t", "tmpfs", "-o", "ro", "tmpfs", package / "data" / "__pycache__")  # without what was compiled before
    dropped = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    flags = [flag.replace("=few", "=digits") for flag in FLAGS]
    return subprocess.run(
        [sys.executable, "-m", "adco", "pretrain", *flags, "--epochs=1", "--workers=2", f"--out={folder / 'run'}"],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.fault("the installation and the home directory are read-only, as in containers")
def test_a_read_only_installation_and_home(tmp_path: Path) -> None:
    done = with_mounts(train_in_read_only_installation, tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'run'}\n"), done.stderr
    assert not re.search(r"Traceback|[Ww]arning|[Rr]ead-only|[Pp]ermission|atplotlib|numba", done.stderr), done.stderr
