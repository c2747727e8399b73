import math

import pytest

from adco.health.adversary_note import adversary_note, asleep_since
from adco.health.trends import Record

SHARE = "adversary_share_in_loss_adversary"


def shares(*values: float) -> list[Record]:
    return [{"step": 10.0 * (i + 1), SHARE: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "since"),
    [
        ([], None),
        ([0.5, 0.5, 0.5], None),
        ([0.5, 1e-3, 1e-3], None),  # not long enough
        ([0.5, 1e-3, 1e-3, 1e-9], 20),
        ([1e-3, 1e-3, 1e-3], 10),
        ([1e-3, 1e-3, 1e-3, 0.01], None),  # awake again
        ([0.5, 1e-3, 1e-3, 0.02, 1e-3, 1e-4, 1e-5], 50),
        ([0.5, math.nan, 1e-3, 1e-3, 1e-3], 30),
    ],
)
def test_asleep_since_the_first_record_after_which_no_share_is_large(values: list[float], since: int | None) -> None:
    assert asleep_since(shares(*values)) == since
    between: list[Record] = [{"step": 15.0, "knn_top1": 50.0}]
    assert asleep_since([*shares(*values), *between]) == since


def words(records: list[Record], learning_rate: float = 3.0) -> str | None:
    note = adversary_note(records, learning_rate)
    return None if note is None else str(note)


def test_what_is_wrong_is_named() -> None:
    asleep = shares(0.5, 1e-4, 1e-4, 1e-4)
    assert words(shares(0.5, 0.5, 0.5)) is None
    assert words(asleep) == "adversaries asleep since step 20"
    assert words(asleep, learning_rate=0.0) == "adversaries fixed"
    assert words([{**record, "adversary_concentration": 0.999} for record in asleep]) == "adversaries identical"
    assert words([{**record, "adversary_concentration": 0.94} for record in shares(0.5, 0.5, 0.5)]) is None


def test_a_method_without_adversaries_has_none_that_sleep() -> None:
    assert adversary_note([{"step": 1.0, "loss": 3.0}] * 9, 3.0) is None
