"""Write checkpoints atomically, and read them."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor

from adco.files import replacing
from adco.untrusted import reading, refuse_compressed

PARTS = ("state_dict", "optimizer_states", "loops", "epoch", "global_step")  # of a run's state, as Lightning writes it


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoint writer that replaces the old file atomically: a kill at any moment leaves a complete checkpoint.

    Lightning's own writer creates the file in the system's temporary directory first. If that is on another file
    system, the last step is a copy, which is not atomic. The file also keeps the permissions of a temporary file, which
    only its owner can read.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # a failed write, whose reason torch's message hides
                    raise error.__context__ from error
                raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the full state of a run, on the CPU. Tensors are memory-mapped: only those that are used are read.

    Raises:
        InputError: if the file is damaged.
    """
    with reading(path, what="checkpoint", advice="delete it, and --resume will train from the start"):
        if not is_zipfile(path):
            raise ValueError("torch.save did not write it")
        refuse_compressed(path)
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        except UnpicklingError as error:  # its message advises to read the file without protection
            raise ValueError("it holds something other than tensors and plain values") from error
        if missing := [name for name in PARTS if name not in state]:
            raise ValueError(f"it is not that of a run: it has no {missing[0]}")
        weights = state["state_dict"]
        if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()):
            raise ValueError("its state_dict does not hold tensors")
    return state
