"""Load a backbone's weights from a run, from timm, or from a file of another program, whatever its layout.

A file may hold a network alone, a method's networks under prefixes (`module.encoder_q.conv1.weight`), or a whole
training state with either of these somewhere inside; see `naming.py`.
"""

import difflib
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from timm.models import adapt_input_conv
from torch import Tensor, nn

from adco.config.weights import PRETRAINED
from adco.errors import InputError
from adco.models.backbone import BackboneInfo, create_arguments
from adco.models.naming import converted, find
from adco.models.reading import check_values, read_tensors
from adco.runs.directory import RunDirectory
from adco.words import counted

ENOUGH = 0.95  # share of the backbone's parameters that a file must have


@dataclass(frozen=True)
class Loaded:
    """What was taken from a file.

    Args:
        prefix: the prefix of the backbone's tensors in the file; empty if there is none.
        share: the share of the backbone's parameters that the file has.
        missing: names of the backbone's tensors that the file lacks; they keep their values.
        left_out: names of the file's other tensors under the prefix, such as those of a classifier.
    """

    prefix: str
    share: float
    missing: list[str]
    left_out: list[str]

    def __str__(self) -> str:
        under = f" under {self.prefix.rstrip('.')}" if self.prefix else ""
        parts = {"left out": self.left_out, "missing": self.missing}
        rest = [f"{what}: {_heads(names)}" for what, names in parts.items() if names]
        return "; ".join([f"{100 * self.share:.4g} % of the backbone{under}", *rest])


def load_weights(backbone: nn.Module, info: BackboneInfo, weights: str) -> Loaded:
    """Copy weights into a backbone.

    Args:
        backbone: built from `info`.
        weights: a run directory, a file, or "pretrained" for timm's own.

    Raises:
        InputError: if there are no such weights, a file cannot be read without executing code, or the weights do not
            fit the backbone.
    """
    return copy_weights(backbone, *read_weights(info, weights))


def read_weights(info: BackboneInfo, weights: str) -> tuple[Mapping[str, Tensor], str]:
    """Return weights by name, and where they are from, for errors. Arguments and errors as for `load_weights`."""
    if weights == PRETRAINED:
        return _of_timm(info), f"of timm for {info.name}"
    path = weights_file(weights)
    return read_tensors(path), str(path)


