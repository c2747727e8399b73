"""A node of two is killed, ten times by `make faults`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.rows import FULL

TIMES = 10
NOT_POSSIBLE = 77  # exit code of the script where there are no network namespaces


@pytest.mark.slow
@pytest.mark.fault("the process of one of two nodes is killed, under torchrun --max_restarts")
@pytest.mark.skipif(not FULL, reason="by make faults: it takes minutes")
def test_a_run_on_two_nodes_survives_the_end_of_one(report: Callable[..., None]) -> None:
    command = [sys.executable, str(Path(__file__).with_name("two_nodes.py")), f"--times={TIMES}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode == NOT_POSSIBLE:
        pytest.skip("network namespaces need root")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    report(**found)
    assert found["survived"] == TIMES, done.stderr
