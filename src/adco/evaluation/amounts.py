"""The numbers of labels for which the few-label question is asked, and the images that get these labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from adco.config.commands import ProbeSettings
from adco.data.sources.splits import draw_of_each_class
from adco.errors import InputError
from adco.words import counted

DRAWN_LABELS = 20_000  # over all draws of a point: with many labels, draws differ little and fits take long
LEAST_DRAWS = 3


@dataclass(frozen=True)
class Amount:
    """A number of labels: so many per class, or a share of each class. One of the two is 0."""

    per_class: int = 0
    share: float = 0.0

    def of(self, size: int) -> int:
        """Return how many images of a class of this size get a label: at least one, at most all."""
        return min(size, self.per_class or max(1, round(self.share * size)))

    def __str__(self) -> str:
        return f"{self.per_class} per class" if self.per_class else f"{100 * self.share:.4g} %"


@dataclass(frozen=True)
class Point:
    """The amounts that mean the same number of labels of each class in some data, and how often they are drawn."""

    amounts: tuple[Amount, ...]
    labels: int
    draws: int

    @property
    def name(self) -> str:
        return ", ".join(map(str, self.amounts))

    def images(self, labels: NDArray[np.int64], seed: int, draw: int) -> NDArray[np.int64]:
        """Return the indices of the images of a draw, in ascending order."""
        return draw_of_each_class(labels, self.amounts[0].of, seed, draw)


def choose_points(labels: NDArray[np.int64], settings: ProbeSettings) -> list[Point]:
    """Return the points in ascending order of their labels.

    Amounts that mean the same number of labels of each class are one point. All labels are drawn once.

    Args:
        labels: [n], of the training images.
        settings: which amounts and how many draws are asked for.

    Raises:
        InputError: more labels per class are asked for than any class has.
    """
    sizes = np.unique(labels, return_counts=True)[1].tolist()
    per_class = settings.labels_per_class
    if max(per_class or [0]) > max(sizes):
        largest = f"the largest class has {counted(max(sizes), 'training image')}"
        raise InputError(f"labels_per_class {max(per_class or [0])} is too many: {largest}")
    amounts = [Amount(per_class=number) for number in (per_class or _up_to(min(sizes)) if per_class != [] else [])]
    amounts += [Amount(share=share) for share in settings.label_shares if share * len(labels) >= len(sizes)]
    together: dict[tuple[int, ...], list[Amount]] = {}
    for amount in amounts:
        together.setdefault(tuple(map(amount.of, sizes)), []).append(amount)
    return [
        Point(tuple(same), sum(counts), _draws(sum(counts), settings.draws) if sum(counts) < len(labels) else 1)
        for counts, same in sorted(together.items(), key=lambda pair: sum(pair[0]))
    ]


def _up_to(largest: int) -> Iterator[int]:
    """Yield 1, 2, 5, 10, 20, 50, … up to a number."""
    for power in count():
        for digit in (1, 2, 5):
            if digit * 10**power > largest:
                return
            yield digit * 10**power


def _draws(labels: int, asked: int) -> int:
    return min(asked, max(LEAST_DRAWS, DRAWN_LABELS // labels))
