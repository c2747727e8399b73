"""Runs that are killed at random moments end with the bits and the records of runs that are not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.kills import KINDS, killed_runs
from faults.rows import FULL, scaled


@pytest.mark.slow
@pytest.mark.fault("a run is killed by SIGKILL, SIGTERM or SIGINT at a random moment, once or twice")
@pytest.mark.parametrize("kind", list(KINDS) if FULL else ["AdCo", "BYOL, two workers"])
def test_killed_runs_end_as_if_they_had_not_been_killed(kind: str, tmp_path: Path, report: Callable[..., None]) -> None:
    number, wrong, says = scaled(1, 17), list[str](), ""
    for problem, said in killed_runs(tmp_path, kind, number):
        wrong += [problem] if problem else []
        assert not any("Traceback" in line for line in said), "\n".join(said)
        says = next((line for line in said if "continue with" in line), says)
    report(tried=number, survived=number - len(wrong), says=says)
    assert not wrong
