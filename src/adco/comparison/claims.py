"""Claims about the rows of a table, as a comparison's recipe states them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from adco.config.load import Parser, build
from adco.errors import InputError

Measure = Literal["accuracy", "time", "parameters"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, with the bound that the measured value is tested against.

    Args:
        claim: the claim in words.
        number: its number in the list below the table; claims with the same number belong together.
        measure: accuracy: the difference in top-1, in points; time: the ratio of the times per epoch; parameters: the
            ratio of the numbers of extra parameters.
        rows: names of rows. For accuracy, their mean is compared with the mean of the rows in `against`. For time and
            parameters, there must be only one.
        against: names of as many rows.
        at_least: the claim holds if no value in the 95 % interval is below this bound.
        at_most: the claim holds if no value in the 95 % interval is above this bound.
    """

    claim: str = ""
    number: int = 1
    measure: Measure = "accuracy"
    rows: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    at_least: float | None = None
    at_most: float | None = None

    def check(self, known: Sequence[str]) -> None:
        """Raise an InputError if the claim is incomplete or names a row that is not one of the known ones."""
        if not self.claim:
            raise InputError(f"a claim about {', '.join(self.rows) or 'no row'} has no text: add claim: …")
        if not self.rows or len(self.rows) != len(self.against):
            raise InputError(f"claim {self.claim!r} must name as many rows in `rows` as in `against`, at least one")
        if self.measure != "accuracy" and len(self.rows) > 1:
            raise InputError(f"claim {self.claim!r}: measure {self.measure} compares only one row with one other")
        if self.at_least is None and self.at_most is None:
            raise InputError(f"claim {self.claim!r} needs a bound: at_least or at_most")
        for bound in (self.at_least, self.at_most):
            if bound is not None and not math.isfinite(bound):
                raise InputError(f"claim {self.claim!r}: the bound {bound} must be a finite number")
        for name in (*self.rows, *self.against):
            if name not in known:
                raise InputError(f"claim {self.claim!r}: {name} must be one of the rows {', '.join(known)}")


def read_claims(given: Any, rows: Sequence[str]) -> tuple[Claim, ...]:
    """Return the claims of a recipe.

    Args:
        given: the content of the recipe's `claims`.
        rows: the names of the recipe's rows.

    Raises:
        InputError: a claim is incomplete, has an unknown key, or is about a row that the recipe does not have.
    """
    if not isinstance(given, list) or not all(isinstance(values, Mapping) for values in given):
        raise InputError(
            f"claims {given} must be a list of mappings, {{claim: …, rows: [ROW], against: [ROW], at_least: X}}; "
            "adco recipes cifar10_table5 shows examples"
        )
    parser = Parser([Claim], "adco compare", "")
    found = []
    for values in given:
        sides = {side: values[side] for side in ("rows", "against") if isinstance(values.get(side), list)}
        named = {side: [str(name) for name in names] for side, names in sides.items()}
        (claim,) = build(parser, {**values, **named})  # names of rows may be numbers
        claim.check(rows)
        found.append(claim)
    return tuple(found)
