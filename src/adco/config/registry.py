"""The methods by name. A new method is a file in `adco.methods` and a line in `METHODS`."""

from pkgutil import resolve_name
from typing import Any

from adco.config.pretrain import PretrainSettings
from adco.errors import InputError

# name → the method's settings, or where they are; importing that file imports torch
METHODS: dict[str, str | type[PretrainSettings[Any]]] = {
    "adco": "adco.methods.adco:AdCoSettings",
    "caco": "adco.methods.caco:CaCoSettings",
    "moco": "adco.methods.moco:MoCoSettings",
    "simclr": "adco.methods.simclr:SimCLRSettings",
    "byol": "adco.methods.byol:BYOLSettings",
    "simsiam": "adco.methods.simsiam:SimSiamSettings",
}


def settings_of(method: str) -> type[PretrainSettings[Any]]:
    """Return the settings class of a method.

    Raises:
        InputError: if there is no such method.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"method {method!r} must be one of {', '.join(METHODS)}")
    found = METHODS[method]
    settings: type[PretrainSettings[Any]] = resolve_name(found) if isinstance(found, str) else found
    return settings
