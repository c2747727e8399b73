"""Where is it worth training the negatives? For other batches, banks, lengths and numbers of classes.

    python benchmarks/worth.py          do all runs that have no result yet
    python benchmarks/worth.py table    print the table in Markdown, and draw results/worth.png

All runs are the package's AdCo with the defaults of a short run and the network of the table. Trained adversaries are
compared with fixed ones, which have a learning rate of 0 and stay as the warm start made them. One setting at a time
differs from `BASE`. The images are 5 000 of CIFAR-10; linear and kNN top-1 come from training images, by
cross-validation (`search.folds`).

For the number of classes, the images are emoji by two artists: how many percent of the nearest images by the other
artist show the same category, subcategory or emoji. Training uses no label, so these three share their runs.

Results are appended to results/worth.jsonl, one line per run.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t

import adco
from folders import data_of
from measure import RESULTS, read_lines, run_all
from search import folds

LINES, PICTURE = RESULTS / "worth.jsonl", RESULTS / "worth.png"
SEEDS = (0, 1, 2)
BASE: dict[str, Any] = {"source": "cifar10-5000", "batch_size": 128, "adversaries": 1024, "epochs": 20}
MANY_CLASSES = BASE | {"source": "emoji"}
VARIED = {"batch_size": (16, 32, 128, 512), "adversaries": (128, 1024, 8192), "epochs": (5, 20, 80)}
AXES = {
    "batch_size": "batch size: in-batch negatives",
    "adversaries": "K, number of adversaries",
    "epochs": "length in epochs of 5 000 images",
}
CLASSES = "number of classes, emoji"
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
    """A run: its images and settings that vary, trained or fixed, and its seed."""

    source: str
    batch_size: int
    adversaries: int
    epochs: int
    arm: str
    seed: int


class Gain(NamedTuple):
    """Trained minus fixed in points: the mean over seeds, half its 95 % interval, and the mean of fixed."""

    mean: float
    half: float
    fixed: float
    seeds: int


Gains = dict[str, dict[str, dict[int, Gain]]]  # by axis, figure and value


def jobs() -> Iterator[Job]:
    """Yield all runs: each point with the first seed, then with the next."""
    points = [MANY_CLASSES, *(BASE | {name: value} for name, values in VARIED.items() for value in values)]
    for seed in SEEDS:
        for number, point in enumerate(points):
            if point not in points[:number]:
                yield from (Job(**point, arm=arm, seed=seed) for arm in ARMS)


def run(job: Job) -> Line:
    """Train and evaluate one run; return its line of results."""
    data = data_of(job.source)
    settings: dict[str, Any] = {name: getattr(job, name) for name in BASE if name != "source"}
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        adco.pretrain(
            data=data, out=out, seed=job.seed, knn_images=0, workers=0, **NETWORK, **settings, **ARMS[job.arm]
        )
        if job.source == MANY_CLASSES["source"]:
            return {**job._asdict(), "nearest": nearest_by_the_other(out, data)}
        return {**job._asdict(), **folds(out / "backbone.safetensors", data)}


def nearest_by_the_other(run: Path, data: str) -> dict[str, float]:
    """Return how often (%) the nearest image by the other artist is of the same class, by number of classes."""
    found = adco.embed(run, data=data)
    places = [Path(path).parts[-4:] for path in found.paths]  # category, subcategory, emoji, artist
    artists = np.array([artist for *_, artist in places])
    unit = found.embeddings / np.linalg.norm(found.embeddings, axis=1, keepdims=True)
    cosine = np.where(artists[:, None] == artists, -np.inf, unit @ unit.T)
    nearest = cosine.argmax(axis=1)
    shares = dict[str, float]()
    for level in (1, 2, 3):
        names, label = np.unique(["/".join(place[:level]) for place in places], return_inverse=True)
        shares[str(len(names))] = 100 * float((label[nearest] == label).mean())
    return shares


def gain(lines: list[Line], point: Line, *figure: str) -> Gain | None:
    """Return the gain in a figure at a point, paired by seed; None if fewer than two seeds have both runs."""
    found = dict[tuple[int, str], float]()
    for line in lines:
        if all(line[name] == value for name, value in point.items()):
            value: Any = line
            for name in figure:
                value = value[name]
            found[line["seed"], line["arm"]] = value
    seeds = [seed for seed in SEEDS if {(seed, arm) for arm in ARMS} <= found.keys()]
    if len(seeds) < 2:
        return None
    gains = [found[seed, "trained"] - found[seed, "fixed"] for seed in seeds]
    half = t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    fixed = statistics.fmean(found[seed, "fixed"] for seed in seeds)
    return Gain(statistics.fmean(gains), float(half), fixed, len(gains))


def gains(lines: list[Line]) -> Gains:
    """Return all gains there are, by axis, figure and value."""
    found: dict[str, dict[str, dict[int, Gain | None]]] = {
        AXES[name]: {
            figure: {value: gain(lines, BASE | {name: value}, figure) for value in values}
            for figure in ("linear", "knn")
        }
        for name, values in VARIED.items()
    }
    counts = {count for line in lines for count in line.get("nearest", {})}
    found[CLASSES] = {
        "nearest": {int(count): gain(lines, MANY_CLASSES, "nearest", count) for count in sorted(counts, key=int)}
    }
    return {
        axis: {name: {value: each for value, each in of.items() if each} for name, of in figures.items()}
        for axis, figures in found.items()
    }


def table(found: Gains) -> str:
    """Return the table in Markdown: at each point, fixed adversaries and what training them gains in points."""
    rows = ["| | | figure | seeds | fixed | trained − fixed |", "|---|---|---|---|---|---|"]
    for axis, figures in found.items():
        for name, of in figures.items():
            for value, each in of.items():
                trained = f"{each.mean:+.1f} ± {each.half:.1f}"
                rows.append(f"| {axis} | {value} | {name} | {each.seeds} | {each.fixed:.1f} | {trained} |")
    return "\n".join(rows)


def draw(found: Gains) -> None:
    """Draw the gain along each axis, with 95 % intervals."""
    from matplotlib.figure import Figure

    colours = {"linear": "#0b6e99", "knn": "#d1495b", "nearest": "#d1495b"}
    figure = Figure(figsize=(12, 3.2), layout="constrained", dpi=110)
    for axes, (title, figures) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        for name, of in figures.items():
            means, halves = ([each.mean for each in of.values()], [each.half for each in of.values()])
            axes.errorbar([*of], means, halves, color=colours[name], marker="o", markersize=4, capsize=3, label=name)
        values = sorted({value for of in figures.values() for value in of})
        axes.axhline(0, color="0.6", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.set_xlabel(title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("trained − fixed, points")
    figure.savefig(PICTURE)


def main() -> None:
    if sys.argv[1:] == ["table"]:
        found = gains(read_lines(LINES))
        print(table(found))
        draw(found)
        return
    for source in (BASE["source"], MANY_CLASSES["source"]):
        data_of(source)  # create the folders here, before several processes would at once
    done = {tuple(line[name] for name in Job._fields) for line in read_lines(LINES)}
    run_all(run, (job for job in jobs() if job not in done), LINES)


if __name__ == "__main__":
    main()
