"""How a checkpoint is written: whole or not at all."""

from pathlib import Path
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
        torch.save(checkpoint, partial)
        partial.replace(path)
