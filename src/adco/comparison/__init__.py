"""The comparison: rows × seeds trained and evaluated alike, timed in turns, and put into one table.

    compare("cifar10_table5", Path("runs/cifar10_table5"))

Whatever is done already is skipped, so the same call goes on where one was stopped or killed; and called on several
devices at once, each takes the next run that no other is at.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adco.api import pretrain
from adco.comparison.claims import Claim, claims, markdown, to_json
from adco.comparison.picture import save_picture
from adco.comparison.plan import Plan, Row, read_plan
from adco.comparison.table import Entry, Table, collect, is_done
from adco.comparison.timing import known_timings
from adco.evaluation.runs import evaluate_kinds
from adco.run_directory import RunDirectory, write_json, write_whole
from adco.settings import EvaluateSettings, to_dict

__all__ = ["Claim", "Entry", "Plan", "Row", "Table", "claims", "compare", "read_plan"]


def compare(recipe: str | Path, out: Path) -> Table:
    """Train and evaluate what is missing, measure what it costs, and write table.json, table.md and table.png.

    The table is written anew after each run, so that it can be read before the last is done. Seeds are taken one after
    another, all rows each. With the first run, what the rows should beat is evaluated too: raw pixels, and its network
    with random weights.

    Raises:
        ValueError: if the recipe is no comparison, a row cannot be trained, or a run in `out` is of other settings.
        adco.callbacks.Interrupted: if a signal stopped a run; the same call goes on from there.
    """
    plan = read_plan(recipe)
    locks = out / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "timing"):  # whoever comes second waits, and finds it measured
        timing = known_timings(plan.rows, out / "timing.json", _say)
    for number, (seed, row) in enumerate((seed, row) for seed in plan.seeds for row in plan.rows):
        run = RunDirectory(row.run(out, seed))
        if run.config.is_file():
            _check_same(row, run)
        with _claim(locks / run.path.name) as mine:
            if not mine:
                _say(f"run {number + 1}: another process is at {row.name}, seed {seed}")
            elif not is_done(run.path):
                _say(f"run {number + 1} of {len(plan.seeds) * len(plan.rows)}: {row.name}, seed {seed}")
                _do(row, run, seed, floors=number == 0)
                _write(out, plan, timing)
    return _write(out, plan, timing)


@contextmanager
def _claim(path: Path) -> Iterator[bool]:
    """Whether a lock is ours, which it is until the end of the block or of the process."""
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        yield False
    else:
        with lock:
            yield True


def _do(row: Row, run: RunDirectory, seed: int, *, floors: bool) -> None:
    """Train, or go on, and evaluate one run."""
    if not run.config.is_file():
        pretrain(**{**row.settings.__dict__, "seed": seed, "out": str(run.path)})
    elif not run.is_finished:
        pretrain(resume=run.path)
    evaluate_kinds(["knn", "linear"], run.path, EvaluateSettings(floors=floors))


def _check_same(row: Row, run: RunDirectory) -> None:
    """A run that was begun with other settings would end up in the wrong row."""
    begun, asked = run.read_config(), to_dict(row.settings)
    for name, value in asked.items():
        if name != "seed" and value is not None and value != "auto" and begun.get(name) != value:
            was = f"was begun with {name} {begun.get(name)}, not {value}"
            raise ValueError(f"{run.path} {was}: remove it to begin anew")


def _write(out: Path, plan: Plan, timing: dict[str, Any]) -> Table:
    table = collect(plan, out, timing)
    write_json(out / "table.json", to_json(table))
    write_whole(out / "table.md", markdown(table))
    save_picture(out / "table.png", table.entries)
    return table


def _say(words: str) -> None:
    print(f"adco: {words}", file=sys.stderr, flush=True)
