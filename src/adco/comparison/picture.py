"""The table as a picture: accuracy against cost, a point a row, with its spread."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from adco.comparison.table import Entry

MARKERS = {"adco": "o", "moco": "s", "simclr": "^", "byol": "D", "simsiam": "v"}


def save_picture(path: Path, entries: Sequence[Entry]) -> None:
    """Linear top-1 (mean ± standard deviation over seeds) over time per epoch, filled where the loss is symmetric."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for number, entry in enumerate(entries):
        colour = colormaps["turbo"](number / len(entries))
        axes.errorbar(
            entry.relative_time,
            statistics.fmean(entry.linear),
            yerr=statistics.stdev(entry.linear) if len(entry.linear) > 1 else None,
            marker=MARKERS[entry.method],
            color=colour,
            markerfacecolor=colour if entry.symmetric else "white",
            markersize=9,
            capsize=4,
            linestyle="none",
            label=entry.name,
        )
    axes.set_xlabel("time per epoch, relative to plain MoCo v2")
    axes.set_ylabel("linear top-1, %")
    axes.grid(alpha=0.3)
    if entries:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=130)
    partial.replace(path)
