"""Checks of setting values. Each raises an InputError that names the setting, its value and what is allowed."""

import math

from adco.errors import InputError


def require(
    settings: object,
    name: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    finite: bool = True,
) -> None:
    """Raise an InputError unless the setting is unset or a number within the bounds."""
    value = getattr(settings, name)
    if value is None:
        return
    bounds = {"at least": at_least, "above": above, "at most": at_most}
    fits = (
        (math.isfinite(value) or not finite)
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
    )
    if not fits:
        allowed = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        words = ["finite", *allowed] if finite and not math.isfinite(value) else allowed
        raise InputError(f"{name} {value} must be {' and '.join(words)}")


def check_crop_scale(name: str, scale: tuple[float, float]) -> None:
    """Raise an InputError unless `scale` is a range of shares of an image's area."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f"{name} {list(scale)} must be two shares of an image's area, 0 < smallest <= largest <= 1")
