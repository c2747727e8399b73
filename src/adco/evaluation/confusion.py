"""The picture of a confusion matrix."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from adco.files import write_bytes

NUMBERED_CLASSES = 20  # the picture shows a number in each cell for up to this many classes
NAMED_CLASSES = 150  # it shows class names along the axes for up to this many classes


def save_confusion(path: Path, confusion: torch.Tensor, classes: Sequence[str]) -> None:
    """Draw confusion counts [C, C] as a PNG, each row in % of its true class.

    Class names are shown for up to 150 classes, numbers in the cells for up to 20.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because commands start sooner without them
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    number = len(classes)
    percent = (100 * confusion.double() / confusion.sum(dim=1, keepdim=True).clamp(min=1)).numpy()  # [C, C]
    side = min(max(5.0, 2.5 + 0.16 * number + 0.3 * min(number, NUMBERED_CLASSES)), 30.0)  # inches
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # square-root colour scale, so that confusions of a few percent remain visible next to the diagonal
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    figure.colorbar(image, ax=axes, fraction=0.04, label="% of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    if number <= NAMED_CLASSES:
        size = 9 if number <= NUMBERED_CLASSES else 7  # points
        axes.set_xticks(range(number), classes, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(number), classes, fontsize=size, parse_math=False)
    if number <= NUMBERED_CLASSES:
        for row in range(number):
            for column in range(number):
                value = percent[row, column]
                colour = "white" if value > 35 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # class names in a script that the font lacks
        figure.savefig(png, format="png")
    write_bytes(path, png.getvalue())
