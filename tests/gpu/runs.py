"""The runs of the tests on GPUs: small networks on digits."""

from pathlib import Path
from typing import Any

import adco
import tiny
from adco.runs.directory import RunDirectory

SETTINGS: dict[str, Any] = {
    **tiny.SETTINGS,
    **{"data": "digits", "batch_size": 128, "epochs": 2, "log_every": 1, "knn_images": 0, "optimizer": "sgd"},
}
METHODS: dict[str, dict[str, Any]] = {
    "adco": {"method": "adco", "adversaries": 256},
    "adco symmetric": {"method": "adco", "adversaries": 256, "symmetric": True, "split_groups": 2},
    "adco filled first": {"method": "adco", "adversaries": 256, "warm_start_trains": False},
    "adco multi-crop": {"method": "adco", "adversaries": 256, "small_crops": [[6, 0.2, 0.6]]},
    "caco": {"method": "caco", "bank": 256},
    "moco": {"method": "moco", "queue": 256},
    "simclr": {"method": "simclr"},
    "byol": {"method": "byol"},
    "simsiam": {"method": "simsiam"},
}


def trained(out: Path, accelerator: str, **more: Any) -> RunDirectory:
    settings = {**SETTINGS, "precision": "32-true", **more, "accelerator": accelerator, "out": str(out)}
    return RunDirectory(adco.pretrain(**settings))


def losses(run: RunDirectory) -> list[float]:
    return [float(record["loss"]) for record in run.records() if "loss" in record]
