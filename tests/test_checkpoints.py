import errno
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from adco.runs.checkpoints import WholeCheckpointIO


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    WholeCheckpointIO().save_checkpoint({"weight": torch.arange(3)}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["weight"].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("as_torch", [False, True])
def test_a_write_that_fails_halfway_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_torch: bool
) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)

    def fail(checkpoint: dict[str, int], file: BinaryIO) -> None:
        file.write(b"half of it")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            if as_torch:
                raise RuntimeError("unexpected pos 64, not 0")  # noqa: B904 (as torch does)
            raise

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'$"):
        WholeCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
