"""Write checkpoints atomically, and read them."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from adco.errors import InputError
from adco.files import replacing


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
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise InputError(f"checkpoint {path} is damaged: delete it, and --resume will train from the start") from error
    return state
