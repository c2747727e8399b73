"""Settings of earlier versions: what was renamed and what was added since."""

import warnings
from collections.abc import Container, Iterable, Mapping
from functools import cache
from typing import Any

from adco.errors import InputError

# Settings that were renamed. Recipes, flags and keywords may use the old name until version 0.2.
RENAMED = {"momentum": "ema_decay", "test_size": "test_image_size"}
# Settings whose default was None in earlier versions. None still means their default.
ONCE_NONE = ("class_level", "minutes", "out")
# A setting that was added to all methods, with the value that describes what their runs did before.
ADDED_TO_ALL = {"backbone_rate": 1.0, "fixed_patches": False}
# Settings that were added to a method, with the values that describe what its runs did before.
ADDED: dict[str, dict[str, Any]] = {
    "adco": {"projector_norm": False, "warm_start_trains": False},
    "moco": {"projector_norm": False},
}


def current_names(given: Iterable[str], known: Container[str]) -> dict[str, str]:
    """Return the present name of each setting given, with a warning for each old one.

    Args:
        given: names of settings.
        known: the settings there are; an old name of one that is not there stays, so that errors name what was given.

    Raises:
        InputError: if a setting is given under both its names.
    """
    names = _renamed(given, known)
    for old, new in names.items():
        if old != new:
            _warn_of_old_name(old, new)
    return names


def _renamed(given: Iterable[str], known: Container[str]) -> dict[str, str]:
    names = {name: RENAMED[name] if RENAMED.get(name) in known else name for name in given}
    for old, new in names.items():
        if old != new and new in names:
            raise InputError(f"{old} is the old name of {new}, and both are given: leave {old} out")
    return names


@cache  # once for each name
def _warn_of_old_name(old: str, new: str) -> None:
    text = f"setting {old} is now called {new}: the old name goes in 0.2"
    warnings.warn(text, FutureWarning, stacklevel=6)  # shows the line that calls adco.pretrain


def current_evaluation(name: str, protocol: Any) -> str:
    """Return the present name of an evaluation: in earlier versions, linear_sgd was linear with the protocol sgd.

    Args:
        name: of the evaluation.
        protocol: the value of the former setting; None if it is not given.
    """
    if protocol is None:
        return name
    if protocol not in ("cached", "sgd"):
        raise InputError(f"protocol {protocol} must be one of cached, sgd")
    if name != "linear":
        warnings.warn(f"protocol {protocol} is a former setting of linear and changes nothing here", FutureWarning, 3)
        return name
    present = "linear_sgd" if protocol == "sgd" else name
    warnings.warn(f"protocol {protocol} is now the evaluation {present}: the old setting goes in 0.2", FutureWarning, 3)
    return present


def of_earlier_versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config.yaml as the present version would have written it.

    Raises:
        InputError: if it has a setting under both its names.
    """
    added = ADDED_TO_ALL | ADDED.get(str(config.get("method", "adco")), {})
    names = _renamed(config, RENAMED.values())
    return added | {names[name]: value for name, value in with_defaults(config).items()}


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those that are None where None was the default."""
    return {name: value for name, value in values.items() if value is not None or name not in ONCE_NONE}
