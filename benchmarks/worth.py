"""Where is it worth training the negatives? For other batches, banks, lengths, learning rates and numbers of classes.

    python benchmarks/worth.py          do all runs that have no result yet
    python benchmarks/worth.py table    print the table in Markdown, and draw results/worth.png

All runs have the defaults of a short run and the network of the table. AdCo's trained adversaries are compared with
fixed ones, which have a learning rate of 0 and stay as the warm start made them, and with SimCLR, whose only negatives
are the other images of the batch. One setting at a time differs from `BASE`. The images are 5 000 of CIFAR-10; linear
and kNN top-1 come from training images, by cross-validation (`search.folds`).

For the number of classes, the images are emoji by two artists: how many percent of the nearest images by the other
artist show the same category, subcategory or emoji. Training uses no label, so these three share their runs. Learning
rates of the adversaries are compared by the last of the three, too, and on folders of other kinds of images, with the
batch size and number of adversaries that are the defaults there, for as many images as on CIFAR-10. A learning rate of
1 stands for 3/4 · K / 8 192; the default is a tenth of it in runs of 800 steps and more.

Results are appended to results/worth.jsonl, one line per run.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t

import adco
from adco.config import defaults
from adco.data.sources.open import open_source
from folders import data_of
from measure import RESULTS, read_lines, run_all
from search import folds

LINES, PICTURE = RESULTS / "worth.jsonl", RESULTS / "worth.png"
IMAGES = 5000  # of CIFAR-10
RATE_ONE = 3 / 4 / 8192  # learning rate of the adversaries at rate 1, for each of them
SEEDS, MORE_SEEDS = (0, 1, 2), (3, 4, 5, 6, 7, 8, 9)
BASE: dict[str, Any] = {"source": "cifar10-5000", "batch_size": 128, "adversaries": 1024, "epochs": 20, "rate": 1.0}
MANY_CLASSES = BASE | {"source": "emoji"}
FOLDERS, FOLDERS_RATES = ("cifar10-1000", "icons", "photographs", "fashion-mnist-1000"), (0.1, 1.0)
BEST = MANY_CLASSES | {"rate": 0.1}  # the largest gain of three seeds: others tell whether it is one
VARIED: dict[str, tuple[float, ...]] = {
    "batch_size": (16, 32, 128, 512),
    "adversaries": (128, 1024, 8192),
    "epochs": (5, 20, 80),
    "rate": (0.03, 0.1, 0.3, 1.0),
}
OF_ADVERSARIES = ("adversaries", "rate")  # settings that SimCLR does not have
AXES = {
    "batch_size": "batch size: in-batch negatives",
    "adversaries": "K, number of adversaries",
    "epochs": "length in epochs of 5 000 images",
    "rate": "adversary_learning_rate, times 3/4 · K / 8 192",
}
CLASSES, AGAIN = "number of classes, emoji", f"the same at rate {BEST['rate']}, other seeds"
MEAN = "mean of all points of CIFAR-10 with rate 1"
TRAINED, FIXED, SIMCLR = "trained", "fixed", "SimCLR"
NETWORK: dict[str, Any] = {
    "backbone_args": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]},
    "image_size": 16,
    "test_image_size": 24,
    "blur_probability": 0.0,
    "hidden": 512,
}
Line = dict[str, Any]


class Job(NamedTuple):
    """A run: its images and settings that vary, its arm, and its seed."""

    source: str
    batch_size: int
    adversaries: int
    epochs: int
    rate: float  # learning rate of trained adversaries, times 3/4 · K / 8 192
    arm: str
    seed: int


class Difference(NamedTuple):
    """Of two arms in points: the mean over seeds, half its 95 % interval, and the mean of the second."""

    mean: float
    half: float
    second: float
    seeds: int


Differences = dict[tuple[str, str, str], dict[float, Difference]]  # by axis, figure and second arm, and by value


def points() -> list[Line]:
    """Return all points: one setting varies on CIFAR-10, and the learning rate on emoji, too."""
    all_of_them = [
        *(BASE | {name: value} for name, values in VARIED.items() for value in values),
        *(MANY_CLASSES | {"rate": value} for value in VARIED["rate"]),
        *(of_folder(folder) | {"rate": value} for folder in FOLDERS for value in FOLDERS_RATES),
    ]
    return [point for number, point in enumerate(all_of_them) if point not in all_of_them[:number]]


@cache
def of_folder(name: str) -> Line:
    """Return the point of a folder, with the defaults of a run that sees as many images as `BASE`."""
    images = len(open_source(data_of(name)))
    epochs = round(BASE["epochs"] * IMAGES / images)
    batch = defaults.batch_size(images)
    count = defaults.adversaries(images, batch, epochs * images)
    return {"source": name, "batch_size": batch, "adversaries": count, "epochs": epochs, "rate": BASE["rate"]}


def jobs() -> Iterator[Job]:
    """Yield all runs: each point with the first seed, then with the next. SimCLR, which has no adversaries, is last."""
    for seed in MORE_SEEDS:
        yield from (Job(**seen_by(arm, BEST), arm=arm, seed=seed) for arm in (TRAINED, FIXED))
    for arms in ((TRAINED, FIXED), (SIMCLR,)):
        for seed in SEEDS:
            yield from dict.fromkeys(Job(**seen_by(arm, at), arm=arm, seed=seed) for at in points() for arm in arms)


def seen_by(arm: str, point: Line) -> Line:
    """Return a point with the value of `BASE` for each setting that makes no difference to an arm."""
    unseen = {TRAINED: (), FIXED: ("rate",), SIMCLR: OF_ADVERSARIES}[arm]
    return point | {name: BASE[name] for name in unseen}


def run(job: Job) -> Line:
    """Train and evaluate one run; return its line of results."""
    data = data_of(job.source)
    settings: dict[str, Any] = {"batch_size": job.batch_size, "epochs": job.epochs}
    if job.arm == SIMCLR:
        settings["method"] = "simclr"
    else:
        rate = job.rate * RATE_ONE * job.adversaries if job.arm == TRAINED else 0.0
        settings |= {"adversaries": job.adversaries, "adversary_learning_rate": rate}
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        adco.pretrain(data=data, out=out, seed=job.seed, knn_images=0, workers=0, **NETWORK, **settings)
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


def difference(
    lines: list[Line], at: list[Line], second: str, *figure: str, of: tuple[int, ...] = SEEDS
) -> Difference | None:
    """Return the difference of the trained to a second arm in a figure, paired by seed and averaged over points.

    None if fewer than three of the seeds have all runs: an interval of two would be of no use.
    """
    found = [
        {arm: of_seeds(lines, seen_by(arm, point) | {"arm": arm}, *figure) for arm in (TRAINED, second)} for point in at
    ]
    seeds = [seed for seed in of if all(seed in figures for arms in found for figures in arms.values())]
    if len(seeds) < 3:
        return None
    means = {arm: [statistics.fmean(arms[arm][seed] for arms in found) for seed in seeds] for arm in (TRAINED, second)}
    pairs = [one - other for one, other in zip(means[TRAINED], means[second], strict=True)]
    half = t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / len(pairs) ** 0.5
    return Difference(statistics.fmean(pairs), float(half), statistics.fmean(means[second]), len(seeds))


def of_seeds(lines: list[Line], asked: Line, *figure: str) -> dict[int, float]:
    """Return a figure of the runs at a point by seed."""
    fitting = [line for line in lines if all(line[name] == value for name, value in asked.items())]
    return {line["seed"]: reduce(getitem, figure, line) for line in fitting}  # type: ignore[misc]  # of nested dicts


def differences(lines: list[Line]) -> Differences:
    """Return all differences there are."""
    counts = sorted({int(count) for line in lines for count in line.get("nearest", {})})
    found = dict[tuple[str, str, str], dict[float, Difference | None]]()
    for second in (FIXED, SIMCLR):
        for name, values in VARIED.items():
            if second == SIMCLR and name in OF_ADVERSARIES:
                continue
            for figure in ("linear", "knn"):
                found[AXES[name], figure, second] = {
                    value: difference(lines, [BASE | {name: value}], second, figure) for value in values
                }
        found[CLASSES, "nearest", second] = {
            count: difference(lines, [MANY_CLASSES], second, "nearest", str(count)) for count in counts
        }
        if second == FIXED and counts:
            found[AXES["rate"], "nearest", second] = {
                rate: difference(lines, [MANY_CLASSES | {"rate": rate}], second, "nearest", str(counts[-1]))
                for rate in VARIED["rate"]
            }
            for figure in ("linear", "knn"):
                for names in (FOLDERS, *((folder,) for folder in FOLDERS)):
                    of = " of four folders" if names == FOLDERS else f" of {names[0]}"
                    found[AXES["rate"], figure + of, second] = {
                        rate: difference(lines, [of_folder(name) | {"rate": rate} for name in names], second, figure)
                        for rate in FOLDERS_RATES
                    }
            found[AGAIN, "nearest", second] = {
                count: difference(lines, [BEST], second, "nearest", str(count), of=MORE_SEEDS) for count in counts
            }
        of_cifar = [point for point in points() if point["source"] == BASE["source"]]
        together = [point for point in of_cifar if point == seen_by(second, point)]
        for figure in ("linear", "knn"):
            found[MEAN, figure, second] = {len(together): difference(lines, together, second, figure)}
    return {key: {value: each for value, each in of.items() if each} for key, of in found.items()}


def table(found: Differences) -> str:
    """Return the table in Markdown."""
    rows = ["| | | figure | seeds | trained minus | its mean | difference |", "|---|---|---|---|---|---|---|"]
    for (axis, figure, second), of in found.items():
        for value, each in of.items():
            gain = f"{each.mean:+.1f} ± {each.half:.1f}"
            rows.append(f"| {axis} | {value:g} | {figure} | {each.seeds} | {second} | {each.second:.1f} | {gain} |")
    return "\n".join(rows)


def draw(found: Differences) -> None:
    """Draw the differences along each axis, with 95 % intervals."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = {"linear": "#0b6e99", "knn": "#d1495b", "nearest": "#e09f3e"}
    colours |= {"linear of four folders": "#7fb6cc", "knn of four folders": "#e8a4ad"}
    found = {key: of for key, of in found.items() if key[0] not in (AGAIN, MEAN) and key[1] in colours}
    titles = list(dict.fromkeys(axis for axis, *_ in found))
    figure = Figure(figsize=(15, 6), layout="constrained", dpi=110)
    grid = figure.subplots(2, len(titles), sharex="col", sharey="row")
    for (title, name, second), of in found.items():
        axes = grid[(FIXED, SIMCLR).index(second), titles.index(title)]
        aside = 1 + 0.04 * [*colours].index(name)  # factor: intervals at the same value stand side by side
        means, halves = ([each.mean for each in of.values()], [each.half for each in of.values()])
        axes.errorbar(
            [value * aside for value in of], means, halves, color=colours[name], marker="o", markersize=4, capsize=3
        )
    for row, second in zip(grid, (FIXED, SIMCLR), strict=True):
        row[0].set_ylabel(f"trained − {second}, points")
        for axes, title in zip(row, titles, strict=True):
            values = sorted({value for (axis, *_), of in found.items() if axis == title for value in of})
            axes.axhline(0, color="0.6", linewidth=1)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xscale("log")
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
            axes.set_xlabel(title)
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_visible(any(key[0] == title and key[2] == second and of for key, of in found.items()))
    handles = [Line2D([], [], color=colour, marker="o", markersize=4) for colour in colours.values()]
    figure.legend(handles, [*colours], loc="outside upper center", ncols=len(colours), frameon=False)
    figure.savefig(PICTURE)


def main() -> None:
    if sys.argv[1:] == ["table"]:
        found = differences(read_lines(LINES))
        print(table(found))
        draw(found)
        return
    for source in (BASE["source"], MANY_CLASSES["source"]):
        data_of(source)  # create the folders here, before several processes would at once
    done = {tuple(line[name] for name in Job._fields) for line in read_lines(LINES)}
    run_all(run, (job for job in jobs() if job not in done), LINES)


if __name__ == "__main__":
    main()
