"""Has a noisy curve risen or fallen? Numbers read from a run's records, and tests of their change."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
Record = Mapping[str, float | str]

# A change is the median of a curve's last fifth against that of the fifth before: long enough to average noise away,
# short enough to see a turn after a tenth of the run. A fifth is at least WINDOW values; curves measured seldom (kNN)
# need fewer.
WINDOW, SHORT_WINDOW = 8, 3
# A change is real beyond this many standard errors. Two would do for one look at one curve, but several curves are
# looked at again and again. Simulated on flat white noise of one curve: a false rise in 1 of 200 looks at 16 to 32
# values, in none at 100.
STANDARD_ERRORS = 4.0
# Two are enough to silence an alarm, which is the lesser error.
HINT = 2.0
# Curves drift and are rounded, so noise counts as at least: a thousandth of the loss; half a dimension of rank; 0.01
# of a cosine; 0.4 points of kNN (standard error of 80 % on 10 000 images) and of instance top-1 (one image of 256).
LEAST_NOISE = {"loss": 0.001, "effective rank": 0.5, "separation": 0.01, "kNN top-1": 0.4, "instance top-1": 0.4}


class Trend(NamedTuple):
    """A curve's median before and now, the noise of one value, the standard error of the change; NaN if unknown."""

    name: str
    before: float = math.nan
    now: float = math.nan
    noise: float = math.nan
    error: float = math.nan

    @property
    def known(self) -> bool:
        return not math.isnan(self.now)

    @property
    def rose(self) -> bool:
        return self.now - self.before > STANDARD_ERRORS * self.error

    @property
    def hints(self) -> bool:
        """True if the curve may have risen."""
        return self.now - self.before > HINT * self.error

    @property
    def fell(self) -> bool:
        return self.before - self.now > STANDARD_ERRORS * self.error

    def __str__(self) -> str:
        verb = "rose" if self.rose else "fell" if self.fell else "stays"
        return f"{self.name} {verb} ({self.before:.3g} → {self.now:.3g})"


def curve(records: Sequence[Record], key: str) -> Curve:
    """The finite values of a key, oldest first."""
    values = (record.get(key) for record in records)
    return np.array([x for x in values if isinstance(x, int | float) and math.isfinite(x)], np.float64)


def latest(records: Sequence[Record], key: str) -> float:
    """The last finite value of a key, or NaN."""
    values = curve(records, key)
    return float(values[-1]) if len(values) else math.nan


def separation(records: Sequence[Record]) -> Curve:
    """positive_cosine − (1 − spread²): how much nearer a query is to its key than to other images."""
    both = [r for r in records if len(curve([r], "positive_cosine")) and len(curve([r], "spread"))]
    return curve(both, "positive_cosine") - 1 + curve(both, "spread") ** 2


def trend(name: str, values: Curve) -> Trend:
    """The change of a curve from its second last fifth to its last."""
    if len(values) < 2:
        return Trend(name)
    window = SHORT_WINDOW if name == "kNN top-1" else WINDOW
    width = max(len(values) // 5, min(len(values) // 2, window))
    recent = values[-2 * width :]
    before, now = float(np.median(recent[:width])), float(np.median(recent[width:]))
    # Noise is what a jump between the two medians, or a line through them, leaves: a change must not count as noise.
    jump = np.repeat([before, now], width)
    line = (before + now) / 2 + (now - before) / width * (np.arange(2 * width) - width + 0.5)
    steps = np.diff(recent) / math.sqrt(2)  # what changes steadily, straight or not, hardly shows from one to the next
    left = min(float(np.median(np.abs(rest))) for rest in (recent - jump, recent - line, steps))
    least = LEAST_NOISE[name] * (abs(before) if name == "loss" else 1)
    noise = max(1.4826 * left, least)  # a normal distribution's standard deviation is 1.4826 median deviations
    # ... and the standard error of its median is 1.2533 σ/√n, of a difference of two √2 times that
    return Trend(name, before, now, noise, 1.2533 * math.sqrt(2 / width) * noise)


def levels(values: Curve) -> Curve:
    """Medians of successive windows from the start, whole windows only."""
    whole = len(values) // WINDOW * WINDOW
    medians: Curve = np.median(values[:whole].reshape(-1, WINDOW), axis=1)
    return medians