def copy_weights(backbone: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Loaded:
    """Copy weights into a backbone.

    Args:
        tensors: the weights by name.
        source: where they are from, for errors.

    Raises:
        InputError: if the tensors have less than 95 % of the backbone's parameters, a tensor has another shape or
            unusable values, or they are of a larger network.
    """
    wanted = backbone.state_dict()
    match = _match(backbone, wanted, tensors)
    if match.share < 1:
        others = [_match(backbone, wanted, renamed) for renamed in converted(backbone, tensors)]
        match = max([match, *others], key=lambda match: match.share)
    found, fitting, share, prefix = match.found, match.fitting, match.share, match.prefix
    missing = [name for name in wanted if name not in fitting and not name.endswith("num_batches_tracked")]
    if share < ENOUGH:
        raise InputError(
            f"weights {source} have {100 * share:.0f} % of the backbone's parameters, and at least "
            f"{100 * ENOUGH:.0f} % are needed: {_nearest(missing, wanted, tensors)}"
        )
    if len(fitting) < len(found):
        name = next(name for name in found if name not in fitting)
        advice = ""
        if name.endswith("weight") and name == next(iter(wanted)):
            advice = "; a stem of another kind? try --stem cifar or --stem standard"
        elif "pos" in name:  # embeddings of positions, or tables of relative ones
            advice = "; it depends on the --image_size, which must be that of the weights"
        raise InputError(
            f"weights {source} do not fit: {name} has shape {list(found[name].shape)} in the weights and "
            f"{list(wanted[name].shape)} in the backbone{advice}"
        )
    deeper = [name for name in match.left_out if name.split(".")[0] in match.stages]
    parameters = sum(weights.numel() for weights in backbone.parameters())
    if sum(match.tensors[prefix + name].numel() for name in deeper) > (1 - ENOUGH) * parameters:
        raise InputError(
            f"weights {source} are of a larger network: the backbone lacks {', '.join(deeper[:3])} …; choose the "
            "--backbone they belong to"
        )
    if statistics := [name for name in missing if name.endswith(("running_mean", "running_var"))]:
        raise InputError(
            f"weights {source} lack statistics of BatchNorm, which the features need: {_heads(statistics)}"
        )
    for name, tensor in fitting.items():
        if wanted[name].is_floating_point():  # not the number of batches that BatchNorm has seen
            check_values(name, tensor, source)
    backbone.load_state_dict(fitting, strict=False)
    return Loaded(prefix, share, missing, match.left_out)


@dataclass(frozen=True)
class _Match:
    """The tensors of a file that are the backbone's.

    Args:
        tensors: all tensors of the file by name.
        prefix: the prefix of the backbone's tensors.
        names: our name → name after the prefix, of all the backbone's tensors.
        found: our name → tensor, of those that the file has.
        fitting: those of them with the backbone's shape.
        share: the share of the backbone's parameters that fits.
    """

    tensors: Mapping[str, Tensor]
    prefix: str
    names: dict[str, str]
    found: dict[str, Tensor]
    fitting: dict[str, Tensor]
    share: float

    @property
    def left_out(self) -> list[str]:
        """Names after the prefix of the tensors that are not the backbone's."""
        used = {self.prefix + theirs for theirs in self.names.values()}
        under = (name for name in self.tensors if name.startswith(self.prefix))
        return [name.removeprefix(self.prefix) for name in under if name not in used]

    @property
    def stages(self) -> set[str]:
        """The first parts of the names of the backbone's tensors."""
        return {theirs.split(".")[0] for theirs in self.names.values()}


def _match(backbone: nn.Module, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> _Match:
    prefix, names = find(backbone, wanted, tensors)
    found = {
        ours: _adapted(backbone, ours, tensors[prefix + theirs], wanted[ours])
        for ours, theirs in names.items()
        if prefix + theirs in tensors
    }
    fitting = {name: tensor for name, tensor in found.items() if tensor.shape == wanted[name].shape}
    parameters = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
    share = sum(parameters[name] for name in fitting if name in parameters) / sum(parameters.values())
    return _Match(tensors, prefix, names, found, fitting, share)


def weights_file(weights: str) -> Path:
    """Return the file of weights at a path.

    For a run directory, this is its backbone file or, if that is missing, its last checkpoint.

    Raises:
        InputError: if there is no such file.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        run = RunDirectory.open(path)
        path = run.backbone if run.backbone.is_file() else run.checkpoint
    if not path.is_file():
        raise InputError(f"weights '{path}' is neither a file nor a run directory; timm's own are called {PRETRAINED}")
    return path


def method_file(weights: str) -> Path:
    """Return the checkpoint that a path stands for: a file, or the last checkpoint of a run directory.

    Raises:
        InputError: if there is no such file.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        path = RunDirectory.open(path).checkpoint
    if not path.is_file():
        raise InputError(
            f"weights '{path}' cannot be continued: give a run directory with a checkpoint, or a checkpoint"
        )
    return path


def _of_timm(info: BackboneInfo) -> dict[str, Tensor]:
    """Return timm's pretrained weights, from its cache or the network."""
    try:
        model = timm.create_model(info.name, pretrained=True, num_classes=0, **create_arguments(info))
    except (OSError, RuntimeError, ValueError) as error:  # offline errors of the hub are OSErrors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"timm's pretrained weights of {info.name} are not available here: {reason}") from error
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def _adapted(backbone: nn.Module, name: str, tensor: Tensor, wanted: Tensor) -> Tensor:
    """Return positions or a stem's weights in the wanted shape, if timm can convert them, else as they are."""
    if tensor.shape == wanted.shape:
        return tensor
    if tensor.ndim == 4 and tensor.shape[1] == 3 and tensor[:, :1].shape == wanted[:, :1].shape:
        channels: Tensor = adapt_input_conv(wanted.shape[1], tensor)
        return channels
    try:
        return _resampled(backbone, name, tensor, wanted)
    except (RuntimeError, AssertionError, ValueError):  # not of the same kind of network, or not of square images
        return tensor


def _resampled(backbone: nn.Module, name: str, tensor: Tensor, wanted: Tensor) -> Tensor:
    """Return position embeddings, or a table of relative positions, for the backbone's size of images."""
    patches: Any = getattr(backbone, "patch_embed", None)
    module, _, kind = name.rpartition(".")
    if name == "pos_embed" and tensor.ndim == 3 and patches is not None:
        tokens = wanted.shape[1] - math.prod(patches.grid_size)  # of the class, if they have a position
        positions: Tensor = resample_abs_pos_embed(tensor, list(patches.grid_size), num_prefix_tokens=tokens)
        return positions
    if kind == "relative_position_bias_table":
        window: Any = backbone.get_submodule(module).window_size
        with warnings.catch_warnings(action="ignore"):  # of torch, for how timm computes it
            table: Tensor = resize_rel_pos_bias_table(tensor, window, wanted.shape)
        return table
    return tensor


def _nearest(missing: list[str], wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return the first tensors that were not found, each beside the one with the nearest name in the file."""
    if not tensors:
        return "there is no tensor in it"
    pairs = []
    for name in missing[:3]:
        near = difflib.get_close_matches(name, tensors, n=1, cutoff=0.0)[0]
        pairs.append(f"{name} {list(wanted[name].shape)} (nearest: {near} {list(tensors[near].shape)})")
    return "missing " + ", ".join(pairs) + (" …" if len(missing) > 3 else "")


def _heads(names: list[str]) -> str:
    """Summarise names by their first part, with the number of tensors for each."""
    counts = Counter(name.split(".")[0] for name in names)
    shown = [f"{name} ({counted(count, 'tensor')})" for name, count in counts.most_common(3)]
    return ", ".join(shown) + (" …" if len(counts) > 3 else "")
