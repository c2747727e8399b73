"""Memory, open files and threads of a run of 20 000 steps, with 0 and 2 workers.

    python benchmarks/long_runs.py [STEPS]

A small network is trained on scikit-learn's digits as files. Every 200 steps, the resident memory of the process and
its workers, its open file descriptors and its threads are read from /proc. Reported are their means over the second
tenth of the run and over the last one.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from adco.data.sources.digits import digits
from measure import save, show

BATCH, EVERY = 64, 200  # images per step, steps between two readings
NETWORK = "{layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"


def write_files(folder: Path) -> int:
    """Write digits as PNG files in class folders, and return their number."""
    images, labels, classes = digits("train")
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / classes[label] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return len(images)


def reading(pid: int) -> dict[str, float]:
    """Return the memory in MB of a process and its children, and its open files and threads."""
    tasks = Path(f"/proc/{pid}/task")
    children = {int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()}
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (pid, *children))
    return {
        "megabytes": pages * 4096 / 2**20,
        "open files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(tasks.iterdir())),
        "processes": 1 + len(children),
    }


def measure(data: Path, images: int, workers: int, steps: int) -> list[dict[str, float]]:
    """Train for about so many steps, and return the readings."""
    with tempfile.TemporaryDirectory() as aside:
        run = Path(aside) / "run"
        flags = {"data": data, "out": run, "backbone_args": NETWORK, "hidden": 32, "batch_size": BATCH}
        flags |= {"workers": workers, "epochs": -(-steps // (images // BATCH)), "adversaries": 512, "image_size": 8}
        flags |= {"log_every": EVERY, "stop_when_collapsed": "false", "checkpoint_every": 1000}
        command = [sys.executable, "-m", "adco", "pretrain", *(f"--{name}={value}" for name, value in flags.items())]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found: list[dict[str, float]] = []
        records = run / "metrics.jsonl"
        while process.poll() is None:
            time.sleep(0.5)
            if records.is_file() and records.read_bytes().count(b'"loss"') > len(found):
                found.append(reading(process.pid))
        if process.returncode:
            raise RuntimeError(f"the run ended with {process.returncode}")
    return found


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    results: dict[str, Any] = {"steps": steps}
    rows = []
    with tempfile.TemporaryDirectory() as aside:
        images = write_files(Path(aside))
        for workers in (0, 2):
            found = measure(Path(aside), images, workers, steps)
            tenth = len(found) // 10
            early, late = found[tenth : 2 * tenth], found[-tenth:]
            for name in found[0]:
                means = [statistics.fmean(each[name] for each in part) for part in (early, late)]
                rows.append([str(workers), name, *(f"{mean:.1f}" for mean in means)])
                results[f"{workers} workers, {name}"] = means
            results[f"{workers} workers, all"] = {name: [round(each[name], 1) for each in found] for name in found[0]}
    show(f"a run of {steps} steps", ["workers", "", "second tenth", "last tenth"], rows)
    save("long_runs", results)


if __name__ == "__main__":
    main()
