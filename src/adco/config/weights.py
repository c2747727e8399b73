"""What is known of weights before they are read: the backbone that they are for, if they are from a run."""

import json
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

NAMES = ("backbone", "backbone_args", "stem", "mean", "std", "test_image_size")


def known_backbone(weights: str) -> dict[str, Any]:
    """Return the settings of the backbone that weights are for, those in NAMES.

    They are those of a run, or of a file backbone.safetensors, which may have been copied elsewhere. Of the weights of
    other programs nothing is known; then this is empty.
    """
    path = Path(weights).expanduser()
    for config in (path / "config.yaml", path.parent.parent / "config.yaml"):  # of a run, and of its checkpoint
        if path.suffix != ".safetensors" and config.is_file():
            values = yaml.safe_load(config.read_text())
            return {name: values[name] for name in NAMES if name in values}
    return _of_file(path) if path.suffix == ".safetensors" else {}


def _of_file(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "np") as file:
            info = json.loads((file.metadata() or {}).get("adco", "{}"))
    except (OSError, SafetensorError, ValueError):
        return {}  # reading the weights will tell what is wrong
    renamed = {"backbone": "name", "backbone_args": "arguments", "test_image_size": "image_size"}
    return {name: info[renamed.get(name, name)] for name in NAMES if renamed.get(name, name) in info}
