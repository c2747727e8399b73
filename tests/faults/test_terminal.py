"""A terminal that is closed, and a current directory that is deleted."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from adco.runs.directory import RunDirectory

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {
    **{"data": "digits", "backbone_args": tiny.NETWORK, "hidden": 32, "batch_size": 64, "epochs": 12},
    **{"log_every": 1, "checkpoint_every": 1000, "accelerator": "cpu"},
}


def in_a_terminal(folder: Path, command: list[str]) -> tuple[int, Callable[[], None]]:
    """Start a command in a folder and in a terminal of its own; return its process and what closes the terminal."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(folder)  # where nohup writes a file
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may be run under nohup themselves
        os.execv(command[0], command)

    def read() -> None:
        with suppress(OSError):
            while os.read(terminal, 4096):
                pass

    threading.Thread(target=read, daemon=True).start()
    return process, lambda: os.close(terminal)


@pytest.mark.fault("the terminal of a run is closed, without and with nohup")
@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_saves_the_run_unless_nohup_keeps_it(nohup: bool, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    command = [sys.executable, "-m", "adco", "pretrain", *flags, f"--out={run.path}"]
    process, close = in_a_terminal(tmp_path, ["/usr/bin/nohup", *command] if nohup else command)
    end = time.monotonic() + 120
    while len(run.records()) < 5 if run.metrics.is_file() else True:
        assert time.monotonic() < end, "the run has not begun"
        time.sleep(0.05)
    close()
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if nohup else 128 + signal.SIGHUP)
    assert run.is_finished == nohup
    saved = torch.load(run.checkpoint, weights_only=True)["global_step"]
    assert saved == [record["step"] for record in run.records() if "loss" in record][-1]


@pytest.mark.fault("the current directory has been deleted")
def test_a_deleted_current_directory_is_told(tmp_path: Path, report: Callable[..., None]) -> None:
    script = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone; {sys.executable} -m adco pretrain few"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    report(says=done.stderr.strip())
    assert done.returncode == 2
    assert done.stderr == "adco: the current directory has been deleted: change to another one\n"
