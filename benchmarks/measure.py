"""Functions shared by the benchmarks: timing in turns, runs on all cores, tables, and files of results."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from adco.files import write_json
from adco.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
Job = TypeVar("Job")


class Cores(ProcessPoolExecutor):
    """A pool with one process per core; each process and its children are bound to that core.

    A `multiprocessing.Pool` would not do: its workers cannot start processes.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        cores = context.Queue()
        available = sorted(os.sched_getaffinity(0))
        for core in available:
            cores.put(core)
        super().__init__(len(available), context, _bind, (cores,))


def _bind(cores: "multiprocessing.Queue[int]") -> None:
    os.sched_setaffinity(0, {cores.get()})
    torch.set_num_threads(1)


def run_all(run: Callable[[Job], dict[str, Any]], jobs: Iterable[Job], lines: Path) -> None:
    """Do jobs in parallel, one per core, and append each result to a file as soon as it is there.

    Args:
        run: does one job and returns its result.
        lines: a JSON Lines file.

    Raises:
        BaseExceptionGroup: the errors of jobs that failed, after all others are done.
    """
    errors = []
    with Cores() as pool:
        for ended in as_completed([pool.submit(run, job) for job in jobs]):
            if error := ended.exception():
                errors.append(error)
                continue
            with lines.open("a") as file:
                file.write(json.dumps(ended.result()) + "\n")
    if errors:
        raise BaseExceptionGroup("jobs failed; the same command does them again", errors)


def read_lines(lines: Path) -> list[dict[str, Any]]:
    """Return the results so far, or an empty list if there is no file yet."""
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call in each round. The order is A B C A B C …, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(*columns, box=SIMPLE)
    for row in rows:
        table.add_row(*row)
    print(title)
    Console().print(table)


def save(name: str, figures: dict[str, Any]) -> None:
    """Write figures, versions and the machine to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", {**figures, "threads": torch.get_num_threads(), **environment()})
