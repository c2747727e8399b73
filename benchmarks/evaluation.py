"""Evaluation in two processes, and its memory with a million features.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [FOLDER]

Two processes extract the features of images together, and one does it alone, in turns. Each process has one core. The
network is a ResNet-18 of a quarter of the width with random weights, the images are JPEG files of 64 px, seen at 32 px.
Where other work runs on the machine, two processes get no more of it than one, so the processor time is measured, too:
that of the process which takes longer. On a machine that does nothing else, it is the time that passes.

Then the evaluations knn and linear are computed from features in a file in FOLDER (by default, the system's for
temporary files), which takes 8.2 GB for knn. Memory is what a process has allocated at its peak, beyond what it had
before; pages of the file, which the system drops when it needs memory, are not counted.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from adco.data.sources.open import open_source
from adco.evaluation.extract import extract_features
from adco.evaluation.knn import knn_scores
from adco.evaluation.linear import fit_linear_probe
from adco.models.backbone import BackboneInfo, build_backbone
from adco.ranks import ALONE, Group, together
from measure import save, show

IMAGES, ROUNDS = 4096, 5
FEATURES = 1_000_000
SIZES = {"knn": (2048, 1000, 1024), "linear": (512, 10, 0)}  # width, classes, test images
WRITTEN = 50_000  # features written at once


def make_images(folder: Path) -> None:
    """Write noise of two kinds as JPEG files in class folders."""
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = draw.integers(0, 256, (8 << number % 2, 8 << number % 2, 3), np.uint8)
        file = folder / "ab"[number % 2] / f"{number:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(file)


def seconds_of_extraction(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return the seconds that pass, and those of a processor, for one process and for two, in each round but the first.

    The features are the same bits.
    """
    with together(2, "cpu") as group:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[group.rank]})
        source = open_source(str(folder))
        info = BackboneInfo("resnet18", 32, (0.5,) * 3, (0.25,) * 3, {"channels": [16, 32, 64, 128]})
        torch.manual_seed(0)
        backbone = build_backbone(info)
        seconds: dict[str, dict[str, list[float]]] = {clock: {"one": [], "two": []} for clock in ("wall", "processor")}
        found = []
        for _ in range(ROUNDS + 1):
            for processes, those in (("one", ALONE), ("two", group)):
                group.gather(None)  # both begin now
                start, used = time.perf_counter(), time.process_time()
                if those is group or group.rank == 0:
                    found.append(_features(backbone, source, info, those))
                seconds["wall"][processes].append(time.perf_counter() - start)
                seconds["processor"][processes].append(max(group.gather(time.process_time() - used)))
        if group.rank:
            sys.exit()
        assert all(torch.equal(features, found[0]) for features in found)
        return {clock: {name: times[1:] for name, times in of.items()} for clock, of in seconds.items()}


def _features(backbone: torch.nn.Module, source: object, info: BackboneInfo, group: Group) -> torch.Tensor:
    return extract_features(
        backbone,
        source,  # type: ignore[arg-type]
        image_size=info.image_size,
        mean=info.mean,
        std=info.std,
        group=group,
    ).features


def make_features(file: Path, width: int, classes: int) -> None:
    """Write clusters of features, one for each class."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((classes, width), np.float32)
    mapped = np.lib.format.open_memmap(file, "w+", np.float32, (FEATURES, width))
    for start in range(0, FEATURES, WRITTEN):
        noise = draw.standard_normal((WRITTEN, width), np.float32)
        mapped[start : start + WRITTEN] = centres[np.arange(start, start + WRITTEN) % classes] + 4 * noise
    mapped.flush()


def measured(kind: str, file: str) -> None:
    """Print the seconds of an evaluation, and the MB that it allocated at its peak."""
    _, classes, tests = SIZES[kind]
    features = torch.from_numpy(np.load(file, mmap_mode="r+"))
    labels = torch.arange(FEATURES) % classes
    calls: dict[str, Callable[[], object]] = {
        "knn": lambda: knn_scores(features[tests:], labels[tests:], features[:tests], classes),
        "linear": lambda: fit_linear_probe(features, labels, classes, candidates=(1e-3,)),
    }
    before, peak, done = allocated(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, allocated())

    watching = threading.Thread(target=watch)
    watching.start()
    start = time.perf_counter()
    calls[kind]()
    seconds = time.perf_counter() - start
    done.set()
    watching.join()
    print(seconds, peak - before)


def allocated() -> float:
    """Return the memory of this process that is not of files, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measured(*sys.argv[2:])
        return
    images = Path(tempfile.gettempdir()) / "adco-benchmark-images"  # the second process runs these lines, too
    if "RANK" not in os.environ:
        make_images(images)
    seconds = seconds_of_extraction(images)
    gain = {}
    for clock, of in seconds.items():
        gain[clock] = statistics.median(one / two for one, two in zip(of["one"], of["two"], strict=True))
        rows = [[processes, f"{IMAGES / statistics.median(times):.0f}"] for processes, times in of.items()]
        show(f"extraction, by {clock} time; two processes / one {gain[clock]:.2f}", ["processes", "images/s"], rows)
    memory = {}
    for kind, (width, classes, _) in SIZES.items():
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as aside:
            file = Path(aside) / "features.npy"
            make_features(file, width, classes)
            command = [sys.executable, __file__, "--measure", kind, str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        took, megabytes = map(float, done.stdout.split())
        memory[kind] = {"features": FEATURES, "width": width, "classes": classes, "seconds": took, "MB": megabytes}
    table = [[kind, *(f"{value:,.0f}" for value in figures.values())] for kind, figures in memory.items()]
    show("memory at the peak", ["", "features", "width", "classes", "seconds", "MB"], table)
    save("evaluation", {"images": IMAGES, "seconds": seconds, "two_over_one": gain, "memory": memory})


if __name__ == "__main__":
    main()
