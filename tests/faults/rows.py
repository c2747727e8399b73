"""The rows of docs/reliability.md: what was tried, how often, how often it was survived, and what a person reads.

A test with the marker `fault` is one try, unless it reports that it has made several. Tests of the same fault are one
row.
"""

import json
import re
from collections.abc import Callable
from os import environ
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from program import in_own_process

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.jsonl"
FULL = bool(environ.get("ADCO_FAULTS"))  # `make faults`: everything is tried, and rows are written


class Measured(NamedTuple):
    """What a function returned in a process of its own, and the memory that the process had at most."""

    result: Any
    megabytes: float


def scaled(few: int, many: int) -> int:
    """Return how often to try: `few` times in `make test`, `many` times in `make faults`."""
    return many if FULL else few


def measured(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Call a function in a process of its own, as a crash would end this one.

    Raises:
        concurrent.futures.process.BrokenProcessPool: the process crashed.
    """
    return in_own_process(_with_memory, function, arguments)


def _with_memory(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Measured:
    result = function(*arguments)
    # Of this program alone: ru_maxrss begins with that of the process that started it.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return Measured(result, round(int(line.split()[1]) / 1024))


@pytest.fixture
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Function that adds to the row of a test.

    Its keywords: `says`, the line or error that a person reads; `tried` and `survived`, if the test makes several
    tries; `megabytes`, the memory at most.
    """

    def add(**values: Any) -> None:
        if says := values.get("says"):
            line = f"adco: {says}" if isinstance(says, Exception) else says
            values["says"] = re.sub(r"-\d{8}-\d{6}", "-DATE-TIME", line.replace(f"{tmp_path}/", ""))
        request.node.user_properties.extend(values.items())

    return add


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the report of a test, which may pass from one process to another, name the fault that it tries."""
    if marker := item.get_closest_marker("fault"):
        item.user_properties.append(("fault", marker.args[0]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the test that takes longest: it mostly waits, and at the end it would wait alone."""
    if FULL:
        items.sort(key=lambda item: "test_two_nodes" not in item.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Write rows at the end of `make faults`, in the process that has started the others."""
    if FULL and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Rows())


class Rows:
    """Makes rows from the reports of tests, and writes them in place of earlier rows of the same faults."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        values: dict[str, Any] = dict(report.user_properties)
        if report.when == "call" and not report.skipped and "fault" in values:
            survived = values.get("tried", 1) if report.passed else 0
            test = report.nodeid.partition("[")[0]
            self.add(**{"survived": survived, "test": test, "seconds": report.duration, **values})

    def add(
        self,
        *,
        fault: str,
        test: str,
        survived: int,
        seconds: float,
        tried: int = 1,
        says: str = "",
        megabytes: float = 0,
    ) -> None:
        """Add the tries of a test to the row of its fault."""
        row = self.found.get(fault, {"tests": [], "tried": 0, "survived": 0, "seconds": 0, "megabytes": 0, "says": ""})
        self.found[fault] = {
            "fault": fault,
            "tests": sorted({*row["tests"], test}),
            "tried": row["tried"] + tried,
            "survived": row["survived"] + survived,
            "seconds": round(row["seconds"] + seconds, 1),
            "megabytes": max(row["megabytes"], megabytes),
            "says": row["says"] or says,
        }

    def pytest_sessionfinish(self) -> None:
        rows = {row["fault"]: row for row in read_rows()} | self.found
        in_order = sorted(rows.values(), key=lambda row: (row["tests"], row["fault"]))
        FILE.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in in_order))


def read_rows() -> list[dict[str, Any]]:
    """Return the rows that were written."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.is_file() else []
