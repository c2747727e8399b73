"""Are the adversaries awake? What a run's records say of AdCo's trained negatives."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from adco.trends import Record, curve, latest

# An adversary gets gradient through its part of the softmax at τ_adv. Below a hundredth for all of them together, the
# rows hardly move while the encoder does.
ASLEEP = 0.01
# A share varies from batch to batch, so this many records in a row must be below.
IN_A_ROW = 3
# Rows whose mean is this long have a mean cosine of 0.99.
ONE_POINT = 0.995


class Note(NamedTuple):
    """What is wrong with the adversaries, and what that means."""

    word: Literal["adversaries fixed", "adversaries are one", "adversaries asleep"]
    since: int | None
    meaning: str

    def __str__(self) -> str:
        return self.word if self.since is None else f"{self.word} since step {self.since}"


def adversary_note(history: Sequence[Record], settings: Mapping[str, object]) -> Note | None:
    """What is wrong with the adversaries, or None if they are awake or the method has none.

    Args:
        history: a run's records, oldest first.
        settings: the run's; read is adversary_learning_rate.
    """
    if not len(curve(history, "adversary_share_in_loss_adversary")):
        return None
    if settings.get("adversary_learning_rate") == 0:
        return Note("adversaries fixed", None, "they are never moved: negatives as the warm start made them")
    if latest(history, "adversary_concentration") > ONE_POINT:
        return Note("adversaries are one", None, "all point the same way, so they act as one negative")
    since = asleep_since(history)
    if since is None:
        return None
    return Note("adversaries asleep", since, "no gradient reaches them, so they act as fixed negatives")


def asleep_since(history: Sequence[Record]) -> int | None:
    """The step since which the adversaries' share at τ_adv has stayed below 0.01, or None."""
    key = "adversary_share_in_loss_adversary"
    measured = [record for record in history if len(curve([record], key)) and "step" in record]
    awake = [number for number, record in enumerate(measured) if float(record[key]) >= ASLEEP]
    first = awake[-1] + 1 if awake else 0
    return int(measured[first]["step"]) if len(measured) - first >= IN_A_ROW else None
