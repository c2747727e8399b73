"""The rows of docs/reliability.md: how often a fault was tried, how often it was survived, and what a person reads."""

import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from os import environ
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.jsonl"
FULL = bool(environ.get("ADCO_FAULTS"))  # `make faults`: all of them, in processes of their own, and rows are written
Result = TypeVar("Result")


class Measured(NamedTuple):
    """What a function returned in a process of its own, its seconds, and the memory that the process had at most."""

    result: Any
    seconds: float
    megabytes: float


def scaled(few: int, many: int) -> int:
    """Return how often to try: `few` times in `make test`, `many` times in `make faults`."""
    return many if FULL else few


def measured(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Call a function in a process of its own, as a crash would end this one.

    Raises:
        concurrent.futures.process.BrokenProcessPool: the process crashed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_timed, function, arguments).result()


def write_row(fault: str, tried: int, survived: int, says: str, **numbers: float) -> None:
    """Print a row and, in `make faults`, write it in place of the earlier row of the same fault.

    Args:
        fault: what happens, in a few words.
        tried: how often.
        survived: how often it ended as it should.
        says: what the person reads, an example.
        numbers: further numbers, such as seconds and megabytes.
    """
    row = {"fault": fault, "tried": tried, "survived": survived, "says": says, **numbers}
    print(json.dumps(row, ensure_ascii=False))
    if not FULL:
        return
    rows = read_rows()
    known = next((place for place, old in enumerate(rows) if old["fault"] == fault), len(rows))
    rows[known : known + 1] = [row]
    FILE.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows() -> list[dict[str, Any]]:
    """Return the rows that were written."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.is_file() else []


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Measured:
    began = time.perf_counter()
    result = function(*arguments)
    seconds = round(time.perf_counter() - began, 1)
    # Of this program alone: ru_maxrss begins with that of the process that started it.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return Measured(result, seconds, round(int(line.split()[1]) / 1024))
