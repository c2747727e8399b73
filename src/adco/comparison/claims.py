"""The appendix's claims, each with the figure measured and whether that bears it out; the table with them beneath."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adco.comparison.table import COLUMNS, Entry, Table


@dataclass(frozen=True)
class Claim:
    """A claim of the paper's appendix, and what was measured. It holds if the figure is at least (most) the bound."""

    number: int
    claim: str
    measured: str
    figure: float | None  # None: the rows are not there
    error: float | None  # two standard errors over seeds; None where there is one seed
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """holds, does not hold, or cannot tell: the bound is within two standard errors, or they are not known."""
        if self.figure is None or self.error is None:
            return "cannot tell"
        above = None if self.at_least is None else self.figure - self.at_least
        below = None if self.at_most is None else self.at_most - self.figure
        (margin,) = (side for side in (above, below) if side is not None)
        if margin >= self.error:
            return "holds"
        return "does not hold" if margin <= -self.error else "cannot tell"

    def sentence(self) -> str:
        """The claim, the figure and the verdict on one line."""
        if self.figure is None:
            return f"{self.claim}: not measured ({self.measured})"
        error = "one seed" if self.error is None else f"± {self.error:.2f}"
        return f"{self.claim}: {self.measured} {self.figure:.2f} ({error}): **{self.verdict}**"


def claims(entries: Sequence[Entry]) -> list[Claim]:
    """The appendix's six claims on these rows, and ours, the seventh; the rows are found by their settings."""
    adco = sorted((e for e in entries if e.method == "adco" and e.crops == 2), key=lambda e: -(e.negatives or 0))
    trained, fixed = ([e for e in adco if e.trained_negatives == which] for which in (True, False))
    plain, both = ([e for e in trained if e.symmetric == which] for which in (False, True))
    most, fewest = plain[:1], plain[-1:] if len(plain) > 1 else []
    symmetric, symmetric_fewest = both[:1], both[-1:]
    moco, moco_both = ([e for e in entries if e.method == "moco" and e.symmetric == which] for which in (False, True))
    byol = [e for e in entries if e.method == "byol"]
    crops = [e for e in entries if e.method == "adco" and e.crops > 2]
    twins = [e for e in trained for f in fixed[:1] if (e.symmetric, e.negatives) == (f.symmetric, f.negatives)]
    return [
        _difference(1, "the symmetric loss adds 1.5 to 2.0 points", symmetric, most, at_least=1.5),
        _difference(2, "an eighth of the adversaries costs at most 0.4 points", most, fewest, at_most=0.4),
        _difference(3, "symmetric AdCo reaches BYOL's accuracy", symmetric, byol, at_least=0.0),
        _difference(3, "symmetric AdCo reaches symmetric MoCo v2's accuracy", symmetric, moco_both, at_least=0.0),
        _cost(3, "symmetric AdCo takes 15 to 20 % less time an epoch than BYOL", symmetric, byol, at_most=0.85),
        _difference(4, "AdCo beats MoCo v2 by about a point", most, moco, at_least=1.0),
        _cost(4, "AdCo costs about what MoCo v2 does (2.26 / 2.12)", most, moco, at_most=1.066),
        _difference(5, "multi-crop adds to the plain loss", crops, most, at_least=0.0),
        _parameters(6, "the fewest adversaries are no more parameters than BYOL's predictor", symmetric_fewest, byol),
        _difference(7, "training the negatives adds to fixed ones (not the appendix's)", twins, fixed, at_least=0.0),
    ]


def _difference(number: int, claim: str, one: Sequence[Entry], other: Sequence[Entry], **bound: float) -> Claim:
    """Of linear top-1, in points."""
    if not one or not other:
        return Claim(number, claim, "a row is missing", None, None, **bound)
    a, b = one[0].linear, other[0].linear
    error = None
    if min(len(a), len(b)) > 1:
        error = 2 * math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
    measured = f"{one[0].name} minus {other[0].name}, linear top-1,"
    return Claim(number, claim, measured, statistics.fmean(a) - statistics.fmean(b), error, **bound)


def _cost(number: int, claim: str, one: Sequence[Entry], other: Sequence[Entry], **bound: float) -> Claim:
    """Of time an epoch, as a ratio; medians over rounds within a process, whose error is small beside the bounds."""
    if not one or not other:
        return Claim(number, claim, "a row is missing", None, None, **bound)
    measured = f"{one[0].name} over {other[0].name}, time per epoch,"
    return Claim(number, claim, measured, one[0].relative_time / other[0].relative_time, 0.0, **bound)


def _parameters(number: int, claim: str, one: Sequence[Entry], other: Sequence[Entry]) -> Claim:
    if not one or not other:
        return Claim(number, claim, "a row is missing", None, None, at_most=1.0)
    measured = f"{one[0].name} over {other[0].name}, trained parameters beyond backbone and projector,"
    return Claim(number, claim, measured, one[0].extra_parameters / other[0].extra_parameters, 0.0, at_most=1.0)


def markdown(table: Table) -> str:
    """The table and its claims in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table.lines()]
    drawn = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    read = "\n".join(f"{claim.number}. {claim.sentence()}" for claim in claims(table.entries))
    return (
        "kNN and linear: top-1 in %, mean ± standard deviation over seeds. time/epoch: relative to plain MoCo v2, "
        f"measured in turns ({table.costs_of}).\n\n{drawn}\n\n{read}\n"
    )


def to_json(table: Table) -> dict[str, Any]:
    """Everything in the table, and its claims."""
    return {
        "rows": [asdict(entry) for entry in table.entries],
        "floors": table.floors,
        "costs_of": table.costs_of,
        "claims": [asdict(claim) for claim in claims(table.entries)],
    }
