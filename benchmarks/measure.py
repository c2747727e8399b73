"""What the benchmarks share: timing in turns, a table of medians and ratios, and a file of results."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from adco.run_directory import environment, write_json

RESULTS = Path(__file__).parent / "results"


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
