"""What the table says: the claims of the paper's appendix for the paper's tables, else differences between rows."""

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
    """A claim of the paper's appendix, and what was measured. It holds if the figure is at least (most) the bound."""

    number: int
    claim: str
    measured: str
    figure: float | None  # None: the rows are not there
    interval: tuple[float, float] | None  # of 95 %, over seeds or rounds; None where there is one seed
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """holds, does not hold, or cannot tell: the bound is within the interval, or that is not known."""
        if self.interval is None:
            return "cannot tell"
        least = -math.inf if self.at_least is None else self.at_least
        most = math.inf if self.at_most is None else self.at_most
        low, high = self.interval
        if least <= low and high <= most:
            return "holds"
        return "does not hold" if high < least or low > most else "cannot tell"

    def sentence(self) -> str:
        """The claim, the figure and the verdict on one line."""
        if self.figure is None:
            return f"{self.claim}: not measured ({self.measured})"
        interval = "one seed" if self.interval is None else "{:.2f} to {:.2f}".format(*self.interval)
        return f"{self.claim}: {self.measured} {self.figure:.2f} ({interval}): **{self.verdict}**"


def statements(table: Table) -> list[str]:
    """What stands below the table, a sentence a line: claims where the comparison asks for them, else differences."""
    if table.claims == "appendix":
        return [f"{claim.number}. {claim.sentence()}" for claim in claims(table.entries)]
    return differences(table.entries)


def differences(entries: Sequence[Entry]) -> list[str]:
    """Linear top-1 of each row minus that of the first, with its interval, where both have several seeds."""
    found = (_difference(0, entry.name, [(entry, entries[0])]) for entry in entries[1:])
    return [
        f"{claim.claim} minus {entries[0].name}, linear top-1: {round(claim.figure, 2) + 0.0:+.2f} points "
        f"(95 % interval over seeds {claim.interval[0]:+.2f} to {claim.interval[1]:+.2f})"
        for claim in found
        if claim.figure is not None and claim.interval is not None
    ]


def claims(entries: Sequence[Entry]) -> list[Claim]:
    """The appendix's six claims on these rows, and ours, the seventh; the rows are found by their settings."""
    adco = [e for e in entries if e.method == "adco" and e.crops == 2]
    plain, both, plain_fixed, both_fixed = (
        _one_a_count([e for e in adco if (e.trained_negatives, e.symmetric) == which])
        for which in ((True, False), (True, True), (False, False), (False, True))
    )
    moco, moco_both = ([e for e in entries if e.method == "moco" and e.symmetric == which] for which in (False, True))
    byol = [e for e in entries if e.method == "byol"]
    crops, crops_both = (
        _one_a_count([e for e in entries if e.trained_negatives and e.crops > 2 and e.symmetric == which])
        for which in (False, True)
    )
    eighths = [(e[0], f) for e in (plain, both) for f in e if (f.negatives or 0) * 8 == e[0].negatives]
    twins = _same_count(plain, plain_fixed) + _same_count(both, both_fixed)
    time = "time per epoch relative to"
    return [
        _difference(1, "the symmetric loss adds 1.5 to 2.0 points", _same_count(both, plain), at_least=1.5),
        _difference(2, "an eighth of the adversaries costs at most 0.4 points", eighths, at_most=0.4),
        _difference(3, "symmetric AdCo reaches BYOL's accuracy", _first(both, byol), at_least=0.0),
        _difference(3, "symmetric AdCo reaches symmetric MoCo v2's accuracy", _first(both, moco_both), at_least=0.0),
        _cost(3, f"symmetric AdCo: {time} BYOL (paper: 3.50 / 4.10)", both, byol, at_most=3.50 / 4.10),
        _difference(4, "AdCo beats MoCo v2 by about a point", _first(plain, moco), at_least=1.0),
        _cost(4, f"AdCo: {time} MoCo v2 (paper: 2.26 / 2.12)", plain, moco, at_most=2.26 / 2.12),
        _difference(5, "multi-crop adds to the plain loss", _same_count(crops, plain), at_least=0.0),
        _difference(5, "the symmetric loss adds to multi-crop", _same_count(crops_both, crops), at_least=0.0),
        _parameters(6, "the fewest adversaries are no more parameters than BYOL's predictor", both[-1:], byol),
        _difference(7, "training the negatives adds to fixed ones (not the appendix's)", twins, at_least=0.0),
    ]


