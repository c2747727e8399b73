"""Evaluation results from class scores and labels: accuracies, confusion matrix, and a table of several backbones.

Shapes: m test images, C classes.
"""

import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from adco.errors import InputError
from adco.files import write_bytes

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
NUMBERED_CLASSES = 20  # the confusion picture shows a number in each cell for up to this many classes
NAMED_CLASSES = 150  # it shows class names along the axes for up to this many classes


@dataclass(frozen=True)
class Scores:
    """The result of one evaluation; all accuracies in %.

    `top5` is None for fewer than six classes, where it would always be 100 %. `per_class` is None for a class without
    test images; `per_class_mean` is the unweighted mean over the other classes. `confusion` [C, C] counts images: rows
    are true classes, columns predicted classes. `protocol` records how the scores were computed.
    """

    top1: float
    top5: float | None
    per_class_mean: float
    per_class: dict[str, float | None]
    confusion: torch.Tensor
    images: int
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def majority(self) -> float:
        """Share of the largest class among the test images in %: the top-1 of always predicting that class."""
        return 100 * int(self.confusion.sum(dim=1).max()) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of top-1 in %, over the sampling of test images; the backbone is fixed."""
        return wilson_interval(self.top1, self.images)

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain numbers, strings, lists and dicts."""
        return {
            "protocol": self.protocol,
            "images": self.images,
            "majority": self.majority,
            "top1": self.top1,
            "top1_interval": list(self.interval),
            "top5": self.top5,
            "per_class_mean": self.per_class_mean,
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
        }


def summarise(
    scores: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], protocol: dict[str, Any] | None = None
) -> Scores:
    """Compare scores [m, C] with the true labels [m] in 0..C−1; ties are ranked in the order of the classes.

    Raises InputError if a score is NaN, because sorting would rank it first.
    """
    if scores.isnan().any():
        raise InputError(f"scores of {int(scores.isnan().any(dim=1).sum())} of {len(scores)} images are NaN")
    scores, labels = scores.cpu(), labels.cpu()
    ranking = scores.argsort(dim=1, descending=True, stable=True)  # [m, C]
    hits = ranking == labels[:, None]  # [m, C]
    # bincount instead of torchmetrics, because importing torchmetrics takes longer than a whole kNN evaluation
    pairs = labels * len(classes) + ranking[:, 0]  # [m] index of (true, predicted) in the flattened confusion matrix
    confusion = pairs.bincount(minlength=len(classes) ** 2).view(len(classes), len(classes))
    images = confusion.sum(dim=1)
    per_class = 100 * confusion.diagonal().double() / images  # NaN for a class without images
    return Scores(
        top1=_percent(hits[:, 0]),
        top5=_percent(hits[:, :5].any(dim=1)) if len(classes) > 5 else None,
        per_class_mean=per_class.nanmean().item(),
        per_class={
            name: value if count else None
            for name, value, count in zip(classes, per_class.tolist(), images.tolist(), strict=True)
        },
        confusion=confusion,
        images=len(labels),
        protocol=protocol or {},
    )


def wilson_interval(percent: float, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % confidence interval of a proportion in %.

    Unlike the normal approximation, it is also valid near 0 and 100 %.
    """
    share, square = percent / 100, Z95**2 / images
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def _percent(hits: torch.Tensor) -> float:
    return 100 * hits.double().mean().item()


def save_confusion(path: Path, confusion: torch.Tensor, classes: Sequence[str]) -> None:
    """Draw confusion counts [C, C] as a PNG, each row in % of its true class.

    Class names are shown for up to 150 classes, numbers in the cells for up to 20.
    """
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


def results_table(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    """Return a terminal table with one line per (name, scores), and a last line for the majority-class baseline.

    The scores are given as returned by `Scores.to_json`.
    """
    table = Table("features", box=box.SIMPLE)
    for column in ("top-1 (%)", "95 % interval", "mean per class (%)"):
        table.add_column(column, justify="right")
    majority, classes = 0.0, 1
    for name, scores in rows:
        low, high = scores["top1_interval"]
        table.add_row(name, f"{scores['top1']:.1f}", f"{low:.1f} to {high:.1f}", f"{scores['per_class_mean']:.1f}")
        present = [value for value in scores["per_class"].values() if value is not None]
        majority, classes = scores["majority"], len(present)
    table.add_row("always the largest class", f"{majority:.1f}", "", f"{100 / classes:.1f}")
    return table
