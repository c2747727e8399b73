"""Plot the records of a run: curves.png."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adco.files import write_bytes
from adco.health.adversary_note import ASLEEP, SHARE, asleep_since
from adco.health.trends import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = NDArray[np.float64]


class Panel(NamedTuple):
    title: str
    explanation: str  # for a reader who does not know the terms
    curves: dict[str, str]  # record key → label
    limits: tuple[float | None, float | None] = (None, None)
    scale: Literal["linear", "log"] = "linear"


MIN_SHARE = 1e-6  # smaller shares are drawn here; the adversaries are asleep either way
PANELS = (
    Panel(
        "loss",
        "Adversaries increase the loss that the encoder decreases.",
        {"loss": "encoder", "loss_adversary": "adversaries"},
    ),
    Panel(
        "embeddings (spread 0 = collapsed)",
        "Cosine: similarity of two views of an image. Spread: 0 if all embeddings are equal, 1 if they are uniform.",
        {"positive_cosine": "cosine of positives", "spread": "spread"},
        (None, 1.02),
    ),
    Panel(
        "effective rank (dimensions)",
        "How many dimensions the embeddings of a batch use.",
        {"effective_rank": "embeddings", "backbone_effective_rank": "backbone features"},
    ),
    Panel(
        "top-1 (%)",
        "kNN: classes predicted from the nearest labelled images. Instance: how often an image's two views find each "
        "other in the batch; this needs no labels.",
        {"knn_top1": "kNN, held-out training images", "instance_top1": "instance: own key in the batch"},
    ),
    Panel(
        "top-1 on validation images (%)",
        "Accuracy on labelled images that are not trained on.",
        {"validation_top1": "validation images"},
    ),
    Panel(
        "loss on validation images",
        "Cross-entropy on labelled images that are not trained on.",
        {"validation_loss": "validation images"},
    ),
    Panel(
        "adversaries' share of the softmax",
        "How much of the loss comes from the adversaries. Near 0 in their own loss, they are no longer trained.",
        {"adversary_share_in_loss": "encoder's loss", SHARE: "adversaries' loss"},
        (MIN_SHARE, 1.5),
        "log",
    ),
    Panel(
        "cosine of the hardest adversary",
        "Similarity of an image to the adversary nearest to it, mean over the batch.",
        {"hardest_adversary_cosine": "mean over queries"},
    ),
    Panel(
        "norms of the adversaries",
        "Lengths of the adversaries' weight vectors; the loss uses their directions only.",
        {"adversary_norm_max": "max", "adversary_norm_mean": "mean", "adversary_norm_min": "min"},
    ),
    Panel("learning rate", "The step size of the encoder's optimizer.", {"lr": "encoder"}),
    Panel("images per second", "Training speed, over all devices.", {"images_per_second": "images"}, (0, None)),
)
COLOURS = ("#0b6e99", "#d1495b", "#8d96a3")
COLUMNS = 3
DENSE = 200  # curves with more points are drawn pale, below their moving mean over a fiftieth of the points


def plot_curves(records: Sequence[Record], path: Path) -> None:
    """Plot the records over `step` and save them as PNG, with one panel per group of keys that has data.

    Records without a step, text and values that are not finite are ignored. The file is replaced atomically.
    """
    panels = _panels(records)
    columns = min(COLUMNS, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    from matplotlib.figure import Figure  # here, because a run starts sooner without it

    figure = Figure(figsize=(4.6 * columns, 2.9 * rows), dpi=110, layout="constrained")  # inches
    first: Axes | None = None
    for index, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, index, sharex=first)
        _draw(axes, panel, records)
        first = first or axes
    if not panels:
        figure.text(0.5, 0.5, "no records yet", ha="center", va="center")
    png = io.BytesIO()
    figure.savefig(png)  # a Figure made without pyplot uses Agg
    write_bytes(path, png.getvalue())


def draw_panels(records: Sequence[Record]) -> list[tuple[Panel, str]]:
    """Return each panel that has data, with an SVG picture of its own."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    pictures = []
    for panel in _panels(records):
        figure = Figure(figsize=(4.2, 2.7), layout="constrained")  # inches
        _draw(figure.add_subplot(), panel, records)
        svg = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.title}):  # text as text; the same file each time
            figure.savefig(svg, format="svg", metadata={"Date": None})
        pictures.append((panel, svg.getvalue()))
    return pictures


def _panels(records: Sequence[Record]) -> list[Panel]:
    """Return the panels that have data."""
    return [panel for panel in PANELS if any(len(_points(records, key)[0]) for key in panel.curves)]


def _points(records: Sequence[Record], key: str) -> tuple[Points, Points]:
    """Return steps and values of one curve."""
    pairs = [(record["step"], record[key]) for record in records if "step" in record and key in record]
    numbers = [pair for pair in pairs if all(isinstance(x, int | float) and math.isfinite(x) for x in pair)]
    steps, values = np.array(numbers, np.float64).reshape(-1, 2).T
    return steps, values


def _draw(axes: "Axes", panel: Panel, records: Sequence[Record]) -> None:
    from matplotlib.ticker import EngFormatter

    for (key, label), colour in zip(panel.curves.items(), COLOURS, strict=False):
        x, y = _points(records, key)
        if panel.scale == "log":
            y = np.maximum(y, MIN_SHARE)
        if len(x) > DENSE:
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.7)
            width = len(x) // 50
            x, y = (np.convolve(values, np.full(width, 1 / width), mode="valid") for values in (x, y))
        if len(x):
            axes.plot(
                x, y, color=colour, linewidth=1.6, label=label, marker="o" if len(x) <= 30 else None, markersize=3
            )
    _mark(axes, panel, records)
    axes.set_yscale(panel.scale)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylim(*panel.limits)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.scale == "linear":
        axes.ticklabel_format(axis="y", useOffset=False)
    if len(panel.curves) > 1:  # even if only one of them has data: the title does not say which
        axes.legend(fontsize=8, frameon=False)


def _mark(axes: "Axes", panel: Panel, records: Sequence[Record]) -> None:
    """Draw reference lines: kNN at the start, and the step since which the adversaries are asleep."""
    for name, label in {"knn_top1_random": "random weights", "knn_top1_start": "the initial weights"}.items():
        start = _points(records, name)[1]
        if "knn_top1" in panel.curves and len(start):
            axes.axhline(start[-1], color=COLOURS[2], linestyle="--", linewidth=1, label=f"kNN of {label}")
    since = asleep_since(records)
    if SHARE in panel.curves and since is not None:
        axes.axvline(since, color=COLOURS[1], linestyle=":", linewidth=1.2, label=f"asleep since step {since}")
        axes.axhline(ASLEEP, color=COLOURS[2], linestyle="--", linewidth=1)
