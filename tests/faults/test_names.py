"""Names of folders and files that are not UTF-8, as other systems and old archives leave them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adco
import tiny
from adco.cli.main import run as command
from adco.words import unicode

CLASS = b"caf\xe9"  # in Latin-1


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty images in two classes, of which one and the folder itself have such names."""
    folder = os.path.join(os.fsencode(tmp_path), b"ph\xff")  # noqa: PTH118
    draw = np.random.default_rng(0)
    try:
        for number in range(40):
            inside = os.path.join(folder, [CLASS, b"plain"][number % 2])  # noqa: PTH118
            os.makedirs(inside, exist_ok=True)  # noqa: PTH103
            with open(os.path.join(inside, b"%02d-\xfe.png" % number), "wb") as file:  # noqa: PTH118, PTH123
                Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system has no such names")
    return Path(os.fsdecode(folder))


def test_bytes_are_shown_by_their_numbers() -> None:
    assert unicode("café") == "café"
    assert unicode(os.fsdecode(CLASS)) == "caf\\udce9"


@pytest.mark.slow
@pytest.mark.fault("names of files and folders that are not UTF-8, in nine commands")
@pytest.mark.filterwarnings("ignore:only .* test images")
def test_every_command_works(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], report: Callable[..., None]
) -> None:
    run, tuned = tiny.untrained_run(tmp_path / "run", data=str(photos)).path, tmp_path / "tuned"
    lines = [
        f"evaluate knn {run}",
        f"probe {run} --draws 1",
        f"embed {run} --data DATA --out {tmp_path}/e.csv",
        f"neighbors {run} --data DATA --k 1 --out {tmp_path}/n.csv --sheet {tmp_path}/n.png",
        f"duplicates {run} --data DATA --out {tmp_path}/d.csv",
        "check DATA",
        f"finetune {run} --data DATA --epochs 1 --out {tuned}",
        f"export {tuned} --to torch",
        f"report {tuned} --out {tmp_path}/r.html --images 20",
    ]
    report(tried=len(lines))
    for line in lines:
        arguments = [str(photos) if word == "DATA" else word for word in line.split()]
        assert command(arguments) == 0, (line, capfd.readouterr().err)
    assert adco.load_classifier(tuned).classes == ("caf\\udce9", "plain")
    (result,) = (run / "results").glob("knn-*.json")
    assert set(json.loads(result.read_text())["per_class"]) == {"caf\\udce9", "plain"}
