"""The run that processes were training when torchrun started them again, because one of them had failed."""

from contextlib import suppress
from itertools import count
from pathlib import Path

from adco.errors import InputError
from adco.launcher import agent
from adco.runs.directory import RUNS, RunDirectory

_runs = count(1)  # a program may train several runs one after another


def name_of_next_run() -> str | None:
    """Return what distinguishes the next run of this program from all others; None without torchrun.

    It is the same if torchrun starts the processes again. For the first rank, and once for each run.
    """
    launch = agent()
    return None if launch is None else f"{launch}-{next(_runs)}"


def run_begun_before(name: str | None, out: str | None) -> RunDirectory | None:
    """Return the run with this name in its environment.json; None if there is none.

    Args:
        name: `name_of_next_run()`.
        out: the run directory, if it was given; by default all under runs/ are searched.
    """
    if name is None:
        return None
    places = [Path(out)] if out else [file.parent for file in RUNS.glob("*/environment.json")]
    runs = (RunDirectory(path) for path in places)
    return next((run for run in runs if run.config.is_file() and _launch_of(run) == name), None)


def _launch_of(run: RunDirectory) -> str | None:
    with suppress(InputError):  # damaged; it may be any run
        launch: str | None = run.read_environment().get("launch")
        return launch
    return None
