"""Evaluation of a run's backbone, or of any timm network, on labelled images.

Floors are the scores of raw pixels and of the same network with random weights: baselines that a trained backbone
should beat.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from adco.config.commands import EvaluateSettings
from adco.config.defaults import choose_stem
from adco.config.resolve import default_image_size
from adco.data.sources import Source, open_splits
from adco.errors import InputError
from adco.evaluation.evaluate import check_classes, evaluate_features
from adco.evaluation.features import Features, extract_features, pixel_features
from adco.evaluation.published import fit_published_probe
from adco.evaluation.results import Kind, evaluation_of, save_result, with_known_floors
from adco.evaluation.scores import Scores, summarise
from adco.launcher import is_first_rank
from adco.models.backbone import BackboneInfo, build_backbone, feature_width, load_backbone
from adco.runs.checkpoints import read_checkpoint
from adco.runs.directory import RunDirectory, newest_run
from adco.words import counted

TRAINED, RANDOM, PIXELS = "trained", "random weights", "raw pixels"
FEW = 100  # test images; with fewer, the 95 % confidence interval of a 50 % accuracy is wider than ± 10 points


def evaluate_run(kind: Kind, run: Path | None, settings: EvaluateSettings) -> dict[str, Any]:
    """Evaluate a backbone and, with `settings.floors`, the floors.

    Args:
        kind: "knn" or "linear".
        run: run directory, checkpoint or backbone.safetensors. If None, the network named by `settings.backbone` is
            evaluated, or the newest run if none is named.
        settings: data and settings of the evaluation.

    Returns:
        The backbone's scores as returned by `Scores.to_json`, with those of the floors under "floors". If a run is
        evaluated, they are also written to its `results/KIND-DATA.json` (see `results.py`), with a picture of the
        confusion matrix.

    Raises:
        InputError: a setting is invalid, or the images have no labels.
    """
    result = evaluate_kinds([kind], run, settings)[kind]
    if result["images"] < FEW:
        low, high = result["top1_interval"]
        interval = f"the 95 % interval of top-1 is {low:.0f} to {high:.0f} %"
        warnings.warn(f"only {counted(result['images'], 'test image')}: {interval}", stacklevel=3)
    return result


def evaluate_kinds(kinds: list[Kind], run: Path | None, settings: EvaluateSettings) -> dict[Kind, dict[str, Any]]:
    """Evaluate as `evaluate_run` does, for several kinds at once; features are extracted only once."""
    settings.check()
    device = _device(settings)
    if settings.backbone:
        directory, backbone, run_settings = None, None, {}
        if run:
            raise InputError(f"evaluate either the run {run} or backbone {settings.backbone}, not both")
        if settings.data is None:
            raise InputError(f"backbone {settings.backbone} needs --data: the labelled images to evaluate it on")
    else:
        directory, backbone, info = _open_run(run)
        # Without --data, the run's own data is read, in the same way as for the run.
        run_settings = {} if settings.data else directory.read_config()
    data = settings.data or run_settings["data"]
    class_level = run_settings.get("class_level", 0) if settings.class_level is None else settings.class_level
    max_unreadable = (
        run_settings.get("max_unreadable", 0.01) if settings.max_unreadable is None else settings.max_unreadable
    )
    train, test = _open_splits(data, max_unreadable, class_level, directory, settings)
    if is_first_rank():
        logging.getLogger("adco").info(f"training images: {train.description}")
    check_classes(train, test)
    if settings.backbone:
        backbone, info = _named_backbone(settings, train)
    size = settings.image_size or info.image_size
    results: dict[Kind, dict[str, Any]] = {}
    assert backbone is not None
    for name, network, features in _all_features(backbone, info, size, settings.floors, device):
        if network is None and not is_first_rank():
            continue  # raw pixels are evaluated on rank 0 only; the other ranks need not wait
        for kind in kinds:
            if kind == "linear" and settings.protocol == "sgd" and network is not None:
                scores = _sgd_probe_scores(network, info, size, train, features(test), settings)
            else:
                scores = evaluate_features(
                    features(train),
                    features(test),
                    train.classes,
                    kind=kind,
                    k=settings.k,
                    temperature=settings.temperature,
                    device=device,
                )
            if name == TRAINED:
                evaluation = evaluation_of(kind, data, class_level, size, settings)
                results[kind] = {"data": str(data), "evaluation": evaluation, **scores.to_json()}
            else:
                results[kind].setdefault("floors", {})[name] = scores.to_json()
    if directory and is_first_rank():
        results = {kind: with_known_floors(directory, result) for kind, result in results.items()}
        for result in results.values():
            save_result(directory, result)
    return results


def _device(settings: EvaluateSettings) -> str:
    """Return the device to evaluate on; raise InputError if it is not available."""
    device = settings.device or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device} is not available: {str(error).splitlines()[0]}") from error
    return device


def _open_splits(
    data: str, max_unreadable: float, class_level: int, run: RunDirectory | None, settings: EvaluateSettings
) -> tuple[Source, Source]:
    """Open the training and test images.

    If `data` is the run's own, because --data was not given, an error says so.
    """
    try:
        return open_splits(data, max_unreadable, class_level)
    except InputError as error:
        if run is None or settings.data:
            raise
        raise InputError(f"without --data, the data of {run.path} is used: {error}") from error


def _sgd_probe_scores(
    network: nn.Module, info: BackboneInfo, size: int, train: Source, test: Features, settings: EvaluateSettings
) -> Scores:
    """Return the scores of the papers' linear probe: trained on augmented images, tested on features of test views."""
    probe = fit_published_probe(
        network,
        test.features.shape[1],
        train,
        len(train.classes),
        image_size=size,
        mean=info.mean,
        std=info.std,
        settings=settings,
    )
    protocol: dict[str, Any] = {"kind": "linear", "protocol": "sgd", "train_images": len(train)}
    protocol |= {name: getattr(settings, name) for name in ("epochs", "batch_size", "learning_rate")}
    return summarise(probe.scores(test.features), test.labels, train.classes, protocol)


