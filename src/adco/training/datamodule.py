"""The training batches of a run, and the batches of its warm start."""

import itertools

import lightning as L
from lightning.pytorch.callbacks import Callback

from adco.config.pretrain import Resolved
from adco.data.augment import Augment
from adco.data.loader import Loader, Order
from adco.data.sources.protocol import Source, Unreadable
from adco.training.build import make_views
from adco.training.module import autocast, method_of

WARM_START = 1 << 32  # the epoch that the order and the views of the warm start are drawn for; no run has so many


class PretrainData(L.LightningDataModule):
    """Training batches of a source, starting at the run's position.

    The attribute `damaged` has the images that could not be read so far, by their index.

    Args:
        settings: of the run.
        source: the images.
        augment: the user's function that makes the views instead of the package.
    """

    def __init__(self, settings: Resolved, source: Source, augment: Augment | None = None) -> None:
        super().__init__()
        self.settings, self.source, self.augment = settings, source, augment
        self.damaged: dict[int, Unreadable] = {}

    def train_dataloader(self) -> Loader:
        assert self.trainer is not None
        return self._loader(self.trainer.global_step * self.settings.accumulate)

    def warm_start_dataloader(self) -> Loader:
        loader = self._loader(0)
        loader.start_at(WARM_START * len(loader.order))
        return loader

    def _loader(self, position: int) -> Loader:
        assert self.trainer is not None
        order = Order(
            len(self.source),
            batch_size=self.settings.batch_size // self.settings.accumulate,
            accumulate=self.settings.accumulate,
            seed=self.settings.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            position=position,
        )
        loader = Loader(
            self.source,
            make_views(self.settings, self.augment),
            order,
            workers=self.settings.workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )
        loader.damaged = self.damaged
        return loader


class WarmStart(Callback):
    """Calls `Method.warm_start` before the first step of a fresh run."""

    def __init__(self, data: PretrainData) -> None:
        self.data = data

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > 0:
            return
        loader = self.data.warm_start_dataloader()
        epochs = itertools.chain.from_iterable(itertools.repeat(loader))  # each epoch has new views
        batches = (pl_module.transfer_batch_to_device(batch, pl_module.device, 0) for batch in epochs)
        with autocast(pl_module.device, self.data.settings.precision):
            method_of(pl_module).warm_start(batches)
