"""The backbone to evaluate: that of a run, or a timm network by name."""

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
from adco.data.sources import Source
from adco.errors import InputError
from adco.models.backbone import BackboneInfo, build_backbone, feature_width, load_backbone
from adco.runs.checkpoints import read_checkpoint
from adco.runs.directory import RunDirectory


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


def named_backbone(settings: EvaluateSettings, source: Source) -> tuple[nn.Module, BackboneInfo]:
    """Return a timm network and its description, with the given weights, or with random weights from a fixed seed.

    Raises InputError if there is no such network, the weights do not fit it, or it does not take the image size.
    """
    assert settings.backbone is not None
    torch.manual_seed(0)
    image_size = settings.image_size or default_image_size(source)
    stem = choose_stem(settings.stem, image_size)
    info = BackboneInfo(settings.backbone, image_size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), stem=stem)
    backbone = build_backbone(info)
    if settings.weights:
        state = _read_weights(Path(settings.weights))
        try:
            backbone.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"weights {settings.weights} do not fit {settings.backbone}: {reason}") from error
    feature_width(backbone, settings.backbone, image_size)  # only a check that the network accepts this image size
    return backbone, info


def _read_weights(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"weights '{path}' is not a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"weights {path} cannot be read: {' '.join(str(error).split())}") from error
