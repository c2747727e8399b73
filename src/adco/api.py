"""What `adco.pretrain` and `adco.evaluate` do. The command calls the same functions with the same words."""

from pathlib import Path
from typing import Any, Literal

from adco.configure import Parser, build, pretrain_settings
from adco.evaluation.runs import evaluate_run
from adco.pretraining import pretrain_run, resume_run
from adco.run_directory import RunDirectory
from adco.settings import EvaluateSettings


def pretrain(recipe: str | Path | None = None, *, resume: str | Path | None = None, **settings: Any) -> Path:
    """Pretrain a backbone on images without labels.

    Args:
        recipe: a recipe of the package by name, or a YAML file, such as an earlier run's `config.yaml`.
        resume: a run directory to go on with; takes no other setting.
        settings: over the recipe's; see `adco pretrain --help` or `adco.settings`.

    Returns:
        The run directory, with `backbone.safetensors` for `adco.load_backbone`.

    Raises:
        ValueError: if a setting is unknown or impossible; nothing has been written then.
        adco.callbacks.Interrupted: if a signal stopped the run; it can be resumed.
        adco.callbacks.NotFiniteError: if the loss is NaN or infinite; the last good checkpoint is kept.
    """
    if resume is None:
        return pretrain_run(pretrain_settings(recipe, **settings)).path
    if recipe or settings:
        given = ", ".join([*(["recipe"] if recipe else []), *settings])
        raise ValueError(f"resume takes its settings from the run directory: leave out {given}")
    run = RunDirectory.open(resume)
    return resume_run(run, pretrain_settings(**run.read_config())).path


def evaluate(kind: Literal["knn", "linear"], run: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Evaluate a frozen backbone on labelled images.

    Args:
        kind: "knn" for weighted nearest neighbours, "linear" for a linear probe.
        run: a run directory, a checkpoint or a backbone.safetensors; the newest run where no backbone is named either.
        settings: see `adco evaluate --help` or `adco.settings.EvaluateSettings`.

    Returns:
        What `results/KIND.json` in the run directory holds: top-1, top-5, per class, protocol, and the floors if asked.

    Raises:
        ValueError: if a setting is unknown or impossible, or the images have no labels.
    """
    parser = Parser(EvaluateSettings, "adco evaluate", "")
    return evaluate_run(kind, None if run is None else Path(run), build(parser, settings))
