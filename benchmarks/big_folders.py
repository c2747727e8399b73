"""Seconds and memory of a run over very many files: 1 000 to 300 000, in class folders and in one folder.

    python benchmarks/big_folders.py --before TREE

The files are hard links to a few JPEGs of 96 px. TREE is a checkout of the version to compare with, such as a git
worktree; the two versions are measured in turns. A tiny network is trained, so that little but the data takes time and
memory. Measured are, without and with the caches of an earlier run:

- seconds from the start of the command to the end of the first step, and those that imports take; also as seconds of
  processor time, which other programs on the machine change less
- the largest resident memory of the training process until then
- the memory of each loader worker after the first step and after an epoch of at most 10 000 images: the proportional
  set size, and the part that is not shared with other processes
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from measure import save

SIZES = (300_000, 100_000, 10_000, 1_000)
CLASSES, SIDE, JPEGS = 100, 96, 32  # JPEGS: ext4 allows 65 000 links to a file
CAP, BATCH = 10_000, 256
FLAGS = {
    **{"epochs": 1, "batch_size": BATCH, "image_size": 32, "knn_images": 0, "accelerator": "cpu"},
    **{"backbone_args": "{layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}", "adversaries": 64, "hidden": 32},
    **{"warm_start": "false", "log_every": 1_000, "checkpoint_every": 1_000_000},
}

# The command, which writes what it measures and stops after the last step.
PROGRAM = """
import json, multiprocessing, os, sys, time
from pathlib import Path
started, last, found = float(sys.argv[1]), int(sys.argv[2]), {}
from adco.cli.main import main
def field(process, file, name):
    lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
def workers():
    pids = [child.pid for child in multiprocessing.active_children()]
    fields = {"pss": "Pss:", "own": "Private_Dirty:"}
    return {key: [round(field(pid, "smaps_rollup", name)) for pid in pids] for key, name in fields.items()}
import adco.cli.pretrain as command
train = command._train
def timed(**settings):
    getattr(command, "import_lightning", lambda: None)()
    import adco.api
    from adco.training import monitor
    found.update(imports=time.time() - started, imports_cpu=time.process_time())
    def at_step(self, trainer, *rest):
        if trainer.global_step == 1:
            found.update(first_step=time.time() - started, first_step_cpu=time.process_time())
            found.update(peak=field("self", "status", "VmHWM"), at_start=workers())
        if trainer.global_step == last or trainer.is_last_batch:
            found.update(after_epoch=workers(), peak_after_epoch=field("self", "status", "VmHWM"))
            print("MEASURED", json.dumps(found), flush=True)
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(0)
    monitor.Monitor.on_train_batch_end = at_step
    return train(**settings)
command._train = timed
sys.argv = ["adco", *sys.argv[3:]]
main()
"""


def make_folder(root: Path, files: int, *, flat: bool) -> Path:
    """Fill a folder with so many links to a few JPEGs, once."""
    folder = root / f"{'flat' if flat else 'classes'}-{files}"
    if folder.is_dir():
        return folder
    originals = root / "originals"
    originals.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for i in range(JPEGS):
        coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(originals / f"{i}.jpg", quality=90)
    aside = folder.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)
    for i in range(files):
        place = aside if flat else aside / f"class-{i % CLASSES:03}"
        if i < CLASSES:
            place.mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{i % JPEGS}.jpg", place / f"image-{i:07}.jpg")
    aside.rename(folder)
    return folder


def run(tree: Path, folder: Path, *, workers: int, cache: Path, images: int) -> dict[str, Any]:
    """Run `adco pretrain` of a version until so many images are trained on; return what it measured."""
    flags = [f"--{name}={value}" for name, value in {**FLAGS, "workers": workers}.items()]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as out:
        numbers = [str(time.time()), str(max(1, images // BATCH))]
        command = [sys.executable, "-c", PROGRAM, *numbers, "pretrain", str(folder), *flags]
        done = subprocess.run([*command, f"--out={out}/run"], env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if not lines:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(lines[0].removeprefix("MEASURED "))
    return found


def measure(trees: dict[str, Path], folder: Path, runs: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Measure the versions in turns, first without caches, then with those of the first run.

    Args:
        trees: name → checkout.
        folder: the images.
        runs: the workers and images of each run; only the first is without caches.
    """
    rows = []
    with tempfile.TemporaryDirectory() as caches:
        for turn, (workers, images) in enumerate(runs):
            for name, tree in trees.items():
                found = run(tree, folder, workers=workers, cache=Path(caches) / name, images=images)
                facts = {
                    "folder": folder.name,
                    "workers": workers,
                    "cache": "warm" if turn else "cold",
                    "images": images,
                }
                rows.append({**facts, "version": name, **found})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, required=True, metavar="TREE")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "adco-big-folders")
    options = parser.parse_args()
    trees = {"before": options.before, "after": Path(__file__).parents[1]}
    rows: list[dict[str, Any]] = []
    measure(trees, make_folder(options.data, SIZES[-1], flat=True), [(2, BATCH)])  # compiles with Numba and Python
    for files in SIZES:
        for flat in (False, True):
            folder = make_folder(options.data, files, flat=flat)
            warm = [(2, BATCH)] if flat else [(2, min(files, CAP)), (4, min(files, CAP))]
            rows += measure(trees, folder, [(2, BATCH), *warm])
    save("big_folders", {"runs": rows})


if __name__ == "__main__":
    main()
