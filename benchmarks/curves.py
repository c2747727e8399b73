"""kNN top-1 against epochs for the rows of `cifar10_long.yaml`: does the order of the methods change?

    adco compare benchmarks/cifar10_long.yaml --out benchmarks/results/cifar10_long    all runs
    python benchmarks/curves.py    print every fifth epoch in Markdown, and draw results/cifar10_long/curves.png

The kNN is the one that each run measures on held-out training images. Unfinished runs are left out.
"""

import statistics
from pathlib import Path

from matplotlib.figure import Figure

from adco.comparison.plan import Plan, read_plan
from adco.comparison.table import mean_and_std
from adco.runs.directory import RunDirectory
from measure import RESULTS

RECIPE, OUT = Path(__file__).with_name("cifar10_long.yaml"), RESULTS / "cifar10_long"
EVERY = 5  # epochs between two columns of the table
Curves = dict[str, list[list[float]]]  # by row, the kNN top-1 (%) of each epoch of each seed


def curves(plan: Plan, out: Path) -> Curves:
    """Return the curves of all runs that are finished."""
    found: Curves = {}
    for row, seed in plan.runs():
        run = RunDirectory(row.run_directory(out, seed))
        if run.is_finished:
            curve = [float(record["knn_top1"]) for record in run.records() if "knn_top1" in record]
            found.setdefault(row.name, []).append(curve)
    return found


def table(found: Curves) -> str:
    """Return the table in Markdown: mean ± standard deviation over seeds, after every fifth epoch."""
    epochs = range(EVERY, max(len(curve) for of in found.values() for curve in of) + 1, EVERY)
    rows = [f"| epochs | {' | '.join(map(str, epochs))} | seeds |", "|---" * (len(epochs) + 2) + "|"]
    for name, of in found.items():
        cells = [mean_and_std([curve[epoch - 1] for curve in of]) for epoch in epochs]
        rows.append(f"| {name} | {' | '.join(cells)} | {len(of)} |")
    return "\n".join(rows)


def draw(found: Curves, file: Path) -> None:
    """Draw the mean over seeds of each row, and each seed as a thin line."""
    figure = Figure((8, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, of) in enumerate(found.items()):
        colour = f"C{number}"
        epochs = range(1, len(of[0]) + 1)
        for curve in of:
            axes.plot(epochs, curve, color=colour, linewidth=0.5, alpha=0.5)
        axes.plot(epochs, [statistics.fmean(values) for values in zip(*of, strict=True)], color=colour, label=name)
    axes.set(xlabel="epoch", ylabel="kNN top-1 (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=100)


def main() -> None:
    found = curves(read_plan(RECIPE), OUT)
    print(table(found))
    draw(found, OUT / "curves.png")


if __name__ == "__main__":
    main()
