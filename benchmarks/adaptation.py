"""Adaptation: what pretraining on a folder gains if it starts from another run's weights, and at which rate.

    python benchmarks/adaptation.py WEIGHTS          do all runs that have no result yet
    python benchmarks/adaptation.py table            print the table in Markdown
    python benchmarks/adaptation.py picture FILE     draw kNN against steps

WEIGHTS is a run of `adco demo`. Each folder is trained on from random weights and from WEIGHTS, with the same network,
images of 32 px, and as many epochs as see about 20 000 images. Rows differ only in `backbone_rate`, the factor of the
backbone's learning rate. All figures are from training images: accuracy by cross-validation (`search.folds`), and the
kNN that a run records after each epoch, on training images that it holds out. Test images are not used, so that the
default can be chosen here.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import adco
from adco.comparison.table import mean_and_std
from adco.config.weights import known_backbone
from adco.data.sources.open import open_source
from adco.runs.directory import RunDirectory
from folders import data_of
from measure import RESULTS, read_lines, run_all
from search import folds

LINES = RESULTS / "adaptation.jsonl"
SOURCES = ("fashion-mnist-1000", "drawings", "photographs", "cifar10-1000")  # the last: images like those of WEIGHTS
RATES = (1.0, 0.3, 0.1, 0.03)
MAIN_RATES = (0.3,)  # with all seeds
RANDOM, AS_THEY_ARE = "random weights", "weights, not trained"
SEEDS = (0, 1, 2)
IMAGES, SIDE = 20_000, 32  # images that a run sees; side of a view in px
Line = dict[str, Any]
Job = tuple[str, str, int, str]  # source, row, seed, weights


def jobs(weights: str) -> Iterator[Job]:
    """Yield all runs: every row with the first seed, then some rows with the others."""
    yield from ((source, AS_THEY_ARE, 0, weights) for source in SOURCES)
    for seed in SEEDS:
        for source in SOURCES:
            rates = RATES if seed == 0 else MAIN_RATES
            yield from ((source, row, seed, weights) for row in (RANDOM, *(f"rate {rate:g}" for rate in rates)))


def run(job: Job) -> Line:
    """Train and evaluate one run; return its line of results."""
    source, row, seed, weights = job
    data = data_of(source)
    line: Line = {"source": source, "row": row, "seed": seed}
    if row == AS_THEY_ARE:
        return line | folds(Path(weights) / "backbone.safetensors", data)
    known = known_backbone(weights)
    settings: dict[str, Any] = {name: known[name] for name in ("backbone", "backbone_args", "stem", "mean", "std")}
    if row != RANDOM:
        settings |= {"weights": weights, "backbone_rate": float(row.split()[1])}
    epochs = max(1, round(IMAGES / len(open_source(data))))
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "run"
        settings |= {"image_size": SIDE, "test_image_size": SIDE, "workers": 0}
        adco.pretrain(data=data, out=out, seed=seed, epochs=epochs, **settings)
        records = list(RunDirectory(out).records())
        names = ("knn_top1", "knn_top1_start", "knn_top1_random")
        curve = [[record["step"], record[name]] for record in records for name in names if name in record]
        return line | {"curve": curve} | folds(out / "backbone.safetensors", data)


def table() -> str:
    """Return the table in Markdown: kNN and linear top-1 of each row, mean ± standard deviation over seeds."""
    lines = read_lines(LINES)
    rows = ["| folder | row | seeds | kNN | linear |", "|---|---|---|---|---|"]
    for source in SOURCES:
        for row in (RANDOM, AS_THEY_ARE, *(f"rate {rate:g}" for rate in RATES)):
            mine = [line for line in lines if (line["source"], line["row"]) == (source, row)]
            if mine:
                figures = " | ".join(mean_and_std([line[kind] for line in mine]) for kind in ("knn", "linear"))
                rows.append(f"| {source} | {row} | {len(mine)} | {figures} |")
    return "\n".join(rows)


def picture(file: Path) -> None:
    """Draw the kNN of each run against its steps: from random weights, and from weights with the default rate."""
    figure = Figure((12, 3), layout="constrained")
    lines = read_lines(LINES)
    for number, source in enumerate(SOURCES):
        axes = figure.add_subplot(1, len(SOURCES), number + 1)
        for row, colour in ((RANDOM, "tab:gray"), ("rate 0.3", "tab:blue")):
            for line in lines:
                if (line["source"], line["row"]) == (source, row):
                    label = {RANDOM: "from random weights"}.get(row, "from weights") if line["seed"] == 0 else None
                    axes.plot(*zip(*line["curve"], strict=True), color=colour, label=label)
        axes.set(title=source, xlabel="step", ylabel="kNN top-1 (%)" if number == 0 else "")
        axes.legend()
    figure.savefig(file, dpi=100)


def main() -> None:
    match sys.argv[1:]:
        case ["table"]:
            print(table())
        case ["picture", file]:
            picture(Path(file))
        case [weights]:
            for source in SOURCES:
                data_of(source)  # create the folder here, before several processes would at once
            done = {(line["source"], line["row"], line["seed"]) for line in read_lines(LINES)}
            run_all(run, (job for job in jobs(weights) if job[:3] not in done), LINES)
        case _:
            raise SystemExit("give a run of `adco demo`, or table, or picture FILE")


if __name__ == "__main__":
    main()