def _all_features(
    backbone: nn.Module, info: BackboneInfo, size: int, floors: bool, device: str
) -> Iterator[tuple[str, nn.Module | None, Callable[[Source], Features]]]:
    """Yield (name, network, feature extractor) for the trained backbone and, if `floors`, for each floor.

    The network is None for raw pixels. Each extractor maps a source to its features and caches them.
    """

    def extractor(network: nn.Module) -> Callable[[Source], Features]:
        return cache(partial(extract_features, network, image_size=size, mean=info.mean, std=info.std, device=device))

    yield TRAINED, backbone, extractor(backbone)
    if floors:
        torch.manual_seed(0)
        random = build_backbone(info)
        yield RANDOM, random, extractor(random)
        yield PIXELS, None, cache(partial(pixel_features, image_size=size))


def run_of(path: Path) -> RunDirectory:
    """Return the run directory that `path` refers to: the directory itself, or a checkpoint or backbone file in it.

    Raises InputError if there is no such run directory or file.
    """
    if path.suffix not in (".safetensors", ".ckpt"):
        return RunDirectory.open(path)
    run = RunDirectory(path.parent if path.suffix == ".safetensors" else path.parent.parent)
    if not path.is_file() or not run.config.is_file():
        problem = "is not in a run directory" if path.is_file() else "is not a file"
        raise InputError(f"{path} {problem}: give a run directory, or --backbone NAME --weights FILE for other weights")
    return run


def _open_run(path: Path | None) -> tuple[RunDirectory, nn.Module, BackboneInfo]:
    """Return the run directory, its backbone and the backbone's description.

    The weights come from the checkpoint if `path` is one, else from backbone.safetensors, or, if that does not exist,
    from the last checkpoint.
    """
    run = newest_run() if path is None else run_of(path)
    if (path is not None and path.suffix == ".ckpt") or not run.backbone.is_file():
        return run, *_from_checkpoint(run, path if path is not None and path.suffix == ".ckpt" else run.checkpoint)
    return run, *load_backbone(run.backbone)


def _from_checkpoint(run: RunDirectory, checkpoint: Path) -> tuple[nn.Module, BackboneInfo]:
    if not checkpoint.is_file():
        raise InputError(
            f"{run.path} has neither backbone.safetensors nor {checkpoint}: the run has not saved a checkpoint yet"
        )
    config = run.read_config()
    info = BackboneInfo(
        config["backbone"],
        config["test_image_size"],
        tuple(config["mean"]),
        tuple(config["std"]),
        config["backbone_args"],
        config.get("stem", "auto"),
    )
    state = read_checkpoint(checkpoint)["state_dict"]
    prefix = "encoder.backbone."
    backbone = build_backbone(info)
    backbone.load_state_dict({name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)})
    return backbone.eval(), info


def _named_backbone(settings: EvaluateSettings, source: Source) -> tuple[nn.Module, BackboneInfo]:
    """Return a timm network and its description, with the given weights, or with random weights from a fixed seed."""
    assert settings.backbone is not None
    torch.manual_seed(0)
    image_size = settings.image_size or default_image_size(source)
    stem = choose_stem(settings.stem, image_size)
    info = BackboneInfo(settings.backbone, image_size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), stem=stem)
    backbone = build_backbone(info)
    if settings.weights:
        path = Path(settings.weights)
        if not path.is_file():
            raise InputError(f"weights {settings.weights!r} is not a file")
        is_safetensors = path.suffix == ".safetensors"
        try:
            state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
        except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
            raise InputError(f"weights {path} cannot be read: {' '.join(str(error).split())}") from error
        try:
            backbone.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"weights {path} do not fit {settings.backbone}: {' '.join(str(error).split())}"
            ) from error
    feature_width(backbone, settings.backbone, image_size)  # only a check that the network accepts this image size
    return backbone, info
