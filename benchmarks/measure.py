"""What the benchmarks share: timing in turns, runs on all cores, a table of medians and ratios, files of results."""

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

from adco.run_directory import environment, write_json

RESULTS = Path(__file__).parent / "results"
Job = TypeVar("Job")


class Cores(ProcessPoolExecutor):
    """A process for each core, bound to it, with whatever it starts. Not a `Pool`, whose workers may start nothing."""

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
    """Do jobs on all cores at once, one a core, and add the line of each to a file as soon as it ends."""
    with Cores() as pool:
        for ended in as_completed([pool.submit(run, job) for job in jobs]):
            with lines.open("a") as file:
                file.write(json.dumps(ended.result()) + "\n")


def read_lines(lines: Path) -> list[dict[str, Any]]:
    """The lines so far; none where there is no file yet."""
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round: A B C A B C …, after one call of each to warm up."""
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
    """Write figures, versions and the machine into results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", {**figures, "threads": torch.get_num_threads(), **environment()})
