"""The picture of the few-label question: accuracy against the number of labels, one curve per network."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adco.files import write_bytes
from adco.words import unicode

PIXELS = "raw pixels"
FLOOR_COLOURS = {PIXELS: "#b5bac2", "random weights": "#7d8590"}
COLOURS = ("#0b6e99", "#d1495b", "#2e8b57", "#8456a8", "#c77d0a", "#4a4a4a")  # of the backbones, in turn


def save_picture(path: Path, result: Mapping[str, Any]) -> None:
    """Draw the curves of a result of `probe` as a PNG, with the 95 % intervals as bands.

    The number of labels has a logarithmic axis.
    """
    from matplotlib.figure import Figure  # here, because commands start sooner without it

    figure = Figure(figsize=(7.2, 4.6), dpi=130, layout="constrained")  # inches
    axes = figure.add_subplot()
    labels = [point["labels"] for point in result["points"]]
    colours = iter(COLOURS * len(result["networks"]))
    for name, entries in result["networks"].items():
        colour = FLOOR_COLOURS.get(name) or next(colours)
        low, high = zip(*(entry["interval"] for entry in entries), strict=True)
        axes.fill_between(labels, low, high, color=colour, alpha=0.18, linewidth=0)
        means = [entry["mean"] for entry in entries]
        style = "--" if name == PIXELS else "-"  # the floors are often close to each other
        axes.plot(labels, means, style, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)
    axes.set_xscale("log")
    axes.set_xticks(labels, [f"{number:,}" for number in labels], fontsize=8, rotation=45)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(f"labels, in {len(result['protocol']['classes'])} classes")
    axes.set_ylabel("top-1 of a linear probe (%)")
    tested = f"{unicode(result['data'])}: {result['protocol']['test_images']:,} test images"
    axes.set_title(tested, fontsize=10, loc="left")
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    png = io.BytesIO()
    figure.savefig(png)  # a Figure made without pyplot uses Agg
    write_bytes(path, png.getvalue())
