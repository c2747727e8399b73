"""Runs that are killed at random moments end with the bits and the records of runs that are not."""

from pathlib import Path

import pytest

from faults.kills import killed_runs
from faults.rows import scaled, write_row


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been_killed(tmp_path: Path) -> None:
    number, wrong, example = scaled(2, 200), list[str](), ""
    for kind, problem, said in killed_runs(tmp_path, number, seed=1):
        wrong += [f"{kind}: {problem}"] if problem else []
        assert not any("Traceback" in line for line in said), said
        example = next((line for line in said if "continue with" in line), example)
    write_row(
        "a run is killed by SIGKILL, SIGTERM or SIGINT at a random moment, once or twice",
        number,
        number - len(wrong),
        example.replace(str(tmp_path), "runs"),
    )
    assert not wrong
