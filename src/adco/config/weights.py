"""What is known of weights before they are read: the backbone that they are for, if they are from a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from adco.config.load import read_recipe
from adco.config.networks import check_network
from adco.config.topics import Stem
from adco.untrusted import reading

PRETRAINED = "pretrained"  # stands for timm's own weights
NAMES = ("backbone", "backbone_args", "stem", "mean", "std", "test_image_size")


def known_backbone(weights: str, backbone: str | None = None) -> dict[str, Any]:
    """Return the settings of the backbone that weights are for, those in NAMES.

    They are those of a run, or of a file backbone.safetensors, which may have been copied elsewhere. Of timm's own
    weights, mean and std are known. Of the weights of other programs nothing is known; then this is empty.

    Args:
        weights: a run directory, a file, or "pretrained" for timm's own.
        backbone: the timm network, if it was given.
    """
    if weights == PRETRAINED:
        return _of_timm(backbone) if backbone else {}
    path = Path(weights).expanduser()
    for config in (path / "config.yaml", path.parent.parent / "config.yaml"):  # of a run, and of its checkpoint
        if path.suffix != ".safetensors" and config.is_file():
            with reading(config, says="does not describe a backbone"):
                return _checked(read_recipe(config))
    return _of_file(path) if path.suffix == ".safetensors" else {}


def stem_with_weights(stem: Stem, known: Mapping[str, Any]) -> Stem:
    """Return the stem that was asked for; for "auto", that of the weights, which is standard in other programs.

    Args:
        stem: as asked for.
        known: what `known_backbone` returns for the weights.
    """
    chosen: Stem = known.get("stem", "standard") if stem == "auto" else stem
    return chosen


def _of_timm(backbone: str) -> dict[str, Any]:
    from timm.models import get_pretrained_cfg

    try:
        found = get_pretrained_cfg(backbone)
    except RuntimeError:
        return {}  # building the network will tell what is wrong
    return {"mean": found.mean, "std": found.std} if found else {}


def _of_file(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return {}  # reading the weights will tell what is wrong
    if "adco" not in metadata:
        return {}
    renamed = {"backbone": "name", "backbone_args": "arguments", "test_image_size": "image_size"}
    with reading(path, says="does not describe a backbone"):
        info = json.loads(metadata["adco"])
        return _checked({name: info[renamed.get(name, name)] for name in NAMES if renamed.get(name, name) in info})


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a network's settings that are known, after a check that they are possible."""
    found = {name: values[name] for name in NAMES if values.get(name) is not None}
    usual = {"backbone": "", "backbone_args": {}, "mean": (0.5,), "std": (0.5,), "test_image_size": 1}
    described = {**usual, **found}
    check_network(image_size=described.pop("test_image_size"), **described)
    return found
