"""What to try after a bad verdict: a table from its word to the flags most likely to help.

Doubling τ_adv makes the adversaries' share of the softmax about ten times larger; four times their learning rate, about
six times larger (docs/decisions.md). The other flags are untested advice.
"""

from collections.abc import Callable, Mapping
from typing import Any

Try = Callable[[Any], Any]  # current value of a setting → value to try, or None to keep it


def _to(value: Any) -> Try:
    return lambda now: value if now != value else None


def _at_most(most: float) -> Try:
    return lambda now: most if now > most else None


def _times(factor: float, *, most: float = float("inf")) -> Try:
    return lambda now: min(most, float(f"{now * factor:.2g}")) if now < most else None


LOWER_RATE = ("learning_rate", _times(1 / 3))
ADVICE: dict[str, tuple[tuple[str, Try], ...]] = {
    "not a number": (LOWER_RATE, ("precision", _to("32-true"))),
    "collapsed": (("projector_norm", _to(True)), LOWER_RATE),
    "collapsing": (("projector_norm", _to(True)), LOWER_RATE),
    "diverging": (LOWER_RATE, ("ema_decay", _at_most(0.99))),
    "not learning": (("projector_norm", _to(True)), ("optimizer", _to("muon")), ("epochs", _times(2))),
    "adversaries asleep": (("adversary_temperature", _times(5, most=0.2)), ("adversary_learning_rate", _times(10))),
    "adversaries identical": (("adversary_learning_rate", _times(1 / 10)),),
}
# Where the two were compared, fixed adversaries were as accurate as trained ones that were awake (docs/results.md).
PURPOSE = {"adversaries asleep": "to wake them, "}


def advice(word: str, settings: Mapping[str, Any]) -> str:
    """Return the one or two flags most likely to help: "try --learning_rate 0.01 (now 0.03)". May be empty.

    Args:
        word: the word of a verdict, or of a note on the adversaries.
        settings: the run's settings. Flags that its method does not have, or that already have the value to try, are
            skipped.
    """
    flags = []
    for name, propose in ADVICE.get(word, ()):
        now = settings.get(name)
        value = None if now is None else propose(now)
        if value is not None:
            flags.append(f"--{name} {_shown(value)} (now {_shown(now)})")
    return f"{PURPOSE.get(word, '')}try {' or '.join(flags[:2])}" if flags else ""


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower()
