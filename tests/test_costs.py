"""What a recipe's runs cost: rows, seeds and devices are counted, and images that are not here are noise."""

from pathlib import Path

import pytest
import yaml

import tiny
from adco.cli import main as cli
from adco.comparison.costs import RowCost, costs
from adco.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_processes")

SMALL = {"backbone_args": tiny.NETWORK, "hidden": 16, "accelerator": "cpu", "image_size": 32, "workers": 0}


def recipe(path: Path, **values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def measured(path: Path, devices: int | None = None, images: int | None = None) -> list[RowCost]:
    return list(costs(path, devices, images, lambda words: None))


@pytest.mark.slow
def test_rows_seeds_epochs_and_devices_are_counted(tmp_path: Path) -> None:
    """Of images that are not here there is no kNN, so an epoch is its steps: that of one device is half as long."""
    rows = {
        "one": {"method": "simclr", "batch_size": 16, "epochs": 3},
        "two": {"method": "adco", "batch_size": 16, "epochs": 5, "adversaries": 50, "seeds": [4, 5]},
    }
    plan = recipe(tmp_path / "plan.yaml", shared={**SMALL, "data": "gone/"}, seeds=[0], images=1000, rows=rows)
    one, two = measured(plan)
    assert (one.row, one.runs, one.epochs, one.processes) == ("one", 1, 3, 1)
    assert (two.row, two.runs, two.epochs) == ("two", 2, 5)
    assert one.cost.epoch == pytest.approx(one.cost.step * (1000 // 16))
    assert two.seconds == pytest.approx(two.cost.before_first_step + 5 * two.cost.epoch)
    assert two.exchanged == pytest.approx(one.exchanged, rel=0.02)  # the gradients of adversaries are not
    (shared,) = measured(recipe(tmp_path / "run.yaml", **SMALL, **rows["one"], data="gone/"), devices=2, images=2000)
    assert (shared.row, shared.processes) == ("run", 2)
    assert shared.cost.epoch == pytest.approx(shared.cost.step * (2000 // 16))


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    run = recipe(tmp_path / "run.yaml", **SMALL, data="gone/", batch_size=16)
    with pytest.raises(InputError, match=r"^data gone/ is not on this machine: give --images, the number of its im"):
        measured(run)
    with pytest.raises(InputError, match=r"^batch_size 16 cannot be divided among 3 devices$"):
        measured(run, devices=3, images=100)


@pytest.mark.slow
def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = recipe(tmp_path / "mine.yaml", **tiny.SETTINGS, data="digits", batch_size=256, epochs=2)
    assert cli.run(["cost", str(run)]) == 0
    told = capsys.readouterr()
    assert "row 1 of 1: mine" in told.err
    (row,) = (line.split() for line in told.out.splitlines() if line.strip().startswith("mine"))
    assert row[1].replace(".", "").isdigit()
    assert row[-1] == "GB"
    assert "all runs, one after the other: " in told.out
    assert "measured on cpu in " in told.out
