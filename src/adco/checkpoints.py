"""How a checkpoint is written, whole or not at all, and read."""

import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint, then replaces it, so that a kill at any moment leaves one that is whole.

    Lightning's own writes into the system's temporary directory first: if that is on another file system, its last step
    is a copy; and the file has the temporary file's permissions, which shut out everybody else.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        partial = Path(path).with_suffix(".partial")
        try:
            torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:  # torch has a RuntimeError of its own for a full disk
            partial.unlink(missing_ok=True)
            free = shutil.disk_usage(partial.parent).free / 1e6
            raise OSError(
                f"checkpoint {path} cannot be written, {free:.0f} MB are free there; the one before it is kept: {error}"
            ) from error
        partial.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The full state of a run, on the CPU; its tensors are mapped, so that only those that are used are read.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(f"checkpoint {path} is damaged: remove it to train anew with --resume") from error
    return state
