"""Read all tensors of a file of weights, without executing anything in it.

A checkpoint may also hold objects of the program that wrote it, such as its settings or whole modules. If they are of
one of the packages in KNOWN, an inert object takes their place, which only keeps their attributes. Nothing of the
package is imported or called.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from adco.errors import InputError
from adco.untrusted import reading, reason, refuse_compressed

# Packages whose objects training programs keep in their checkpoints: settings, paths, NumPy numbers, modules.
KNOWN = frozenset(
    (
        *("argparse", "pathlib", "collections", "datetime", "typing", "numpy", "_codecs"),
        *("omegaconf", "easydict", "yacs", "addict", "ml_collections", "hydra"),
        *("torch", "torchvision", "timm", "lightning", "lightning_fabric", "pytorch_lightning"),
        *("lightly", "lightly_train", "solo", "stable_pretraining", "stable_ssl", "classy_vision", "vissl", "fvcore"),
    )
)
TYPES: dict[str, Any] = {f"builtins.{kind.__name__}": kind for kind in (bool, dict, float, int, list, set, slice, str)}
TYPES["collections.defaultdict"] = lambda *factory: {}  # torch fills no other dict
MOST_PARTS = 1_000_000  # of a checkpoint: tensors, numbers, and what holds them, each time that it is referred to
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of which weights may be
OF_A_MODULE = ("_parameters", "_buffers", "_modules")  # where a torch module keeps its tensors and submodules


class _Inert:
    """Takes the place of an object of another package, and keeps its attributes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors in a file by their dotted names.

    Raises:
        InputError: if the file is damaged, or reading it would execute code.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if is_zipfile(path):
        with reading(path, what="weights", says="cannot be read"):
            refuse_compressed(path)
    unknown = _unknown_globals(path)
    refused = [name for name in unknown if name.split(".")[0] not in KNOWN and name not in TYPES]
    if refused:
        raise InputError(_refusal(path, refused))
    try:
        with safe_globals([(TYPES.get(name, _Inert), name) for name in unknown]):
            return dict(_flat(torch.load(path, "cpu", weights_only=True), "", set(), iter(range(MOST_PARTS))))
    except Exception as error:  # torch raises errors of a dozen types on damaged files
        name = re.search(r"nsupported(?: global:)? GLOBAL ([\w.]+)", str(error))
        raise InputError(
            _refusal(path, [name[1]]) if name else f"weights {path} cannot be read: {_reason(error)}"
        ) from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a .safetensors file.

    Raises:
        InputError: if it is damaged or is another file.
    """
    with reading(path, says="is not a safetensors file"), safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)


def check_values(name: str, tensor: Tensor, source: str) -> None:
    """Check that a tensor can be weights: finite floats, neither sparse nor without values (on torch's meta device).

    Integers are those of a quantised network, which are no weights without their scales.

    Raises:
        InputError: if it cannot; names the tensor and `source`, where it is from.
    """
    if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.is_meta:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
        raise InputError(f"weights {source} are unusable: {name} is {kind}, not dense floats of 16, 32 or 64 bits")
    if not tensor.isfinite().all():
        raise InputError(f"weights {source} are unusable: {name} has values that are not finite")


def _refusal(path: Path, names: list[str]) -> str:
    asks = f"it asks for {', '.join(names[:3])}; a file with the state_dict alone can be read"
    return f"weights {path} cannot be read without executing code in it: {asks}"


def _unknown_globals(path: Path) -> list[str]:
    """Return the global names that a file asks for and that torch does not allow."""
    try:
        return get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip file, as torch has written since version 1.6, or a damaged one
        return []


def _flat(content: Any, prefix: str, seen: set[int], left: Iterator[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors and their names. Objects that refer to each other in a circle are visited once.

    Args:
        content: what is visited.
        prefix: of the names in it.
        seen: the objects that were visited.
        left: a value for each part that may be visited; lists that hold lists several times have very many.
    """
    if next(left, None) is None:
        raise ValueError(f"it has more than {MOST_PARTS:,} parts")
    if isinstance(content, Tensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, Mapping | list | tuple):
        for name, part in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from _flat(part, f"{prefix}{name}.", seen, left)
    elif isinstance(content, _Inert) and id(content) not in seen:
        seen.add(id(content))
        for name, part in vars(content).items():
            yield from _flat(part, prefix if name in OF_A_MODULE else f"{prefix}{name}.", seen, left)


def _reason(error: Exception) -> str:
    """Return an error's message on one line, without torch's advice about `weights_only`."""
    if isinstance(error, KeyError | EOFError) or "Unsupported operand" in str(error):  # of the unpickler
        return "it is neither a file that torch.save wrote nor a .safetensors file"
    sentences = reason(error).split(". ")
    advice = ("Weights only load failed", "In PyTorch 2.6", "Re-running", "Do it only", "Please file", "Check the")
    kept = [sentence.split("WeightsUnpickler error: ")[-1] for sentence in sentences]
    kept = [sentence.split(" Check the documentation")[0] for sentence in kept if not sentence.startswith(advice)]
    return ". ".join(filter(None, kept)) or type(error).__name__
