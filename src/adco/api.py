"""The functions of the package. Their keywords have the same names as the flags of the `adco` command."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from adco.config.commands import (
    DuplicatesSettings,
    EmbedSettings,
    EvaluateSettings,
    ExportSettings,
    NeighborsSettings,
    ProbeSettings,
    ReportSettings,
)
from adco.config.keywords import (
    DuplicatesKeywords,
    EmbedKeywords,
    EvaluateKeywords,
    ExportKeywords,
    FinetuneKeywords,
    NeighborsKeywords,
    PretrainKeywords,
    ProbeKeywords,
    ReportKeywords,
)
from adco.config.load import Parser, build, pretrain_settings
from adco.config.versions import current_evaluation
from adco.data.augment import Augment
from adco.data.sources.objects import name_of, source_of
from adco.data.sources.protocol import Source, read_as
from adco.data.sources.reading import Reading
from adco.embeddings.duplicates import Duplicates
from adco.embeddings.duplicates import duplicates as find_duplicates
from adco.embeddings.embed import embed as embed_images
from adco.embeddings.embeddings import Embeddings
from adco.embeddings.neighbors import Neighbors
from adco.embeddings.neighbors import neighbors as find_neighbors
from adco.errors import InputError
from adco.evaluation.evaluate import evaluate_one
from adco.evaluation.few_labels import probe as probe_few_labels
from adco.evaluation.registry import evaluation_of
from adco.exporting.export import Exported
from adco.exporting.export import export as export_backbone
from adco.finetuning.config import check_same, finetune_settings
from adco.finetuning.run import finetune_run, resume_finetuning
from adco.reporting.report import report as write_report
from adco.runs.directory import RunDirectory
from adco.training.opening import log_and_open_training_images
from adco.training.pretrain import pretrain_run
from adco.training.rehearsal import fit_epochs
from adco.training.resuming import AUTO, changes_of, resume_run, run_to_resume


def pretrain(
    recipe: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    augment: Augment | None = None,
    changed_data: bool = False,
    **settings: Unpack[PretrainKeywords],
) -> Path:
    """Pretrain a backbone on images without labels.

    Args:
        recipe: a recipe of the package by name, or a YAML file, such as an earlier run's `config.yaml`.
        resume: a run directory to continue, or one of its checkpoints that was kept by `keep_every`, to go back to. The
            settings are those of the run, except those of `adco.training.resuming.CHANGEABLE` that are given: `epochs`
            makes it longer or shorter, `data` says where its images are now, `devices` and others say where to train.
            Images from Python and `augment` must be given again. "auto" continues the run in `out`, or begins it if
            there is none yet, so that the same line can be run again after a crash.
        augment: a function that makes the views in place of the package: an image, uint8 [H, W, 3] → a view, a tensor
            [3, image_size, image_size] of uint8 or of floats in [0, 1]. For each call, the global generators of Python,
            NumPy and torch are seeded by (seed, epoch, image, view).
        changed_data: with `resume`, go on although files of the folder are gone or were added since the run began.
        settings: the settings of the run; they override the recipe's. See `adco pretrain --help`. `data` may also be
            the images themselves: a uint8 array [n, H, W, C]; a list of PIL images or arrays; a torch data set with a
            length, whose items are images or tuples that begin with one; a Hugging Face data set; or an
            `adco.data.sources.protocol.Source`.

    Returns:
        The run directory, with `backbone.safetensors` for `adco.load_backbone`.

    Raises:
        InputError: if a setting is unknown or impossible; nothing has been written then.
        adco.training.errors.Interrupted: if a signal stopped the run; it can be resumed.
        adco.training.errors.NotFiniteError: if the loss is NaN or infinite; the last good checkpoint is kept.
        adco.training.errors.CollapsedError: if the embeddings collapse and stay so; the last good checkpoint is kept.
    """
    start = time.perf_counter()
    data = settings.get("data")
    images = None if isinstance(data, str | Path | None) else source_of(data)
    if images is not None:
        settings["data"] = name_of(data)
    begun = run_to_resume(settings.get("out")) if resume == AUTO else None
    if begun:
        changes = changes_of(begun, recipe, settings)
        return resume_run(begun.path, changes, images, augment, changed_data=changed_data).path
    if resume not in (None, AUTO):
        changes = {**settings, **({} if recipe is None else {"recipe": recipe})}
        return resume_run(resume, changes, images, augment, changed_data=changed_data).path
    given = pretrain_settings(recipe, **settings)
    given.check()
    if augment is not None and given.minutes != math.inf:
        raise InputError(f"minutes {given.minutes:g} is measured with the package's views: with augment, give epochs")
    if images is not None and given.class_level:
        raise InputError(f"class_level {given.class_level} is for folders: leave it out")
    reading = Reading(given.channels, given.white_level)
    source = log_and_open_training_images(given) if images is None else read_as(images, reading)
    return pretrain_run(fit_epochs(given, source, time.perf_counter() - start), source, augment).path


def probe(run: str | Path | None = None, **settings: Unpack[ProbeKeywords]) -> dict[str, Any]:
    """Measure the accuracy that a frozen backbone gives with 1, 2, 5, … labels per class, beside the floors.

    Args:
        run: a run directory, a checkpoint or a backbone.safetensors. By default, the network given by `backbone` or
            `weights` or, if neither is given, the newest run.
        settings: those of `adco.config.commands.ProbeSettings`; see `adco probe --help`.

    Returns:
        `points` has the numbers of labels; `networks` has for each network one entry per point: `top1` (%) of each draw
        of the labels, their `mean`, its 95 % `interval`, and the `l2` of each draw. The draws are the same for all
        networks, so their `top1` can be compared in pairs. For a run, the result is also written to its `results/`,
        with a picture; `file` is its path.

    Raises:
        InputError: if a setting is unknown or impossible, or the images have no labels.
    """
    (given,) = build(Parser([ProbeSettings], "adco probe", ""), {**settings})
    return probe_few_labels(None if run is None else Path(run), given)


def finetune(
    run: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    resume: str | Path | None = None,
    **settings: Unpack[FinetuneKeywords],
) -> Path:
    """Train a classifier, a backbone with a linear layer, on labelled images.

    Args:
        run: the run directory, checkpoint or backbone.safetensors to start from. By default, the network given by
            `backbone` or `weights` or, if neither is given, the newest run.
        recipe: a recipe of the package by name, or a YAML file, such as an earlier run's `config.yaml`.
        resume: a run directory of an interrupted fine-tuning to continue, without other arguments. "auto" continues the
            one in `out`, or begins it if there is none yet, so that the same line can be run again.
        settings: those of `adco.finetuning.settings.FinetuneSettings`; they override the recipe's. See
            `adco finetune --help`.

    Returns:
        The run directory, with `classifier.safetensors` for `adco.load_classifier`, `backbone.safetensors`, and the
        scores of the test images in `results/`.

    Raises:
        InputError: if a setting is unknown or impossible, or the images have no labels; nothing has been written then.
        adco.training.errors.Interrupted: if a signal stopped the run; it can be resumed.
        adco.training.errors.NotFiniteError: if the loss is NaN or infinite; the best classifier so far is kept.
    """
    begun = run_to_resume(settings.get("out")) if resume == AUTO else None
    if begun:
        check_same(begun, recipe, settings)
        return resume_finetuning(begun).path
    if resume in (None, AUTO):
        return finetune_run(None if run is None else Path(run), finetune_settings(recipe, **settings)).path
    refused = [*(["run"] if run else []), *(["recipe"] if recipe else []), *settings]
    if refused:
        raise InputError(f"resume takes its settings from the run directory: leave out {', '.join(refused)}")
    return resume_finetuning(RunDirectory.open(resume)).path


def evaluate(kind: str, run: str | Path | None = None, **settings: Unpack[EvaluateKeywords]) -> dict[str, Any]:
    """Evaluate a frozen backbone on labelled images.

    Args:
        kind: "knn" for weighted nearest neighbours, "linear" for a linear probe, "linear_sgd" for the papers' linear
            evaluation, or any other name in `adco.evaluation.registry.EVALUATIONS`.
        run: a run directory, a checkpoint or a backbone.safetensors. By default, the network given by `backbone` or
            `weights` is evaluated or, if neither is given, the newest run.
        settings: those of `adco.config.commands.EvaluateSettings` and those of the evaluation; see
            `adco evaluate KIND --help`. With several devices, the script runs once for each, and all get the result.

    Returns:
        The result: top-1, top-5, accuracy per class, protocol, and the floors if they were asked for. If a run is
        evaluated, the result is also written to its `results/`, and it includes the floors of an earlier evaluation
        with the same images and settings.

    Raises:
        InputError: if a setting is unknown or impossible, or the images have no labels.
    """
    given: dict[str, Any] = {**settings}
    # protocol: in earlier versions, a setting of the evaluation linear
    evaluation_class = evaluation_of(current_evaluation(kind, given.pop("protocol", None)))
    common_settings, evaluation = build(Parser([EvaluateSettings, evaluation_class], "adco evaluate", ""), given)
    return evaluate_one(evaluation, None if run is None else Path(run), common_settings)


def embed(run: str | Path | None = None, data: Any = None, **settings: Unpack[EmbedKeywords]) -> Embeddings:
    """Return the embeddings of images by a frozen backbone, with their paths and labels.

    `adco embed` writes them to a file instead, block by block, for more images than fit into memory.

    Args:
        run: a run directory, a checkpoint or a backbone.safetensors. By default, the network given by `backbone` or
            `weights` is used or, if neither is given, the newest run.
        data: a path or name, as for `adco embed`, or images, as for `adco.pretrain`; by default the data of the run.
        settings: the other settings of `adco.config.commands.EmbedSettings`, except `out` and `devices`.

    Raises:
        InputError: if a setting is unknown or impossible, or the images or the backbone cannot be opened.
    """
    images, given = _with_data(data, settings)
    (chosen,) = build(Parser([EmbedSettings], "adco embed", ""), given)
    return embed_images(None if run is None else Path(run), chosen, images)


def neighbors(run: str | Path | None = None, data: Any = None, **settings: Unpack[NeighborsKeywords]) -> Neighbors:
    """Find the nearest neighbours of images among others, by the cosine similarity of their embeddings.

    Args:
        run: as for `adco.embed`.
        data: as for `adco.embed`.
        settings: the other settings of `adco.config.commands.NeighborsSettings`. The files `out` and `sheet` are
            written if they are given.

    Raises:
        InputError: if a setting is unknown or impossible, or the images or the backbone cannot be opened.
    """
    images, given = _with_data(data, settings)
    (chosen,) = build(Parser([NeighborsSettings], "adco neighbors", ""), given)
    return find_neighbors(None if run is None else Path(run), chosen, images)


def duplicates(run: str | Path | None = None, data: Any = None, **settings: Unpack[DuplicatesKeywords]) -> Duplicates:
    """Find altered copies among images, or between two collections of images.

    Args:
        run: as for `adco.embed`.
        data: as for `adco.embed`.
        settings: the other settings of `adco.config.commands.DuplicatesSettings`. The files `out` and `sheet` are
            written if they are given.

    Raises:
        InputError: if a setting is unknown or impossible, or the images or the backbone cannot be opened.
    """
    images, given = _with_data(data, settings)
    (chosen,) = build(Parser([DuplicatesSettings], "adco duplicates", ""), given)
    return find_duplicates(None if run is None else Path(run), chosen, images)


def _with_data(data: Any, settings: Mapping[str, Any]) -> tuple[Source | None, dict[str, Any]]:
    """Return images that were given from Python, or None, and the settings with the setting `data`."""
    images = None if isinstance(data, str | Path | None) else source_of(data)
    return images, {**settings} | ({} if data is None else {"data": data if images is None else name_of(data)})


def export(run: str | Path | None = None, **settings: Unpack[ExportKeywords]) -> Exported:
    """Write a backbone to a file or folder that other programs load, and check that its features are the same.

    Args:
        run: a run directory, a checkpoint or a backbone.safetensors. By default, the network given by `backbone` and
            `weights` is exported or, if neither is given, the newest run.
        settings: those of `adco.config.commands.ExportSettings`; see `adco export --help`. `to` names the format.

    Returns:
        What was written: its `path`; its `line`, a line of Python that loads it without adco; `images`, which says what
        images it takes; and `difference`, the largest difference of its features, as a share of the largest feature.

    Raises:
        InputError: if a setting is unknown or impossible, the format cannot hold this network, a package is missing, or
            `out` exists.
        adco.errors.AdcoError: if what was written gives other features; it is deleted.
    """
    (given,) = build(Parser([ExportSettings], "adco export", ""), {**settings})
    return export_backbone(given, None if run is None else Path(run))


def report(run: str | Path | None = None, **settings: Unpack[ReportKeywords]) -> Path:
    """Write a report on a run, or on a backbone, as one HTML file, and return its path.

    Args:
        run: as for `adco.embed`.
        settings: those of `adco.config.commands.ReportSettings`.

    Raises:
        InputError: if a setting is unknown or impossible, or the images or the backbone cannot be opened.
    """
    given: dict[str, Any] = {**settings}
    (chosen,) = build(Parser([ReportSettings], "adco report", ""), given)
    return write_report(None if run is None else Path(run), chosen)
