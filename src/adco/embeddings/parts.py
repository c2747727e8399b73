"""The blocks of an embedding that is under way, in a folder beside the file that it will become.

FILE.parts/plan.json       what is embedded, with which backbone
FILE.parts/000012.npz      a block

The folder is what makes an interrupted embedding resumable, and what several processes have in common.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from adco.data.sources.protocol import Unreadable
from adco.embeddings.blocks import Block
from adco.errors import InputError
from adco.files import replacing, write_json
from adco.untrusted import read_json, read_npz, reading


class Parts:
    """The folder of blocks of an embedding.

    Args:
        out: the file that is made.
        plan: what is embedded, with which backbone; blocks of another plan are not used.

    Raises:
        InputError: the folder has blocks of another plan.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self._plan = self.folder / "plan.json"
        again = f"delete the folder {self.folder}, and start again"
        if self._plan.is_file() and (begun := read_json(self._plan, advice=again)) != plan:
            differing = ", ".join(name for name in plan if begun.get(name) != plan[name])
            raise InputError(
                f"{self.folder} belongs to an embedding with another {differing}: delete it, or choose another --out"
            )
        write_json(self._plan, plan)

    def has(self, number: int) -> bool:
        """Return whether a block is there."""
        return self._file(number).is_file()

    def write(self, block: Block) -> None:
        """Save a block."""
        unreadable = [[index, str(file.path), file.reason] for index, file in sorted(block.unreadable.items())]
        with replacing(self._file(block.number)) as file:
            np.savez(file, indices=block.indices, embeddings=block.embeddings, unreadable=json.dumps(unreadable))

    def read(self, number: int) -> Block:
        """Return a block.

        Raises:
            InputError: its file is damaged.
        """
        with reading(self._file(number), advice="delete it, and start again"):
            found = read_npz(self._file(number))
            unreadable = json.loads(str(found["unreadable"]))
            damaged = {int(index): Unreadable(Path(path), str(reason)) for index, path, reason in unreadable}
            indices, embeddings = found["indices"].astype(np.int64), found["embeddings"].astype(np.float32)
            if indices.ndim != 1 or embeddings.ndim != 2 or len(indices) != len(embeddings):
                raise ValueError("its arrays do not belong together")
            return Block(number, indices, embeddings, damaged)

    def delete(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06}.npz"
