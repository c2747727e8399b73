"""Trends of noisy curves: read curves from a run's records and test whether they rose or fell."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
Record = Mapping[str, float | str]

# A change is the median of a curve's last fifth minus that of the fifth before. A fifth is long enough to average out
# noise, and short enough to detect a turn after a tenth of the run. It has at least WINDOW values, or SHORT_WINDOW
# for kNN, which is measured less often.
WINDOW, SHORT_WINDOW = 8, 3
# A change is significant beyond this many standard errors. Two would be enough to test one curve once, but several
# curves are tested again and again. Simulated for one curve of white noise: 1 false rise in 200 tests with 16 to 32
# values, none with 100.
STANDARD_ERRORS = 4.0
# Two are enough to suppress an alarm: a late alarm is a smaller error than a false one.
HINT = 2.0
# Lower bounds of the noise, because curves drift and are rounded: a thousandth of the loss; half a dimension of rank;
# 0.01 of a cosine; 0.4 points of kNN (standard error of 80 % on 10 000 images) and of instance top-1 (one image in
# 256).
MIN_NOISE = {"loss": 0.001, "effective rank": 0.5, "separation": 0.01, "kNN top-1": 0.4, "instance top-1": 0.4}


class Trend(NamedTuple):
    """A curve's change from its second-to-last fifth to its last; all values are NaN if unknown."""

    name: str
    before: float = math.nan  # median of the second-to-last fifth
    now: float = math.nan  # median of the last fifth
    noise: float = math.nan  # standard deviation of a single value
    error: float = math.nan  # standard error of now − before

    @property
    def known(self) -> bool:
        return not math.isnan(self.now)

    @property
    def rose(self) -> bool:
        return self.now - self.before > STANDARD_ERRORS * self.error

    @property
    def may_have_risen(self) -> bool:
        """True if the curve may have risen."""
        return self.now - self.before > HINT * self.error

    @property
    def fell(self) -> bool:
        return self.before - self.now > STANDARD_ERRORS * self.error

    def __str__(self) -> str:
        verb = "rose" if self.rose else "fell" if self.fell else "is flat"
        return f"{self.name} {verb} ({self.before:.3g} → {self.now:.3g})"


def has(record: Record, key: str) -> bool:
    """Return whether a record has a finite value of a key."""
    value = record.get(key)
    return isinstance(value, int | float) and math.isfinite(value)


def curve(records: Sequence[Record], key: str) -> Curve:
    """Return the finite values of a key, oldest first."""
    return np.array([record[key] for record in records if has(record, key)], np.float64)


def latest(records: Sequence[Record], key: str) -> float:
    """Return the last finite value of a key, or NaN."""
    values = curve(records, key)
    return float(values[-1]) if len(values) else math.nan


def separation(records: Sequence[Record]) -> Curve:
    """Return positive_cosine − (1 − spread²): how much closer queries are to their own keys than to other images."""
    both = [record for record in records if has(record, "positive_cosine") and has(record, "spread")]
    return curve(both, "positive_cosine") - 1 + curve(both, "spread") ** 2


def trend(name: str, values: Curve) -> Trend:
    """Return the change of a curve from its second-to-last fifth to its last."""
    if len(values) < 2:
        return Trend(name)
    window = SHORT_WINDOW if name == "kNN top-1" else WINDOW
    width = max(len(values) // 5, min(len(values) // 2, window))
    recent = values[-2 * width :]
    before, now = float(np.median(recent[:width])), float(np.median(recent[width:]))
    # Noise is measured after removing a jump, a line or any steady change, because a change must not count as noise.
    jump = np.repeat([before, now], width)
    line = (before + now) / 2 + (now - before) / width * (np.arange(2 * width) - width + 0.5)
    steps = np.diff(recent) / math.sqrt(2)  # a steady change hardly contributes
    residual = min(float(np.median(np.abs(rest))) for rest in (recent - jump, recent - line, steps))
    minimum = MIN_NOISE[name] * (abs(before) if name == "loss" else 1)
    noise = max(1.4826 * residual, minimum)  # standard deviation of a normal distribution, from its median deviation
    # The standard error of a median is 1.2533 σ/√n; that of a difference of two medians is √2 times larger.
    return Trend(name, before, now, noise, 1.2533 * math.sqrt(2 / width) * noise)


def levels(values: Curve) -> Curve:
    """Return the medians of successive windows from the start. An incomplete last window is ignored."""
    whole = len(values) // WINDOW * WINDOW
    medians: Curve = np.median(values[:whole].reshape(-1, WINDOW), axis=1)
    return medians
