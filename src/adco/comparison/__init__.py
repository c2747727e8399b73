"""The comparison: rows × seeds trained and evaluated alike, timed in turns, and put into one table.

    compare("cifar10_table5", Path("runs/cifar10_table5"))

Whatever is done already is skipped, so the same call goes on where one was stopped or killed; and called on several
devices at once, each takes the next run that no other is at.
"""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from adco.api import pretrain
from adco.callbacks import Interrupted
from adco.comparison.check import check_plan
from adco.comparison.claims import Claim, caption, claims, markdown, statements, to_json
from adco.comparison.picture import save_picture
from adco.comparison.plan import Plan, Row, read_plan
from adco.comparison.table import KINDS, Entry, Table, collect, is_done, results
from adco.comparison.timing import known_timings
from adco.distributed import is_first_rank
from adco.evaluation.runs import evaluate_kinds
from adco.run_directory import RunDirectory, write_json, write_whole
from adco.settings import EvaluateSettings

__all__ = [
    "Claim",
    "Entry",
    "Plan",
    "Row",
    "RunsFailed",
    "Table",
    "caption",
    "claims",
    "compare",
    "do_one",
    "read_plan",
    "statements",
]

BUSY = 75  # exit code of a process that leaves a run to another (EX_TEMPFAIL of sysexits.h)


class RunsFailed(RuntimeError):
    """Some runs of a comparison ended without results; the others are done."""


def compare(recipe: str | Path, out: Path) -> Table:
    """Train and evaluate what is missing, measure what it costs, and write table.json, table.md and table.png.

    The table is written anew after each run, so that it can be read before the last is done. Seeds are taken one after
    another, all rows each; a run that fails does not keep the others from being done.

    Raises:
        ValueError: if the recipe is no comparison, a row cannot be trained, there are no labels to evaluate by, or a
            run in `out` has other settings; before anything is timed or trained.
        Interrupted: if a signal stopped a run; the same call goes on from there.
        RunsFailed: if runs failed; the same call tries them again.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("adco compare starts a process a device by itself: call it once, or with --only for one run")
    plan = read_plan(recipe)
    used = check_plan(plan, out, _say)
    locks = _locks(out)
    with FileLock(locks / "timing"):  # whoever comes second waits, and finds it measured
        timing = known_timings(plan.rows, used, out / "timing.json", _say)
    plan = replace(plan, rows=[replace(row, settings=used[row.name]) for row in plan.rows])  # for the table
    failed = []
    for number, (row, seed) in enumerate(plan.runs()):
        run = row.run(out, seed)
        if is_done(run, plan):
            continue
        _say(f"run {number + 1} of {len(plan.runs())}: {row.name}, seed {seed}")
        code = 0
        for _ in range(1 + len(KINDS)):  # training, then the evaluations
            if not code and not is_done(run, plan):
                code = _in_a_process(recipe, out, run)
        if code == BUSY:
            _say(f"another process is at {row.name}, seed {seed}")
        elif not is_done(run, plan):
            failed.append(run.name)
        _write(out, plan, timing)
    table = _write(out, plan, timing)
    if failed:
        raise RunsFailed(f"failed, see above: {', '.join(failed)}; the same command tries them again")
    return table


def do_one(recipe: str | Path, out: Path, name: str) -> int:
    """Train one run, or go on with it, or evaluate it where it is trained, unless another process is at it.

    Training and the papers' probe are calls of their own, as they may be on several devices, and kNN is not. With the
    plan's first run, what the rows should beat is evaluated too: raw pixels, and the network with random weights.

    Returns:
        An exit code: 0 or BUSY.

    Raises:
        ValueError: if the plan has no such run.
        Interrupted, NotFiniteError, CollapsedError: as of `adco.pretrain`.
    """
    plan = read_plan(recipe)
    runs = {row.run(out, seed).name: (row, seed) for row, seed in plan.runs()}
    if name not in runs:
        raise ValueError(f"only {name!r} must be one of {', '.join(runs)}")
    row, seed = runs[name]
    run = RunDirectory(row.run(out, seed))
    try:  # on several devices the first rank's lock is that of all
        with FileLock(_locks(out) / name, timeout=0) if is_first_rank() else nullcontext():
            if not run.config.is_file():
                pretrain(**{**row.settings.__dict__, "seed": seed, "out": str(run.path)})
            elif not run.is_finished:
                pretrain(resume=run.path)
            else:
                _evaluate(run, plan, floors=name == next(iter(runs)))
    except Timeout:
        return BUSY
    return 0


def _evaluate(run: RunDirectory, plan: Plan, floors: bool) -> None:
    """In what ways are missing, by the first rank alone but for the papers' probe, which all ranks fit."""
    found = results(run.path, plan)
    kinds = [kind for kind in KINDS if kind not in found]
    if plan.protocol == "sgd":
        kinds = kinds[:1]
    on_all_ranks = plan.protocol == "sgd" and kinds == ["linear"]
    if kinds and (on_all_ranks or is_first_rank()):
        settings = EvaluateSettings(data=plan.evaluate_on, floors=floors, protocol=plan.protocol)
        evaluate_kinds(kinds, run.path, settings)


def _in_a_process(recipe: str | Path, out: Path, run: Path) -> int:
    """The exit code of `do_one` in a process of its own, whose command line Lightning repeats for further devices.

    Raises:
        Interrupted: if this process is told to stop; so is the other then, and waited for.
    """
    command = [sys.executable, "-m", "adco.cli", "compare", str(recipe), "--out", str(out), "--only", run.name]
    process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C reaches it once, through us
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(received[0], RunDirectory(run))
    return code


def _locks(out: Path) -> Path:
    folder = out / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(out: Path, plan: Plan, timing: dict[str, Any]) -> Table:
    with FileLock(_locks(out) / "table"):
        table = collect(plan, out, timing)
        write_json(out / "table.json", to_json(table))
        write_whole(out / "table.md", markdown(table))
        save_picture(out / "table.png", table)
    return table


def _say(words: str) -> None:
    print(f"adco: {words}", file=sys.stderr, flush=True)
