"""The demo: its recipe, then both evaluations beside the floors."""

from pathlib import Path
from typing import Any

from adco.api import pretrain
from adco.evaluation.runs import Kind, evaluate_kinds
from adco.settings import EvaluateSettings

RECIPE = "cifar10_demo"


def run_demo(out: Path, seed: int) -> dict[Kind, dict[str, Any]]:
    """Pretrain, or go on where a demo in `out` was stopped, and evaluate.

    Raises:
        ValueError: if the data cannot be had.
        adco.callbacks.Interrupted: if a signal stopped it; the same call goes on.
    """
    if not (out / "config.yaml").is_file():
        pretrain(RECIPE, out=str(out), seed=seed)
    elif not (out / "backbone.safetensors").is_file():
        pretrain(resume=out)
    return evaluate_kinds(["knn", "linear"], out, EvaluateSettings(floors=True))
