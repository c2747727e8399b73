"""Random settings of every command and recipe: a line that names what is wrong, at once, and never a traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.rows import FULL, measured, scaled
from faults.settings import make_folder, try_settings


@pytest.mark.slow
@pytest.mark.fault("settings of all commands and recipes, at random")
@pytest.mark.filterwarnings("ignore")
def test_random_settings(tmp_path: Path, report: Callable[..., None]) -> None:
    make_folder(tmp_path)
    number = scaled(60, 1000)
    if not FULL:
        found = try_settings(str(tmp_path), number, 0)
    else:
        found, megabytes = measured(try_settings, str(tmp_path), number, 0)
        report(tried=found["tried"], says=found["says"], megabytes=megabytes)
    assert found["tried"] >= number / 2
    assert found["codes"].get(2, 0) > number / 4  # a user's mistakes
    assert found["codes"].get(1, 0) > 0  # some reach the work
