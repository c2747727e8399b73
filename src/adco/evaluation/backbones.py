"""The backbone to use: that of a run, or a timm network by name."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from adco.config.channels import IMAGENET_MEAN, IMAGENET_STD
from adco.config.commands import BackboneSettings
from adco.config.defaults import choose_stem
from adco.config.weights import known_backbone, stem_with_weights
from adco.errors import InputError
from adco.models.backbone import BackboneInfo, build_backbone, feature_width, load_backbone, with_weights
from adco.models.pretrained import load_weights
from adco.runs.checkpoints import read_checkpoint
from adco.runs.directory import RunDirectory
from adco.untrusted import reading


def run_of(path: Path) -> RunDirectory:
    """Return the run directory that `path` refers to: the directory itself, or a checkpoint or backbone file in it.

    Raises InputError if there is no such run directory or file.
    """
    if path.suffix not in (".safetensors", ".ckpt"):
        return RunDirectory.open(path)
    run = RunDirectory(path.parent if path.suffix == ".safetensors" else path.parent.parent)
    if not path.is_file() or not run.config.is_file():
        problem = "is not in a run directory" if path.is_file() else "is not a file"
        raise InputError(f"{path} {problem}: give a run directory, or --weights FILE")
    return run


def run_backbone(run: RunDirectory, path: Path | None) -> tuple[nn.Module, BackboneInfo]:
    """Return a run's backbone and its description.

    The weights come from the checkpoint if `path` is one, else from backbone.safetensors, or, if that does not exist,
    from the last checkpoint.
    """
    checkpoint = path if path is not None and path.suffix == ".ckpt" else None
    if checkpoint or not run.backbone.is_file():
        return _from_checkpoint(run, checkpoint or run.checkpoint)
    return load_backbone(run.backbone)


def _from_checkpoint(run: RunDirectory, checkpoint: Path) -> tuple[nn.Module, BackboneInfo]:
    if not checkpoint.is_file():
        raise InputError(
            f"{run.path} has neither backbone.safetensors nor {checkpoint}: the run has not saved a checkpoint yet"
        )
    config = run.read_config()
    info = info_of(run)
    state = read_checkpoint(checkpoint)["state_dict"]
    prefix = "backbone." if config.get("command") == "finetune" else "encoder.backbone."
    with reading(checkpoint, what="checkpoint", says=f"does not fit {run.config}"):
        weights = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        return with_weights(info, weights), info


def info_of(run: RunDirectory) -> BackboneInfo:
    """Return the description of the backbone of a run.

    Raises:
        InputError: if its settings do not describe one.
    """
    config = run.read_config()
    with reading(run.config, says="does not describe a backbone", advice="it is damaged or was edited"):
        return BackboneInfo(
            config["backbone"],
            config["test_image_size"],
            tuple(config["mean"]),
            tuple(config["std"]),
            config["backbone_args"],
            config.get("stem", "auto"),
        )


def named_backbone(settings: BackboneSettings, usual_size: Callable[[], int]) -> tuple[nn.Module, BackboneInfo]:
    """Return a timm network and its description, with the given weights, or with random weights from a fixed seed.

    Args:
        settings: name the network or its weights.
        usual_size: returns the image size in pixels if neither the settings nor the weights give one.

    Raises InputError if there is no such network, the weights do not fit it, or it does not take the image size.
    """
    known = known_backbone(settings.weights, settings.backbone) if settings.weights else {}
    name = settings.backbone or known.get("backbone")
    if name is None:
        raise InputError(f"weights {settings.weights} need --backbone, the timm network they belong to")
    torch.manual_seed(0)
    image_size = settings.image_size or known.get("test_image_size") or usual_size()
    stem = stem_with_weights(settings.stem, known) if settings.weights else settings.stem
    mean, std = (tuple(known.get(which, usual)) for which, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    arguments = known.get("backbone_args", {})
    info = BackboneInfo(name, image_size, mean, std, arguments, choose_stem(stem, image_size))
    backbone = build_backbone(info)
    feature_width(backbone, info, image_size)  # a check of the size, which is to blame if the weights do not fit it
    if settings.weights:
        loaded = load_weights(backbone, info, settings.weights)
        logging.getLogger("adco").info(f"weights from {settings.weights}: {loaded}")
    return backbone, info
