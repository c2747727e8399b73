"""The agreement above which two images are called duplicates, and the errors to expect of it.

How duplicates agree is known from copies of some images. How other images agree is known from the pairs of nearest
neighbours in the data. Some of these pairs are duplicates, too, but those are not below the agreement that nearly all
copies reach. The pairs below it are therefore taken as not duplicates, and the tail of their agreements is continued
above it, as an exponential in Fisher's z = artanh(agreement), in which the noise of a correlation is the same
everywhere. The continuation is the number of false pairs to expect, whether the data has few duplicates or many.

Shapes: P pairs of neighbours in the data, M copies.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MISSED = 0.01  # share of the copies that the lowest threshold misses, among those that are compared
FALSE = 0.05  # largest share of false pairs among those found
ENDED = 0.003  # share of the pairs above an agreement at which their tail has ended
ENOUGH = 100  # pairs of which the false ones can be estimated

Agreements = NDArray[np.floating]


@dataclass(frozen=True)
class Tail:
    """The number of false pairs to expect, as a function of the agreement.

    Args:
        pairs: number of pairs above `start`.
        start: Fisher's z.
        scale: mean of what z exceeds `start` by.
    """

    pairs: float
    start: float
    scale: float

    def above(self, agreement: ArrayLike) -> NDArray[np.float64]:
        """Return the number of false pairs above an agreement beyond `start`."""
        beyond: NDArray[np.float64] = fisher(agreement) - self.start
        return self.pairs * np.exp(-beyond / self.scale)

    def where(self, pairs: float) -> float:
        """Return the agreement above which this number of false pairs is to be expected."""
        return float(np.tanh(self.start + self.scale * np.log(self.pairs / pairs)))


@dataclass(frozen=True)
class Choice:
    """A threshold, and what to expect of it.

    Args:
        threshold: pairs of at least this agreement are duplicates.
        copies: number of images of which copies were made; 0 if there were no copies.
        recall: share of the copies that are found, for each kind; empty if there were no copies.
        found: number of pairs found.
        false: expected number of false pairs among them; None if it cannot be estimated.
    """

    threshold: float
    copies: int
    recall: dict[str, float]
    found: int
    false: float | None


def fisher(agreement: ArrayLike) -> NDArray[np.float64]:
    """Return artanh(agreement), finite also for 1."""
    largest = 1 - 1e-7
    return np.arctanh(np.clip(np.asarray(agreement, np.float64), -largest, largest))


def fit_tail(pairs: Agreements, below: float) -> Tail | None:
    """Fit the tail of the pairs that are no duplicates; None if there are too few pairs.

    Args:
        pairs: [P].
        below: pairs of less than this agreement are no duplicates. If their tail has not ended there, they cannot be
            told from duplicates by it, and all pairs count as no duplicates.
    """
    others = pairs[pairs < below]
    tail = _tail_of(others)
    return tail if tail and tail.above(below) <= ENDED * len(others) else _tail_of(pairs)


def _tail_of(pairs: Agreements) -> Tail | None:
    """Return the exponential through the quantiles 0.9 and 0.99."""
    if len(pairs) < ENOUGH:
        return None
    tenth, hundredth = np.quantile(fisher(pairs), [0.9, 0.99])
    return Tail(len(pairs) / 10, tenth, max((hundredth - tenth) / np.log(10), 1e-6))


def choose_threshold(copies: Mapping[str, Agreements], pairs: Agreements) -> Choice:
    """Return the lowest threshold that keeps the expected share of false pairs at 5 %, but none lower than needed.

    It is not needed to be lower than the agreement that 99 % of the copies reach which are compared at all.

    Args:
        copies: [M] for each kind, the agreement of each copy with its image, NaN if it was not among the neighbours.
        pairs: [P], the agreement of each pair of neighbours in the data.
    """
    all_copies = np.concatenate([*copies.values()])
    compared = all_copies[~np.isnan(all_copies)]
    lowest = float(np.quantile(compared, MISSED, method="lower")) if len(compared) else 1.0
    tail = fit_tail(pairs, lowest)
    threshold = lowest if tail is None else _raised(lowest, tail, pairs)
    return expect(threshold, copies, pairs, tail)


def given_threshold(threshold: float, pairs: Agreements) -> Choice:
    """Return what to expect of a threshold that the user has chosen."""
    return expect(threshold, {}, pairs, fit_tail(pairs, threshold))


def expect(threshold: float, copies: Mapping[str, Agreements], pairs: Agreements, tail: Tail | None) -> Choice:
    """Return a threshold with its expected errors."""
    number = max(map(len, copies.values()), default=0)
    recall = {kind: float((values >= threshold).mean()) for kind, values in copies.items()}
    found = int((pairs >= threshold).sum())
    false = None if tail is None else min(float(tail.above(threshold)), found)
    return Choice(threshold, number, recall, found, false)


def _raised(lowest: float, tail: Tail, pairs: Agreements) -> float:
    """Return the lowest threshold from `lowest` on at which the share of false pairs is small enough."""
    alone = max(lowest, tail.where(FALSE))  # where even one pair found is false with a probability of 5 %
    candidates = np.unique([lowest, *pairs[(pairs > lowest) & (pairs < alone)], alone])
    found = len(pairs) - np.searchsorted(np.sort(pairs), candidates)
    fits = tail.above(candidates) <= FALSE * np.maximum(found, 1)
    return float(candidates[fits][0]) if fits.any() else alone
