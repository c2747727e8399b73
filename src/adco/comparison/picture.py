"""The table as a picture: accuracy against cost, a point a row with its spread, and the floors as lines."""

import statistics
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adco.comparison.table import Entry, Table
from adco.words import counted

MARKERS = {"adco": "o", "moco": "s", "simclr": "^", "byol": "D", "simsiam": "v"}
SPAN = 10.0  # points; the least that the y axis shows, so that a difference of 0.25 looks as small as it is
LINES = ("--", ":")  # of the floors, the higher first


def save_picture(path: Path, table: Table) -> None:
    """Write the picture as PNG, whole or not at all."""
    partial = path.with_suffix(".partial")
    draw(table).savefig(partial, format="png", dpi=130)
    partial.replace(path)


def draw(table: Table) -> Figure:
    """Linear top-1 (mean ± standard deviation over seeds) over time per epoch, filled where the loss is symmetric."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for number, entry in enumerate(table.entries):
        _draw_row(axes, entry, colormaps["turbo"]((number + 0.5) / len(table.entries)))
    _draw_floors(axes, {name: top1["linear"] for name, top1 in table.floors.items() if "linear" in top1})
    _set_limits(axes)
    axes.set_title(_title(table), fontsize="medium")
    axes.set_xlabel(f"time per epoch, relative to {table.relative_to}")
    axes.set_ylabel("linear top-1, %")
    axes.grid(alpha=0.3)
    if table.entries:
        figure.legend(title="filled: symmetric loss", fontsize="small", loc="outside right center")
    return figure


def _draw_row(axes: Axes, entry: Entry, colour: tuple[float, float, float, float]) -> None:
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


def _draw_floors(axes: Axes, floors: dict[str, float]) -> None:
    """Lines with their names, the higher one's above it and the lower one's below, so that they never overlap."""
    descending = sorted(floors.items(), key=lambda floor: -floor[1])
    for (name, top1), line, above in zip(descending, LINES, (True, False), strict=False):
        axes.axhline(top1, color="grey", linestyle=line, linewidth=1.2, zorder=1)
        axes.annotate(
            f"{name} {top1:.1f}",
            (0.01, top1),
            xycoords=axes.get_yaxis_transform(),  # x from 0 to 1 across the axes, y in %
            xytext=(0, 3 if above else -3),
            textcoords="offset points",
            va="bottom" if above else "top",
            color="dimgrey",
            fontsize="small",
        )


def _set_limits(axes: Axes) -> None:
    """x from 0; y with room for the floors' names and at least SPAN points high."""
    axes.set_xlim(0, max(1.0, axes.dataLim.x1) * 1.08)
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if low <= high:  # there is something to show
        room = max(high - low, SPAN) * 1.2 - (high - low)
        axes.set_ylim(low - room / 2, high + room / 2)


def _title(table: Table) -> str:
    trained, images = ", ".join(table.trained_on), table.test_images
    tested = "" if images is None else f" ({counted(images, 'test image')})"
    return f"trained on {trained}, evaluated on {table.evaluated_on}{tested}"
