"""Runs that are killed at random moments, and go on by the same line."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import tiny
from adco.runs.directory import RunDirectory

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


def killed_runs(folder: Path, number: int, seed: int) -> Iterator[tuple[str, str | None, list[str]]]:
    """Kill so many runs, each once or twice; yield its kind, what is wrong in the end or None, and what it said.

    Args:
        folder: for the runs.
        number: of runs, over all kinds in turns.
        seed: of the moments and signals.
    """
    draw = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adco.training.pretrain", "adco.cli.main", "sklearn.datasets"])
    whole: dict[str, tuple[RunDirectory, float]] = {}
    for turn in range(number):
        kind = list(KINDS)[turn % len(KINDS)]
        if kind not in whole:
            whole[kind] = _whole(context, folder / f"whole-{len(whole)}", kind)
        expected, seconds = whole[kind]
        run, log = RunDirectory(folder / f"run-{turn}"), folder / f"log-{turn}"
        for _ in range(draw.randint(1, 2)):
            _kill(context, run, kind, log, after=draw.uniform(0.05, seconds), number=draw.choice(SIGNALS))
        code = _start(context, run, kind, log).wait()
        said = log.read_text().splitlines()
        yield kind, f"exit code {code}" if code else difference(run, expected), said


class _Process:
    def __init__(self, process: Any) -> None:
        self.process = process

    def wait(self) -> int:
        self.process.join()
        return int(self.process.exitcode)


def _start(context: Any, run: RunDirectory, kind: str, log: Path) -> _Process:
    settings = {**COMMON, **KINDS[kind], "out": str(run.path), "resume": "auto"}
    flags = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]
    code = PROGRAM.format(log=str(log), arguments=["pretrain", *flags])
    process = context.Process(target=exec, args=(code, {}))
    process.start()
    return _Process(process)


def _whole(context: Any, path: Path, kind: str) -> tuple[RunDirectory, float]:
    """Return a run that is not killed, and its seconds."""
    began = time.monotonic()
    code = _start(context, RunDirectory(path), kind, path.with_suffix(".log")).wait()
    assert code == 0, path.with_suffix(".log").read_text()
    return RunDirectory(path), time.monotonic() - began


def _kill(context: Any, run: RunDirectory, kind: str, log: Path, *, after: float, number: signal.Signals) -> None:
    process = _start(context, run, kind, log)
    time.sleep(after)
    with suppress(ProcessLookupError):  # it has ended, or has no group yet
        os.killpg(process.process.pid, number)
    process.process.join(60)
    with suppress(ProcessLookupError):
        os.killpg(process.process.pid, signal.SIGKILL)  # its workers, if it could not end them
    process.wait()


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
