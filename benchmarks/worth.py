"""Where is it worth training the negatives? Trained against fixed adversaries, with other batches, banks and lengths.

    python benchmarks/worth.py          do all runs that have no result yet
    python benchmarks/worth.py table    print the table in Markdown, and draw results/worth.png

All runs are the package's AdCo with the defaults of a short run, on 5 000 images of CIFAR-10 with the network of the
table. One setting at a time differs from `BASE`. Fixed adversaries have a learning rate of 0 and stay as the warm start
made them. All figures are from training images, by cross-validation (`search.folds`). Results are appended to
results/worth.jsonl, one line per run.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import t

import adco
from folders import data_of
from measure import RESULTS, read_lines, run_all
from search import folds

LINES, PICTURE, SOURCE = RESULTS / "worth.jsonl", RESULTS / "worth.png", "cifar10-5000"
SEEDS = (0, 1, 2)
BASE = {"batch_size": 128, "adversaries": 1024, "epochs": 20}
VARIED = {"batch_size": (16, 32, 128, 512), "adversaries": (128, 1024, 8192), "epochs": (5, 20, 80)}
AXES = {
    "batch_size": "batch size: in-batch negatives",
    "adversaries": "K, number of adversaries",
    "epochs": "length in epochs of 5 000 images",
}
ARMS: dict[str, dict[str, Any]] = {"trained": {}, "fixed": {"adversary_learning_rate": 0.0}}
NETWORK: dict[str, Any] = {
    "backbone_args": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]},
    "image_size": 16,
    "test_image_size": 24,
    "blur_probability": 0.0,
    "hidden": 512,
}
Line = dict[str, Any]


class Job(NamedTuple):
    """A run: its settings that vary, trained or fixed, and its seed."""

    batch_size: int
    adversaries: int
    epochs: int
    arm: str
    seed: int


class Gain(NamedTuple):
    """Trained minus fixed in points: the mean over seeds, and half the width of its 95 % interval."""

    mean: float
    half: float
    seeds: int


def jobs() -> Iterator[Job]:
    """Yield all runs: each point with the first seed, then with the next."""
    points = [BASE | {name: value} for name, values in VARIED.items() for value in values]
    for seed in SEEDS:
        for number, point in enumerate(points):
            if point not in points[:number]:
                yield from (Job(**point, arm=arm, seed=seed) for arm in ARMS)


def run(job: Job) -> Line:
    """Train and evaluate one run; return its line of results."""
    point = {name: getattr(job, name) for name in BASE}
    data = data_of(SOURCE)
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        adco.pretrain(data=data, out=out, seed=job.seed, knn_images=0, workers=0, **NETWORK, **point, **ARMS[job.arm])
        return {**job._asdict(), **folds(out / "backbone.safetensors", data)}


def gain(lines: list[Line], point: dict[str, int], figure: str) -> Gain | None:
    """Return the gain at a point, paired by seed; None if fewer than two seeds have both runs."""
    found = {
        (line["seed"], line["arm"]): line[figure]
        for line in lines
        if all(line[name] == value for name, value in point.items())
    }
    seeds = [seed for seed in SEEDS if {(seed, arm) for arm in ARMS} <= found.keys()]
    if len(seeds) < 2:
        return None
    gains = [found[seed, "trained"] - found[seed, "fixed"] for seed in seeds]
    half = t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    return Gain(statistics.fmean(gains), float(half), len(gains))


def table() -> str:
    """Return the table in Markdown: at each point, what training the adversaries gains in points."""
    lines = read_lines(LINES)
    rows = ["| setting | value | seeds | linear | kNN |", "|---|---|---|---|---|"]
    for name, values in VARIED.items():
        for value in values:
            found = [gain(lines, BASE | {name: value}, figure) for figure in ("linear", "knn")]
            if found[0]:
                figures = " | ".join(f"{each.mean:+.1f} ± {each.half:.1f}" for each in found if each)
                rows.append(f"| {AXES[name]} | {value} | {found[0].seeds} | {figures} |")
    return "\n".join(rows)


def draw() -> None:
    """Draw the gain against each setting, with 95 % intervals."""
    from matplotlib.figure import Figure

    lines = read_lines(LINES)
    figure = Figure(figsize=(10, 3.2), layout="constrained", dpi=110)
    for axes, (name, values) in zip(figure.subplots(1, len(VARIED), sharey=True), VARIED.items(), strict=True):
        for kind, colour in (("linear", "#0b6e99"), ("knn", "#d1495b")):
            found = [(value, gain(lines, BASE | {name: value}, kind)) for value in values]
            drawn = [(value, each) for value, each in found if each]
            x, means, halves = zip(*((value, each.mean, each.half) for value, each in drawn), strict=True)
            axes.errorbar(x, means, halves, color=colour, marker="o", markersize=4, capsize=3, label=kind)
        axes.axhline(0, color="0.6", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(value) for value in values])
        axes.set_xlabel(AXES[name])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("trained − fixed, points of top-1")
    figure.axes[0].legend(frameon=False)
    figure.savefig(PICTURE)


def main() -> None:
    if sys.argv[1:] == ["table"]:
        print(table())
        draw()
        return
    data_of(SOURCE)  # create the folder here, before several processes would at once
    done = {tuple(line[name] for name in Job._fields) for line in read_lines(LINES)}
    run_all(run, (job for job in jobs() if job not in done), LINES)


if __name__ == "__main__":
    main()
