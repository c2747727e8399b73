"""What a table shows: its claims, tested on the measured values, or the differences from its first row."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import quantile_test, ttest_ind

from adco.comparison.claims import Claim, Measure
from adco.comparison.table import Entry, Table
from adco.comparison.timing import ratios

Measured = tuple[str, float | None, tuple[float, float] | None]  # what was measured, the value, its interval


@dataclass(frozen=True)
class Finding:
    """A claim with the value that was measured for it.

    Args:
        number, claim, at_least, at_most: of the claim.
        measured: what was measured, and on which rows; or why there is no value.
        value: the measured value; None if a row is missing.
        interval: 95 % confidence interval of the value, over seeds or rounds; None with a single seed.
    """

    number: int
    claim: str
    measured: str
    value: float | None
    interval: tuple[float, float] | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """The verdict: "holds", "does not hold", or, if the interval contains a bound or is missing, "cannot tell"."""
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
        if self.value is None:
            return f"{self.claim}: not measured ({self.measured})"
        if self.interval is None:
            interval = "no interval with one seed"
        elif self.interval[0] == self.interval[1]:
            interval = "exact"
        else:
            interval = "95 % interval {:.2f} to {:.2f}".format(*self.interval)
        return f"{self.claim}: **{self.verdict}** ({self.measured}: {self.value:.2f}, {interval})"


def statements(table: Table) -> list[str]:
    """Return the lines below the table: its claims if it has any, else the differences from its first row."""
    if table.claims:
        return [f"{finding.number}. {finding.sentence()}" for finding in findings(table)]
    return differences(table)


def findings(table: Table) -> list[Finding]:
    """Test the table's claims."""
    return [_test(claim, table) for claim in table.claims]


def differences(table: Table) -> list[str]:
    """Return the top-1 of each row minus that of the first row, with its interval.

    Rows with a single seed have no interval and are left out.
    """
    lines = []
    for entry in table.entries[1:]:
        _, figure, interval = _accuracy(table, [entry], table.entries[:1])
        if figure is not None and interval is not None:
            lines.append(
                f"{entry.name} minus {table.entries[0].name}, {table.main_title} top-1: "
                f"{round(figure, 2) + 0.0:+.2f} points "
                f"(95 % interval over seeds {interval[0]:+.2f} to {interval[1]:+.2f})"
            )
    return lines


def _test(claim: Claim, table: Table) -> Finding:
    """Test a claim on the rows that the table has; a pair is left out if one of its rows is missing."""
    entries = {entry.name: entry for entry in table.entries}
    names = zip(claim.rows, claim.against, strict=True)
    pairs = [(entries[of], entries[to]) for of, to in names if of in entries and to in entries]
    measured: Measured = ("a row is missing", None, None)
    if pairs:
        of, to = zip(*pairs, strict=True)
        measured = MEASURES[claim.measure](table, of, to)
    return Finding(claim.number, claim.claim, *measured, at_least=claim.at_least, at_most=claim.at_most)


def _accuracy(table: Table, of: Sequence[Entry], to: Sequence[Entry]) -> Measured:
    """Return the difference in top-1 between the rows, in points, with the interval of Welch's t-test.

    With several rows, each side is first averaged over its rows, separately for each seed that all of them have. Rows
    with the same seed share image order, views and initial weights, so they are no independent samples; only seeds are.
    """
    a, b = (
        _per_seed([dict(zip(entry.seeds, entry.top1[table.main_evaluation], strict=True)) for entry in side])
        for side in (of, to)
    )
    if not a or not b:
        return "no seed is finished in all rows", None, None
    interval = None
    if min(len(a), len(b)) > 1:
        welch = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        interval = (float(welch.low), float(welch.high))
    measured = f"{table.main_title} top-1 in points, {_mean_of(of)} minus {_mean_of(to)}"
    return measured, statistics.fmean(a) - statistics.fmean(b), interval


def _per_seed(rows: Sequence[Mapping[int, float]]) -> list[float]:
    """Return the mean of the rows for each seed that all of them have."""
    return [statistics.fmean(row[seed] for row in rows) for seed in rows[0] if all(seed in row for row in rows)]


def _time(table: Table, of: Sequence[Entry], to: Sequence[Entry]) -> Measured:
    """Return the ratio of times per epoch: the median over rounds, with a rank-based interval."""
    per_round = ratios(of[0].seconds_per_image, to[0].seconds_per_image)
    ranks = quantile_test(per_round, p=0.5).confidence_interval(0.95)
    measured = f"time per epoch, {of[0].name} / {to[0].name}"
    return measured, statistics.median(per_round), (float(ranks.low), float(ranks.high))


def _parameters(table: Table, of: Sequence[Entry], to: Sequence[Entry]) -> Measured:
    """Return the ratio of numbers of parameters, which is exact; none if the second row has no such parameters."""
    if not to[0].extra_parameters:
        return f"{to[0].name} has no trained parameters outside backbone and projector", None, None
    ratio = of[0].extra_parameters / to[0].extra_parameters
    measured = f"trained parameters outside backbone and projector, {of[0].name} / {to[0].name}"
    return measured, ratio, (ratio, ratio)


MEASURES: dict[Measure, Callable[[Table, Sequence[Entry], Sequence[Entry]], Measured]] = {
    "accuracy": _accuracy,
    "time": _time,
    "parameters": _parameters,
}


def _mean_of(entries: Sequence[Entry]) -> str:
    """Return the name of one row, or "mean of A, B and C" for several."""
    names = [entry.name for entry in entries]
    return names[0] if len(names) == 1 else f"mean of {', '.join(names[:-1])} and {names[-1]}"