def _one_a_count(entries: Sequence[Entry]) -> list[Entry]:
    """The first row of each number of adversaries, the most first."""
    first = {entry.negatives or 0: entry for entry in reversed(entries)}
    return [first[count] for count in sorted(first, reverse=True)]


def _same_count(one: Sequence[Entry], other: Sequence[Entry]) -> list[Pair]:
    return [(a, b) for a in one for b in other if a.negatives == b.negatives]


def _first(one: Sequence[Entry], other: Sequence[Entry]) -> list[Pair]:
    return list(zip(one[:1], other[:1], strict=False))


def _difference(number: int, claim: str, pairs: Sequence[Pair], **bound: float) -> Claim:
    """Of linear top-1 within a pair, in points, with Welch's interval.

    Of several pairs it is the mean, taken within a seed: rows of one seed have order, views and first weights in common
    and are no samples more.
    """
    if not pairs:
        return Claim(number, claim, "a row is missing", None, None, **bound)
    one, other = zip(*pairs, strict=True)
    names = [", ".join(entry.name for entry in side) for side in (one, other)]
    a, b = ([statistics.fmean(seed) for seed in zip(*(e.linear for e in side), strict=False)] for side in (one, other))
    interval = None
    if min(len(a), len(b)) > 1:
        found = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        interval = (float(found.low), float(found.high))
    figure = statistics.fmean(a) - statistics.fmean(b)
    return Claim(number, claim, f"{names[0]} minus {names[1]}, linear top-1,", figure, interval, **bound)


def _cost(number: int, claim: str, one: Sequence[Entry], other: Sequence[Entry], **bound: float) -> Claim:
    """Of time an epoch, as a ratio: the median of those within rounds, and the interval of a median by its ranks."""
    if not one or not other:
        return Claim(number, claim, "a row is missing", None, None, **bound)
    measured = f"{one[0].name} over {other[0].name}, time per epoch,"
    found = ratios(one[0].seconds_per_image, other[0].seconds_per_image)
    ranks = quantile_test(found, p=0.5).confidence_interval(0.95)
    return Claim(number, claim, measured, statistics.median(found), (float(ranks.low), float(ranks.high)), **bound)


def _parameters(number: int, claim: str, one: Sequence[Entry], other: Sequence[Entry]) -> Claim:
    if not one or not other:
        return Claim(number, claim, "a row is missing", None, None, at_most=1.0)
    measured = f"{one[0].name} over {other[0].name}, trained parameters beyond backbone and projector,"
    ratio = one[0].extra_parameters / other[0].extra_parameters
    return Claim(number, claim, measured, ratio, (ratio, ratio), at_most=1.0)


def caption(table: Table) -> str:
    """What the table shows, in full sentences."""
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
        f"and projector. images/s, time/epoch (relative to {table.relative_to}) and peak memory: measured on "
        f"{table.costs_of}, all rows in turns."
    )


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def markdown(table: Table) -> str:
    """The table in Markdown, with its caption and its statements."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table.lines()]
    drawn = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join(part for part in (caption(table), drawn, "\n".join(statements(table))) if part) + "\n"


def to_json(table: Table) -> dict[str, Any]:
    """Everything in the table, and the claims it was made for."""
    found = claims(table.entries) if table.claims else []
    return {
        "rows": [asdict(entry) for entry in table.entries],
        **{
            name: getattr(table, name)
            for name in ("floors", "costs_of", "trained_on", "evaluated_on", "test_images", "relative_to")
        },
        "claims": [asdict(claim) | {"verdict": claim.verdict} for claim in found],
    }
