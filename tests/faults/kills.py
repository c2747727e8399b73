"""Runs that are killed at random moments, and go on by the same line."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import tiny
from adco.runs.directory import RunDirectory
from program import forkserver

COMMON: dict[str, Any] = {
    **tiny.SETTINGS,
    **{"data": "few", "epochs": 5, "batch_size": 24, "knn_images": 40, "log_every": 1, "checkpoint_every": 3},
}
ADCO: dict[str, Any] = {"adversaries": 64}
KINDS: dict[str, dict[str, Any]] = {
    "AdCo": ADCO,
    "AdCo, symmetric": {**ADCO, "symmetric": True},
    "AdCo, 512 adversaries": {"adversaries": 512},
    "AdCo, accumulated": {**ADCO, "accumulate": 2},
    "AdCo, two workers": {**ADCO, "workers": 2},
    "AdCo, small crops": {**ADCO, "small_crops": [[6, 0.1, 0.5]]},
    "AdCo, SGD, kept checkpoints": {**ADCO, "optimizer": "sgd", "keep_every": 2},
    "CaCo": {"method": "caco", "bank": 96},
    "MoCo": {"method": "moco", "queue": 96},
    "SimCLR": {"method": "simclr"},
    "BYOL": {"method": "byol"},
    "BYOL, two workers": {"method": "byol", "workers": 2},
    "SimSiam": {"method": "simsiam"},
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CLOCKS = ("images_per_second", "waiting_for_data")

# The command, in a process group of its own and without curves, which take longer to draw than the run.
PROGRAM = """
import multiprocessing, os, sys
os.setsid()
multiprocessing.set_start_method(None, force=True)
os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
import tiny, adco
from adco.training import saving
from adco.cli import main as cli
saving.plot_curves = lambda records, path: None
sys.exit(cli.run({arguments!r}))
"""


def killed_runs(folder: Path, kind: str, number: int) -> Iterator[tuple[str | None, list[str]]]:
    """Kill so many runs, each once or twice; yield what is wrong in the end, None if nothing, and what the run said.

    Args:
        folder: for the runs.
        kind: of the runs, one of KINDS; also the seed of the moments and signals.
        number: of runs.
    """
    draw, whole = random.Random(kind), RunDirectory(folder / "whole")
    began = time.monotonic()
    code = _ended(_start(whole, kind, folder / "log-whole"))
    seconds = time.monotonic() - began
    assert code == 0, (folder / "log-whole").read_text()
    for turn in range(number):
        run, log = RunDirectory(folder / f"run-{turn}"), folder / f"log-{turn}"
        for _ in range(draw.randint(1, 2)):
            _kill(_start(run, kind, log), after=draw.uniform(0.05, seconds), number=draw.choice(SIGNALS))
        code = _ended(_start(run, kind, log))
        yield f"exit code {code}" if code else difference(run, whole), log.read_text().splitlines()
        shutil.rmtree(run.path, ignore_errors=True)


def _start(run: RunDirectory, kind: str, log: Path) -> BaseProcess:
    settings = {**COMMON, **KINDS[kind], "out": str(run.path), "resume": "auto"}
    flags = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]
    code = PROGRAM.format(log=str(log), arguments=["pretrain", *flags])
    process = forkserver().Process(target=exec, args=(code, {}))
    process.start()
    return process


def _ended(process: BaseProcess) -> int:
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _kill(process: BaseProcess, *, after: float, number: signal.Signals) -> None:
    assert process.pid is not None
    time.sleep(after)
    with suppress(ProcessLookupError):  # it has ended, or has no group yet
        os.killpg(process.pid, number)
    process.join(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its workers, if it could not end them
    process.join()


def difference(run: RunDirectory, expected: RunDirectory) -> str | None:
    """Return what differs between two runs; None if their weights, states and records are the same."""
    mine, theirs = (torch.load(r.checkpoint, weights_only=True) for r in (run, expected))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        if not _same(mine[key], theirs[key]):
            return key
    records = [
        [{k: v for k, v in record.items() if k not in CLOCKS} for record in r.records()] for r in (run, expected)
    ]
    return None if records[0] == records[1] else "records"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
