"""The labelled images of a fine-tuning: which are used, which are held out, and their views."""

from typing import NamedTuple

import lightning as L
import numpy as np

from adco.config.resolve import default_workers
from adco.data.loader import Loader, Order
from adco.data.sources.protocol import Source, Unreadable
from adco.data.sources.splits import draw_of_each_class
from adco.data.views import View
from adco.errors import InputError
from adco.evaluation.amounts import Amount
from adco.finetuning.settings import Given, Resolved, choose_validation_share

VALIDATION = 1 << 32  # the number of the draw of validation images; no draw of labels has so large a number


class Parts(NamedTuple):
    """Labelled images for training, for choosing the best epoch (None: there are none), and for the final test."""

    train: Source
    validation: Source | None
    test: Source


def divide(train: Source, test: Source, settings: Given | Resolved) -> Parts:
    """Choose the images that are used, and hold out some for validation.

    The images for `labels_per_class` N are those of draw 0 of N labels per class of `adco probe` with the same seed.

    Raises:
        InputError: if the images for training have fewer than two classes.
    """
    if settings.labels_per_class or settings.label_share:
        amount = Amount(per_class=settings.labels_per_class or 0, share=settings.label_share or 0.0)
        train = train.subset(draw_of_each_class(_labels(train), amount.of, settings.seed, 0))
    labels = _labels(train)
    share = choose_validation_share(settings, len(labels))
    held_out = draw_of_each_class(labels, lambda size: round(share * size), settings.seed, VALIDATION)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    if len(np.unique(labels[kept])) < 2:
        raise InputError(f"{train.name} has training images of only one class: a classifier needs at least 2")
    return Parts(train.subset(kept), train.subset(held_out) if len(held_out) else None, test)


def _labels(source: Source) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    assert source.labels is not None  # `open_labelled` checks it
    return source.labels


class TrainingImages(L.LightningDataModule):
    """Augmented views of the training images, starting at the run's position.

    The attribute `damaged` has the images that could not be read so far, by their index.

    Args:
        source: the training images.
        settings: of the run.
        size: side of a view in pixels.
        channels: of an image.
    """

    def __init__(self, source: Source, settings: Resolved, size: int, channels: int) -> None:
        super().__init__()
        self.source, self.settings = source, settings
        self.damaged: dict[int, Unreadable] = {}
        self.view = View(
            size=size,
            channels=channels,
            scale=settings.crop_scale,
            brightness=settings.jitter,
            contrast=settings.jitter,
            saturation=settings.jitter,
            hue=0.0,
            jitter_probability=1.0 if settings.jitter else 0.0,
            grayscale_probability=0.0,
            blur_probability=0.0,
            flip_probability=settings.flip_probability,
        )

    def train_dataloader(self) -> Loader:
        assert self.trainer is not None
        order = Order(
            len(self.source),
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            position=self.trainer.global_step,
        )
        workers = default_workers(self.source, self.trainer.num_devices)
        pin_memory = self.trainer.strategy.root_device.type == "cuda"
        loader = Loader(self.source, [self.view], order, workers=workers, pin_memory=pin_memory)
        loader.damaged = self.damaged
        return loader
