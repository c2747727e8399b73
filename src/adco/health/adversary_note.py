"""Detect adversaries (AdCo's trained negatives) that are not effective, from a run's records.

They are called asleep if their gradient has nearly vanished, so that they no longer follow the encoder.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from adco.health.trends import Record, curve, has, latest

SHARE = "adversary_share_in_loss_adversary"  # the key of the adversaries' share of the softmax at τ_adv
# An adversary's gradient is proportional to its share of the softmax at τ_adv. If the share of all adversaries together
# is below a hundredth, they hardly move while the encoder does.
ASLEEP = 0.01
# The share varies from batch to batch, so this many consecutive records must be below.
IN_A_ROW = 3
# Unit-norm adversaries whose mean has this norm have a mean cosine of 0.99.
IDENTICAL = 0.995


class Note(NamedTuple):
    """A problem with the adversaries: its name, the step since which it has lasted (if known) and its meaning."""

    word: Literal["adversaries fixed", "adversaries identical", "adversaries asleep"]
    since: int | None
    meaning: str

    def __str__(self) -> str:
        return self.word if self.since is None else f"{self.word} since step {self.since}"


def adversary_note(history: Sequence[Record], learning_rate: float | None) -> Note | None:
    """Return the problem with the adversaries, or None if they are effective or the method has none.

    Args:
        history: a run's records, oldest first.
        learning_rate: of the adversaries.
    """
    if not len(curve(history, SHARE)):
        return None
    if learning_rate == 0:
        return Note("adversaries fixed", None, "their learning rate is 0, so they are not trained")
    if latest(history, "adversary_concentration") > IDENTICAL:
        return Note("adversaries identical", None, "all point in the same direction, so they act as a single negative")
    since = asleep_since(history)
    if since is None:
        return None
    meaning = (
        "their gradient has nearly vanished, so they act as fixed negatives, which were as accurate where measured"
    )
    return Note("adversaries asleep", since, meaning)


def asleep_since(history: Sequence[Record]) -> int | None:
    """Return the step since which the adversaries' share at τ_adv has stayed below 0.01, or None."""
    measured = [record for record in history if has(record, SHARE) and "step" in record]
    awake = [number for number, record in enumerate(measured) if float(record[SHARE]) >= ASLEEP]
    first = awake[-1] + 1 if awake else 0
    return int(measured[first]["step"]) if len(measured) - first >= IN_A_ROW else None
