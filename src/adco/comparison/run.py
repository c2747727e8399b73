"""Comparison of methods: train and evaluate every row with every seed under the same conditions, and write one table.

    compare("cifar10_table5", Path("runs/cifar10_table5"))

Finished runs are skipped, so the same call continues a comparison that was stopped or killed. Several processes may
work on the same comparison, for example one per device: each takes the next run that no other process is working on.
"""

import logging
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
from adco.comparison.check import check_plan
from adco.comparison.page import html
from adco.comparison.picture import save_picture
from adco.comparison.plan import Plan, read_plan
from adco.comparison.report import markdown, to_json
from adco.comparison.table import Table, collect, is_done, results
from adco.comparison.timing import known_timings
from adco.config.commands import EvaluateSettings
from adco.data.workers import heeded
from adco.errors import AdcoError, InputError
from adco.evaluation.evaluate import evaluate
from adco.files import write_json, write_text
from adco.launcher import is_first_rank, place
from adco.runs.directory import RunDirectory
from adco.training.errors import Interrupted

logger = logging.getLogger("adco")
BUSY = 75  # exit code if another process is already working on the run (EX_TEMPFAIL of sysexits.h)


class RunsFailed(AdcoError):
    """Some runs of a comparison failed. The others are finished, or other processes are working on them."""


def compare(recipe: str | Path, out: Path) -> Table:
    """Train and evaluate the missing runs, time all rows, and write table.json, table.md, table.png and table.html.

    The table is rewritten after each run, so intermediate results can be read. All rows are run with the first seed,
    then with the second, and so on. If a run fails, the remaining runs are still done.

    Args:
        recipe: name of a comparison in the package, or a YAML file; see `adco.comparison.plan`.
        out: directory for the runs and the table.

    Raises:
        InputError: the recipe is not a comparison, a row cannot be trained, there are no labels for the evaluation, or
            a run in `out` has different settings. Raised before anything is timed or trained.
        Interrupted: a signal stopped a run; the same call continues from its last checkpoint.
        RunsFailed: some runs failed; the same call retries them.
    """
    if place()[1] > 1:
        raise InputError(
            "adco compare starts its own processes, one per device: call it without a launcher, "
            "or use --only for a single run"
        )
    plan = read_plan(recipe)
    resolved = check_plan(plan, out, logger.info)
    locks = _locks(out)
    with FileLock(locks / "timing"):  # a second process waits here, then reads the first one's timings
        timing = known_timings(plan.rows, resolved, out / "timing.json", logger.info)
    plan = replace(plan, rows=[replace(row, settings=resolved[row.name]) for row in plan.rows])  # for the table
    failed = []
    for number, (row, seed) in enumerate(plan.runs()):
        run = row.run_directory(out, seed)
        if is_done(run, plan):
            continue
        logger.info(f"run {number + 1} of {len(plan.runs())}: {row.name}, seed {seed}")
        code = 0
        for _ in range(1 + len(plan.evaluations)):  # stages: training, and at most one for each evaluation
            if not code and not is_done(run, plan):
                code = _run_subprocess(recipe, out, run)
        if code == BUSY:
            logger.info(f"skipped {row.name}, seed {seed}: another process is working on it")
        elif not is_done(run, plan):
            failed.append(run.name)
        _write(out, plan, timing)
    table = _write(out, plan, timing)
    if failed:
        raise RunsFailed(f"failed runs: {', '.join(failed)} (errors above); the same command retries them")
    return table


def run_next_stage(recipe: str | Path, out: Path, name: str) -> int:
    """Do the next stage of one run: start or resume its training, or evaluate it if it is trained.

    Training is one stage, and so is each evaluation that uses all devices, because each of these may start processes.
    All other evaluations are one stage together. The floors, baselines that every row should beat (raw pixels, and the
    same network with random weights), are evaluated only with the plan's first run.

    Args:
        recipe, out: as in `compare`.
        name: the run's directory in `out`, ROW-SEED.

    Returns:
        An exit code: 0, or BUSY if another process is working on the run.

    Raises:
        InputError: the plan has no such run.
        Interrupted, NotFiniteError, CollapsedError: see `adco.pretrain`.
    """
    plan = read_plan(recipe)
    runs = {row.run_directory(out, seed).name: (row, seed) for row, seed in plan.runs()}
    if name not in runs:
        raise InputError(f"only {name!r} must be one of {', '.join(runs)}")
    row, seed = runs[name]
    run = RunDirectory(row.run_directory(out, seed))
    try:  # with several devices, rank 0 holds the lock for all ranks
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
    """Run the evaluations that have no result yet: first those of one device together, then the others one by one.

    Under a launcher, all processes call this. None has a result before all have looked for it.
    """
    done = results(run.path, plan)
    missing = [evaluation for evaluation in plan.evaluations if evaluation.NAME not in done]
    of_one_device = [evaluation for evaluation in missing if not evaluation.ON_ALL_DEVICES]
    if missing:
        evaluate(of_one_device or missing[:1], run.path, EvaluateSettings(data=plan.evaluate_on, floors=floors))


def _run_subprocess(recipe: str | Path, out: Path, run: Path) -> int:
    """Run `run_next_stage` in a subprocess and return its exit code.

    The subprocess is the command `adco compare --only`. That starts itself again for each further device.

    Raises:
        Interrupted: this process received a signal; it was forwarded, and the subprocess has ended.
    """
    command = [sys.executable, "-m", "adco", "compare", str(recipe), "--out", str(out), "--only", run.name]
    process = subprocess.Popen(command, start_new_session=True)  # so that Ctrl-C reaches it only through `forward`
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in heeded()}
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
        write_text(out / "table.md", markdown(table))
        save_picture(out / "table.png", table)
        write_text(out / "table.html", html(table, out.name, (out / "table.png").read_bytes()))
    return table
