"""What to try after a bad word: one table from the word to the flags most likely to help.

Twice τ_adv, or four times the rate, gives the adversaries a share about ten and six times as large (docs/decisions.md);
the other flags are untested advice.
"""

from collections.abc import Callable, Mapping
from typing import Any

Try = Callable[[Any], Any]  # from a setting's value to the one to try, None where there is nothing better


def _to(value: Any) -> Try:
    return lambda now: value if now != value else None


def _below(most: float) -> Try:
    return lambda now: most if now > most else None


def _times(factor: float, *, most: float = float("inf")) -> Try:
    return lambda now: min(most, float(f"{now * factor:.2g}")) if now < most else None


SLOWER = ("learning_rate", _times(1 / 3))
ADVICE: dict[str, tuple[tuple[str, Try], ...]] = {
    "not a number": (SLOWER, ("precision", _to("32-true"))),
    "collapsed": (("projector_norm", _to(True)), SLOWER),
    "collapsing": (("projector_norm", _to(True)), SLOWER),
    "diverging": (SLOWER, ("ema_decay", _below(0.99))),
    "not learning": (("projector_norm", _to(True)), ("optimizer", _to("muon")), ("epochs", _times(2))),
    "adversaries asleep": (("adversary_temperature", _times(5, most=0.2)), ("adversary_learning_rate", _times(10))),
    "adversaries are one": (("adversary_learning_rate", _times(1 / 10)),),
    "adversaries fixed": (("adversary_learning_rate", _to(3.0)),),
}


def advice(word: str, settings: Mapping[str, Any]) -> str:
    """The one or two flags most likely to help, with values: "try --learning_rate 0.01 (now 0.03)"; may be empty.

    Args:
        word: of a verdict, or of a note on the adversaries.
        settings: the run's; a flag that its method does not have, or that has the value already, is passed over.
    """
    flags = []
    for name, propose in ADVICE.get(word, ()):
        now = settings.get(name)
        value = None if now is None else propose(now)
        if value is not None:
            flags.append(f"--{name} {_shown(value)} (now {_shown(now)})")
    return "try " + " or ".join(flags[:2]) if flags else ""


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower()
