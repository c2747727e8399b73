"""Conclusions from the table: claims of the paper's appendix for the paper's tables, else differences between rows."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import quantile_test, ttest_ind

from adco.comparison.table import COLUMNS, Entry, Table, few_images
from adco.comparison.timing import ratios

Pair = tuple[Entry, Entry]


@dataclass(frozen=True)
class Claim:
    """A claim, usually of the paper's appendix, with the measured value and the bound that it is tested against.

    Args:
        number: the claim's number in the appendix.
        claim: the claim in words.
        measured: what the value measures, and of which rows; or why there is no value.
        figure: the measured value; None if a row is missing.
        interval: 95 % confidence interval of the value, over seeds or rounds; None with a single seed.
        at_least: the claim holds if no value in the interval is below this bound.
        at_most: the claim holds if no value in the interval is above this bound.
    """

    number: int
    claim: str
    measured: str
    figure: float | None
    interval: tuple[float, float] | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """One of "holds", "does not hold" and "cannot tell": the bound is in the interval, or there is no interval."""
        if self.interval is None:
            return "cannot tell"
        least = -math.inf if self.at_least is None else self.at_least
        most = math.inf if self.at_most is None else self.at_most
        low, high = self.interval
        if least <= low and high <= most:
            return "holds"
        return "does not hold" if high < least or low > most else "cannot tell"

    def sentence(self) -> str:
        """Return the claim, the verdict, the measured value and its interval on one line of Markdown."""
        if self.figure is None:
            return f"{self.claim}: not measured ({self.measured})"
        if self.interval is None:
            interval = "no interval with one seed"
        elif self.interval[0] == self.interval[1]:
            interval = "exact"
        else:
            interval = "95 % interval {:.2f} to {:.2f}".format(*self.interval)
        return f"{self.claim}: **{self.verdict}** ({self.measured}: {self.figure:.2f}, {interval})"


def statements(table: Table) -> list[str]:
    """Return the lines below the table: the appendix's claims if the comparison asks for them, else differences."""
    if table.claims == "appendix":
        return [f"{claim.number}. {claim.sentence()}" for claim in claims(table.entries)]
    return differences(table.entries)


def differences(entries: Sequence[Entry]) -> list[str]:
    """Return the linear top-1 of each row minus that of the first row, with its interval.

    Rows with a single seed have no interval and are left out.
    """
    compared = (_difference(0, entry.name, [(entry, entries[0])]) for entry in entries[1:])
    return [
        f"{claim.claim} minus {entries[0].name}, linear top-1: {round(claim.figure, 2) + 0.0:+.2f} points "
        f"(95 % interval over seeds {claim.interval[0]:+.2f} to {claim.interval[1]:+.2f})"
        for claim in compared
        if claim.figure is not None and claim.interval is not None
    ]


def claims(entries: Sequence[Entry]) -> list[Claim]:
    """Test the appendix's six claims and a seventh of our own. The rows are identified by their settings."""
    adco = [e for e in entries if e.method == "adco" and e.crops == 2]
    plain, symmetric, plain_fixed, symmetric_fixed = (
        _one_per_count([e for e in adco if (e.trained_negatives, e.symmetric) == kind])
        for kind in ((True, False), (True, True), (False, False), (False, True))
    )
    moco, moco_symmetric = (
        [e for e in entries if e.method == "moco" and e.symmetric == kind] for kind in (False, True)
    )
    byol = [e for e in entries if e.method == "byol"]
    crops, crops_symmetric = (
        _one_per_count([e for e in entries if e.trained_negatives and e.crops > 2 and e.symmetric == kind])
        for kind in (False, True)
    )
    eighth_pairs = [
        (rows[0], row) for rows in (plain, symmetric) for row in rows if (row.negatives or 0) * 8 == rows[0].negatives
    ]
    fixed_pairs = _same_count(plain, plain_fixed) + _same_count(symmetric, symmetric_fixed)
    time = "time per epoch (the paper's ratio)"
    return [
        _difference(1, "the symmetric loss adds 1.5 to 2.0 points", _same_count(symmetric, plain), at_least=1.5),
        _difference(2, "an eighth of the adversaries costs at most 0.4 points", eighth_pairs, at_most=0.4),
        _difference(3, "symmetric AdCo reaches BYOL's accuracy", _pair(symmetric, byol), at_least=0.0),
        _difference(
            3, "symmetric AdCo reaches symmetric MoCo v2's accuracy", _pair(symmetric, moco_symmetric), at_least=0.0
        ),
        _cost(3, f"symmetric AdCo takes at most 3.50 / 4.10 of BYOL's {time}", symmetric, byol, at_most=3.50 / 4.10),
        _difference(4, "AdCo beats MoCo v2 by about a point", _pair(plain, moco), at_least=1.0),
        _cost(4, f"AdCo takes at most 2.26 / 2.12 of MoCo v2's {time}", plain, moco, at_most=2.26 / 2.12),
        _difference(5, "multi-crop improves on the plain loss", _same_count(crops, plain), at_least=0.0),
        _difference(
            5, "the symmetric loss improves on multi-crop alone", _same_count(crops_symmetric, crops), at_least=0.0
        ),
        _parameters(
            6, "the smallest set of adversaries has no more parameters than BYOL's predictor", symmetric[-1:], byol
        ),
        _difference(7, "trained adversaries improve on fixed ones (not in the appendix)", fixed_pairs, at_least=0.0),
    ]


