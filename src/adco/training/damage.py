"""Record the images that cannot be read during training, and stop a run in which there are too many."""

import logging
from shlex import quote
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from adco.data.batch import Batch
from adco.data.damage import count_files, list_files, still_damaged, too_many
from adco.data.sources.protocol import Unreadable
from adco.distributed import gather_objects
from adco.errors import InputError
from adco.training.datamodule import PretrainData
from adco.training.module import ends_step
from adco.training.saving import Checkpoints


class DamagedImages(Callback):
    """Writes unreadable.json, and ends the run with an InputError if the share of unreadable files is too large.

    Args:
        data: the training images.
        checkpoints: of the run.
        agree_every: with several ranks, steps between the times at which they tell each other what they have found.
    """

    def __init__(self, data: PretrainData, checkpoints: Checkpoints, *, agree_every: int) -> None:
        self.data, self.checkpoints, self.agree_every = data, checkpoints, agree_every
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
        files = [*source.unreadable, *self.found.values()]
        number = len(source) + len(source.unreadable)
        if trainer.is_global_zero:
            run.write_unreadable(source.unreadable, self.found)
            if len(self.found) >= self.log_next:
                listed = list_files(source.name, list(self.found.values()), 3)
                count = count_files(source.name, files, number)
                logging.getLogger("adco").warning(f"warning: {count}; replaced by the next image: {listed}")
                self.log_next = 2 * len(self.found)
        if text := too_many(source.name, files, number, self.data.settings.max_unreadable):
            kept = (
                f"the checkpoint of step {self.checkpoints.saved} is kept"
                if self.checkpoints.saved
                else "no checkpoint"
            )
            resume = f"repair these files and continue with adco pretrain --resume {quote(str(run.path))}"
            raise InputError(f"{text}; {kept}: {resume}, or start a new run with a higher --max_unreadable")
