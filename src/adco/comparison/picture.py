"""Picture of the table: accuracy over cost, one point per row, with the floors as horizontal lines.

Floors are the scores of raw pixels and of random weights, the baselines that every row should beat.
"""

import io
import statistics
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adco.comparison.table import Entry, Table
from adco.config.registry import settings_of
from adco.files import write_bytes
from adco.words import counted, unicode

SPAN = 10.0  # minimal height of the y axis in points, so that small differences are not exaggerated
LINES = ("--", ":")  # line styles of the higher and the lower floor


def save_picture(path: Path, table: Table) -> None:
    """Write the picture as a PNG. The file is replaced atomically, so an interruption cannot leave half of it."""
    png = io.BytesIO()
    draw(table).savefig(png, format="png", dpi=130)
    write_bytes(path, png.getvalue())


def draw(table: Table) -> Figure:
    """Plot top-1 (mean ± standard deviation over seeds) over time per epoch.

    Markers are filled for rows with a symmetric loss.
    """
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for number, entry in enumerate(table.entries):
        _draw_row(
            axes, entry, entry.top1[table.main_evaluation], colormaps["turbo"]((number + 0.5) / len(table.entries))
        )
    _draw_floors(
        axes,
        {name: top1[table.main_evaluation] for name, top1 in table.floors.items() if table.main_evaluation in top1},
    )
    _set_limits(axes)
    axes.set_title(_title(table), fontsize="medium")
    axes.set_xlabel(f"time per epoch, relative to {table.relative_to}")
    axes.set_ylabel(f"{table.main_title} top-1, %")
    axes.grid(alpha=0.3)
    if table.entries:
        figure.legend(title="filled: symmetric loss", fontsize="small", loc="outside right center")
    return figure


def _draw_row(axes: Axes, entry: Entry, top1: list[float], colour: tuple[float, float, float, float]) -> None:
    axes.errorbar(
        entry.relative_time,
        statistics.fmean(top1),
        yerr=statistics.stdev(top1) if len(top1) > 1 else None,
        marker=settings_of(entry.method).MARKER,
        color=colour,
        markerfacecolor=colour if entry.symmetric else "white",
        markersize=9,
        capsize=4,
        linestyle="none",
        label=entry.name,
    )


def _draw_floors(axes: Axes, floors: dict[str, float]) -> None:
    """Draw each floor as a line with its name: above the higher line and below the lower one, so they never overlap."""
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
    """Start the x axis at 0; make the y axis at least SPAN points high, with room for the floors' names."""
    axes.set_xlim(0, max(1.0, axes.dataLim.x1) * 1.08)
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if low <= high:  # false if nothing was drawn
        room = max(high - low, SPAN) * 1.2 - (high - low)
        axes.set_ylim(low - room / 2, high + room / 2)


def _title(table: Table) -> str:
    trained, images = ", ".join(table.trained_on), table.test_images
    tested = "" if images is None else f" ({counted(images, 'test image')})"
    return unicode(f"trained on {trained}, evaluated on {table.evaluated_on}{tested}")
