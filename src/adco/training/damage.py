"""Record the images that cannot be read during training, and stop a run in which there are too many."""

import logging
from collections.abc import Sequence
from shlex import quote
from typing import Any, Protocol

import lightning as L
from lightning.pytorch.callbacks import Callback

from adco.data.batch import Batch
from adco.data.damage import count_files, list_files, still_damaged, too_many
from adco.data.sources.protocol import Source, Unreadable
from adco.distributed import gather_objects
from adco.errors import InputError
from adco.training.module import ends_step
from adco.training.saving import SavesState


class LoadsImages(Protocol):
    """What loads the training images. `damaged` has those that could not be read so far, by their index."""

    source: Source
    damaged: dict[int, Unreadable]


class DamagedImages(Callback):
    """Writes unreadable.json, and ends the run with an InputError if the share of unreadable files is too large.

    Args:
        data: the training images.
        checkpoints: of the run.
        left_out: files that are not among the training images because they could not be read, which count as well.
        max_unreadable: the largest share of unreadable files, 0 to 1.
        agree_every: with several ranks, steps between the times at which they tell each other what they have found.
        command: the command that resumes the run.
    """

    def __init__(
        self,
        data: LoadsImages,
        checkpoints: SavesState,
        left_out: Sequence[Unreadable],
        *,
        max_unreadable: float,
        agree_every: int,
        command: str = "pretrain",
    ) -> None:
        self.data, self.checkpoints, self.left_out = data, checkpoints, left_out
        self.max_unreadable, self.agree_every, self.command = max_unreadable, agree_every, command
        self.found: dict[int, Unreadable] = {}  # of all ranks, by index
        self.log_next = 1  # number of files from which the next warning is logged

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Continue the record of a resumed run, without the files that were repaired."""
        if trainer.is_global_zero:
            self.data.damaged |= still_damaged(self.data.source, self.checkpoints.run.read_damaged())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        if trainer.world_size > 1 and trainer.global_step % self.agree_every and not trainer.is_last_batch:
            return
        together = {index: file for part in gather_objects(self.data.damaged) for index, file in part.items()}
        if len(together) > len(self.found):
            self.found = together
            self._record(trainer)

    def _record(self, trainer: L.Trainer) -> None:
        source, run = self.data.source, self.checkpoints.run
        files = [*self.left_out, *self.found.values()]
        number = len(source) + len(self.left_out)
        if trainer.is_global_zero:
            run.write_unreadable(self.left_out, self.found)
            if len(self.found) >= self.log_next:
                listed = list_files(source.name, list(self.found.values()), 3)
                count = count_files(source.name, files, number)
                logging.getLogger("adco").warning(f"warning: {count}; replaced by the next image: {listed}")
                self.log_next = 2 * len(self.found)
        if text := too_many(source.name, files, number, self.max_unreadable):
            kept = (
                f"the checkpoint of step {self.checkpoints.saved} is kept"
                if self.checkpoints.saved
                else "no checkpoint"
            )
            resume = f"repair these files and continue with adco {self.command} --resume {quote(str(run.path))}"
            raise InputError(f"{text}; {kept}: {resume}, or start a new run with a higher --max_unreadable")
