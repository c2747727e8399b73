"""What `adco.pretrain` and `adco.evaluate` do. The command calls the same functions with the same words."""

import time
from pathlib import Path
from typing import Any, Literal

from adco.configure import Parser, build, pretrain_settings
from adco.evaluation.runs import evaluate_run
from adco.pretraining import open_images, pretrain_run, resume_run
from adco.rehearsal import fit_epochs
from adco.run_directory import RunDirectory
from adco.settings import EvaluateSettings


def pretrain(recipe: str | Path | None = None, *, resume: str | Path | None = None, **settings: Any) -> Path:
    """Pretrain a backbone on images without labels.

    Args:
        recipe: a recipe of the package by name, or a YAML file, such as an earlier run's `config.yaml`.
        resume: a run directory to go on with; takes no other setting than `epochs`, to make the run longer or shorter.
        settings: over the recipe's; see `adco pretrain --help` or `adco.settings`.

    Returns:
        The run directory, with `backbone.safetensors` for `adco.load_backbone`.

    Raises:
        ValueError: if a setting is unknown or impossible; nothing has been written then.
        adco.callbacks.Interrupted: if a signal stopped the run; it can be resumed.
        adco.callbacks.NotFiniteError: if the loss is NaN or infinite; the last good checkpoint is kept.
        adco.callbacks.CollapsedError: if the embeddings collapse and stay so; the last good checkpoint is kept.
    """
    begun = time.perf_counter()
    if resume is not None:
        given = [*(["recipe"] if recipe else []), *(name for name in settings if name != "epochs")]
        if given:
            raise ValueError(
                f"resume takes its settings from the run directory, except epochs: leave out {', '.join(given)}"
            )
        run = RunDirectory.open(resume)
        before = run.read_config()
        epochs = pretrain_settings(**{**before, **settings}).epochs
        return resume_run(run, pretrain_settings(**before), epochs).path
    chosen = pretrain_settings(recipe, **settings)
    chosen.check()
    source = open_images(chosen)
    if chosen.minutes is not None:
        chosen = fit_epochs(chosen, source, time.perf_counter() - begun)
    return pretrain_run(chosen, source).path


def evaluate(kind: Literal["knn", "linear"], run: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Evaluate a frozen backbone on labelled images.

    Args:
        kind: "knn" for weighted nearest neighbours, "linear" for a linear probe.
        run: a run directory, a checkpoint or a backbone.safetensors; the newest run where no backbone is named either.
        settings: see `adco evaluate --help` or `adco.settings.EvaluateSettings`.

    Returns:
        What `results/KIND-DATA.json` in the run directory holds: top-1, top-5, per class, protocol, and the floors
        if they were asked for, now or before.

    Raises:
        ValueError: if a setting is unknown or impossible, or the images have no labels.
    """
    parser = Parser(EvaluateSettings, "adco evaluate", "")
    return evaluate_run(kind, None if run is None else Path(run), build(parser, settings))
