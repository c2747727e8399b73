"""What the demo says at its end; the training itself is in `test_pretraining.py`."""

from pathlib import Path
from typing import Any

import pytest

from adco.demo import what_happened
from adco.runs.directory import RunDirectory


def scores(top1: float, low: float, high: float) -> dict[str, Any]:
    return {"data": "cifar10", "top1": top1, "top1_interval": [low, high]}


@pytest.mark.parametrize(
    ("low", "words"), [(66.5, "AdCo learned: "), (41.8, "AdCo did not learn more than the floors: ")]
)
def test_the_last_line_says_whether_both_floors_are_beaten(tmp_path: Path, low: float, words: str) -> None:
    run = RunDirectory.create(tmp_path / "demo")
    run.write_config({"epochs": 3})
    floors = {"random weights": scores(40.94, 40.0, 41.9), "raw pixels": scores(40.2, 39.2, 41.2)}
    linear = {**scores(67.38, low, 68.3), "floors": floors}
    line = words + (
        "linear top-1 67.4 % against 40.9 % of random weights and 40.2 % of raw pixels (cifar10, 3 epochs, one seed)"
    )
    assert what_happened(run.path, linear) == line
    run.append({"step": 20, "epoch": 0, "word": "learning"})
    run.append({"step": 40, "epoch": 0, "word": "asleep"})
    run.append({"step": 41, "epoch": 0, "loss": 0.3})
    assert what_happened(run.path, linear) == f"{line}; the run's last verdict: asleep"
