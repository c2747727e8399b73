"""Continue a run of AdCo or MoCo in a new run: take over all its networks and its negatives, not only the backbone."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from adco.errors import InputError
from adco.models.reading import check_values

NAMES = (  # names in checkpoints, of this package and of the published code of MoCo and AdCo → names here
    (r"^state_dict\.", ""),
    (r"^module\.", ""),
    (r"^encoder_q\.fc\.", "encoder.projector."),
    (r"^encoder_q\.", "encoder.backbone."),
    (r"^encoder_k\.fc\.", "momentum_encoder.encoder.projector."),
    (r"^encoder_k\.", "momentum_encoder.encoder.backbone."),
    (r"^Memory_Bank\.W$", "adversaries.weight"),
    (r"^queue_ptr$", "oldest"),
)
NEGATIVES = {"adversaries.weight", "queue"}  # [K, D]
SETTINGS = (  # names here → the settings on which their shapes depend
    (r"adversaries\.", "--adversaries and --dim"),
    (r"queue", "--queue and --dim"),
    (r".*projector\.", "--projector_norm, --hidden and --dim"),
    (r".*backbone\..*pos", "--image_size and --test_image_size"),
    (r".*backbone\.", "--backbone and --stem"),
)


def copy_method(method: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy all networks and negatives of a checkpoint into a method.

    Args:
        method: the method to copy into.
        tensors: all tensors of the checkpoint by their dotted names.
        source: where they are from, for errors.

    Raises:
        InputError: if a tensor of the method is missing in the checkpoint, or has another shape or unusable values
            there.
    """
    found = _under_our_names(tensors)
    state = method.state_dict()
    for name, wanted in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in found:
            lacks = f"they have no {name}" if state.keys() & found.keys() else "they have no part of a method"
            raise InputError(
                f"weights {source} cannot be continued by {type(method).__name__}: {lacks}; give a run directory or a "
                "checkpoint of the same method"
            )
        state[name] = found[name]
        if state[name].shape != wanted.shape:
            raise InputError(
                f"weights {source} cannot be continued: {name} is {list(found[name].shape)} in them and "
                f"{list(wanted.shape)} with these settings; set {settings_of_tensor(name)} as in that run"
            )
        if wanted.is_floating_point():  # not the position in a queue
            check_values(name, state[name], source)
    method.load_state_dict(state)


def _under_our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of this package.

    The published code, which calls the encoder encoder_q, has negatives as [D, K], and the position in a queue as [1].
    """
    found = {_name(name): tensor for name, tensor in tensors.items()}
    if any("encoder_q." in name for name in tensors):
        for name in NEGATIVES & found.keys():
            found[name] = found[name].movedim(0, -1).contiguous()
        if "oldest" in found:
            found["oldest"] = found["oldest"].squeeze()
    return found


def _name(name: str) -> str:
    for theirs, ours in NAMES:
        name = re.sub(theirs, ours, name)
    return name


def settings_of_tensor(name: str) -> str:
    """Return the flags on which the shape of a tensor depends."""
    return next((flags for pattern, flags in SETTINGS if re.match(pattern, name)), "the sizes of the method")
