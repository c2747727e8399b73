"""The demo: its recipe, then both evaluations beside the floors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adco.api import pretrain
from adco.config.commands import EvaluateSettings
from adco.evaluation.evaluate import evaluate
from adco.evaluation.knn import KNN
from adco.evaluation.linear import Linear
from adco.runs.directory import RunDirectory
from adco.words import counted

RECIPE = "cifar10_demo"


def run_demo(out: Path, seed: int) -> dict[str, Any]:
    """Pretrain, or go on where a demo in `out` was stopped, and evaluate.

    Raises:
        InputError: if CIFAR-10 is not available.
        adco.training.errors.Interrupted: if a signal stopped it; the same call goes on.
    """
    if not (out / "config.yaml").is_file():
        pretrain(RECIPE, out=str(out), seed=seed)
    elif not RunDirectory(out).is_finished:
        pretrain(resume=out)
    return evaluate([KNN(), Linear()], out, EvaluateSettings(floors=True))


def what_happened(out: Path, linear: Mapping[str, Any]) -> str:
    """One line: whether the backbone is above both floors by more than chance, and the last verdict on the run."""
    run = RunDirectory(out)
    config = run.read_config()
    floors = linear["floors"]
    learned = linear["top1_interval"][0] > max(floor["top1_interval"][1] for floor in floors.values())
    against = " and ".join(f"{floor['top1']:.1f} % of {name}" for name, floor in floors.items())
    of = f"{linear['data']}, {counted(config['epochs'], 'epoch')}, one seed"
    verdicts = [record["word"] for record in run.records() if "word" in record]
    last = f"; the run's last verdict: {verdicts[-1]}" if verdicts else ""
    words = "AdCo learned" if learned else "AdCo did not learn more than the floors"
    return f"{words}: linear top-1 {linear['top1']:.1f} % against {against} ({of}){last}"
