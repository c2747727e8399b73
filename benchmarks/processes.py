"""Two processes of one thread against one process of two threads, on the same cores: every method of the table.

    python benchmarks/processes.py

Each method trains with the table's network and batch size on 5 000 images of CIFAR-10, as `adco pretrain --devices 2`
and `--devices 1`, in turns. The processes exchange gradients, keys and BatchNorm statistics by gloo. Images per second
are medians over the second half of the records of a run. Efficiency is the ratio of the two; the median over rounds.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

from adco.comparison.plan import read_plan
from adco.config.pretrain import Given, to_dict
from adco.runs.directory import RunDirectory
from folders import data_of
from measure import save, show

ROWS = ("SimCLR", "MoCo v2", "BYOL", "SimSiam", "AdCo 8192")
ROUNDS, EPOCHS = 2, 4


def speed(settings: Given, devices: int, folder: Path) -> float:
    """Train and return the images per second of the second half of a run."""
    recipe = folder / "recipe.yaml"
    asked = replace(settings, data=data_of("cifar10-5000"), epochs=EPOCHS, log_every=1, knn_images=0)
    recipe.write_text(yaml.safe_dump({**to_dict(asked), "accelerator": "cpu", "devices": devices}))
    run = folder / f"run-{devices}"
    subprocess.run(
        [sys.executable, "-m", "adco", "pretrain", "--recipe", str(recipe), "--out", str(run)],
        env={**os.environ, "OMP_NUM_THREADS": str(2 // devices)},
        check=True,
        capture_output=True,
    )
    records = RunDirectory(run).records()
    speeds = [float(record["images_per_second"]) for record in records if "images_per_second" in record]
    return statistics.median(speeds[len(speeds) // 2 :])


def main() -> None:
    rows = {row.name: row.settings for row in read_plan("cifar10_table5").rows if row.name in ROWS}
    speeds: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in rows}
    for _ in range(ROUNDS):
        for name, settings in rows.items():
            for devices, found in speeds[name].items():
                with tempfile.TemporaryDirectory() as folder:
                    found.append(speed(settings, devices, Path(folder)))
    figures = {
        name: {
            "images_per_second": found,
            "efficiency": statistics.median(two / one for one, two in zip(found[1], found[2], strict=True)),
        }
        for name, found in speeds.items()
    }
    show(
        "two processes of one thread / one process of two threads",
        ["", "one process, images / s", "two processes", "efficiency"],
        [
            [name, *(f"{statistics.median(found):.0f}" for found in speeds[name].values()), f"{f['efficiency']:.2f}"]
            for name, f in figures.items()
        ],
    )
    save("processes", {"rounds": ROUNDS, "figures": figures})


if __name__ == "__main__":
    main()
