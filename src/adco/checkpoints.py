"""How a checkpoint is written: whole or not at all."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and then takes its place, so that a kill at any moment leaves one that is whole.

    Lightning's own goes by the system's temporary directory: where that is another file system, its last step copies.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        partial = Path(path).with_suffix(".partial")
        super().save_checkpoint(checkpoint, partial, storage_options)
        partial.replace(path)
