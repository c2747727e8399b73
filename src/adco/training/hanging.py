"""Noticing that another process of a run hangs: the others would wait for it for ever, and say nothing."""

import math
import threading
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from adco.data.batch import Batch
from adco.ranks import Group

LIMIT = 1800.0  # seconds for a batch; the slowest measured one, on two CPU cores, took less than a minute


class EndIfHanging(Callback):
    """Ends this process with a line if a batch takes longer than `LIMIT`, as it does if another process hangs.

    What the callbacks after this one do in the last step of an epoch, and the time between epochs, are not limited: the
    first rank validates and saves then, while the others wait.

    Args:
        group: the processes of the run.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.deadline = math.inf  # of the present batch
        self.done = threading.Event()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            threading.Thread(target=self._watch, name="adco-hanging", daemon=True).start()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, index: int) -> None:
        self.deadline = time.monotonic() + LIMIT

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.deadline = math.inf if trainer.is_last_batch else time.monotonic() + LIMIT

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.done.set()

    def _watch(self) -> None:
        while not self.done.wait(min(10.0, LIMIT / 10)):
            if time.monotonic() > self.deadline:
                self.group.end(f"a batch was not finished in {LIMIT / 60:g} minutes, so a process or a disk hangs")