def _one_per_count(entries: Sequence[Entry]) -> list[Entry]:
    """Return the first row with each number of adversaries, largest number first."""
    first = {entry.negatives or 0: entry for entry in reversed(entries)}
    return [first[count] for count in sorted(first, reverse=True)]


def _same_count(one: Sequence[Entry], other: Sequence[Entry]) -> list[Pair]:
    """Return all pairs of rows with the same number of adversaries."""
    return [(a, b) for a in one for b in other if a.negatives == b.negatives]


def _pair(one: Sequence[Entry], other: Sequence[Entry]) -> list[Pair]:
    """Return the first row of each list as the only pair; no pair if a list is empty."""
    return list(zip(one[:1], other[:1], strict=False))


def _difference(number: int, claim: str, pairs: Sequence[Pair], **bound: float) -> Claim:
    """Test a claim on the difference in linear top-1 between the rows of a pair, in points, with Welch's interval.

    With several pairs, each side is first averaged within each seed. Rows with the same seed share image order, views
    and initial weights, so they are not independent samples; only seeds are.
    """
    if not pairs:
        return Claim(number, claim, "a row is missing", None, None, **bound)
    one, other = zip(*pairs, strict=True)
    a, b = ([statistics.fmean(seed) for seed in zip(*(e.linear for e in side), strict=False)] for side in (one, other))
    interval = None
    if min(len(a), len(b)) > 1:
        welch = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        interval = (float(welch.low), float(welch.high))
    figure = statistics.fmean(a) - statistics.fmean(b)
    measured = f"linear top-1 in points, {_mean_of(one)} minus {_mean_of(other)}"
    return Claim(number, claim, measured, figure, interval, **bound)


def _mean_of(entries: Sequence[Entry]) -> str:
    """Return the name of one row, or "mean of A, B and C" for several."""
    names = [entry.name for entry in entries]
    return names[0] if len(names) == 1 else f"mean of {', '.join(names[:-1])} and {names[-1]}"


def _cost(number: int, claim: str, one: Sequence[Entry], other: Sequence[Entry], **bound: float) -> Claim:
    """Test a claim on the ratio of times per epoch: the median of per-round ratios, with its rank-based interval."""
    if not one or not other:
        return Claim(number, claim, "a row is missing", None, None, **bound)
    measured = f"time per epoch, {one[0].name} / {other[0].name}"
    per_round = ratios(one[0].seconds_per_image, other[0].seconds_per_image)
    ranks = quantile_test(per_round, p=0.5).confidence_interval(0.95)
    return Claim(number, claim, measured, statistics.median(per_round), (float(ranks.low), float(ranks.high)), **bound)


def _parameters(number: int, claim: str, one: Sequence[Entry], other: Sequence[Entry]) -> Claim:
    """Test a claim on the ratio of numbers of parameters, which is exact."""
    if not one or not other:
        return Claim(number, claim, "a row is missing", None, None, at_most=1.0)
    measured = f"trained parameters outside backbone and projector, {one[0].name} / {other[0].name}"
    ratio = one[0].extra_parameters / other[0].extra_parameters
    return Claim(number, claim, measured, ratio, (ratio, ratio), at_most=1.0)


def caption(table: Table) -> str:
    """Return the table's caption: the data, the meaning of the columns, and the machine."""
    trained = ", ".join(
        data if count is None else f"{data} ({_count(count)} images)" for data, count in table.trained_on.items()
    )
    tested, few = "", ""
    if table.test_images is not None:
        images = "image" if table.test_images == 1 else "images"
        tested, few = f" ({_count(table.test_images)} test {images})", few_images(table.test_images)
    return (
        f"Trained on {trained}, evaluated on {table.evaluated_on}{tested}. {few and few + '. '}kNN and linear: top-1 "
        "accuracy in %, mean ± standard deviation over seeds. extra parameters: trained parameters outside backbone "
        f"and projector. images/s, time/epoch (relative to {table.relative_to}) and peak MB: measured on "
        f"{table.costs_of}; the rows were timed in turn."
    )


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def markdown(table: Table) -> str:
    """Return the table in Markdown, with its caption above and its statements below."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table.lines()]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join(part for part in (caption(table), rows, "\n".join(statements(table))) if part) + "\n"


def to_json(table: Table) -> dict[str, Any]:
    """Return the table as plain values, with the tested claims and their verdicts."""
    tested = claims(table.entries) if table.claims else []
    return {
        "rows": [asdict(entry) for entry in table.entries],
        **{
            name: getattr(table, name)
            for name in ("floors", "costs_of", "trained_on", "evaluated_on", "test_images", "relative_to")
        },
        "claims": [asdict(claim) | {"verdict": claim.verdict} for claim in tested],
    }
