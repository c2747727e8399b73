"""Settings of earlier versions: what was renamed and what was added since."""

import warnings
from collections.abc import Mapping
from typing import Any

from adco.errors import InputError

# Settings that were renamed. Recipes, flags and keywords may use the old name until version 0.2.
RENAMED = {"momentum": "ema_decay", "test_size": "test_image_size"}
# Settings whose default was None in earlier versions. None still means their default.
ONCE_NONE = ("class_level", "minutes", "out")
# Settings that were added to a method, with the values that describe what its runs did before.
ADDED: dict[str, dict[str, Any]] = {
    "adco": {"projector_norm": False, "warm_start_trains": False},
    "moco": {"projector_norm": False},
}


def present_name(name: str) -> str:
    """Return the present name of a setting, with a warning if that is not the name given."""
    if name in RENAMED:
        warnings.warn(f"setting {name} is now called {RENAMED[name]}: the old name goes in 0.2", FutureWarning, 3)
    return RENAMED.get(name, name)


def present_evaluation(name: str, protocol: Any) -> str:
    """Return the present name of an evaluation: in earlier versions, linear_sgd was linear with the protocol sgd.

    Args:
        name: of the evaluation.
        protocol: the value of the former setting; None if it is not given.
    """
    if protocol is None:
        return name
    if protocol not in ("cached", "sgd"):
        raise InputError(f"protocol {protocol} must be one of cached, sgd")
    present = "linear_sgd" if (name, protocol) == ("linear", "sgd") else name
    warnings.warn(f"protocol {protocol} is now the evaluation {present}: the old setting goes in 0.2", FutureWarning, 3)
    return present


def of_earlier_versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config.yaml as the present version would have written it."""
    added = ADDED.get(config.get("method", "adco"), {})
    return added | {RENAMED.get(name, name): value for name, value in with_defaults(config).items()}


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those that are None where None was the default."""
    return {name: value for name, value in values.items() if value is not None or name not in ONCE_NONE}
