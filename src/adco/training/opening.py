"""The training images of a run, and what is said about them before it begins."""

import logging

from adco.config.pretrain import Given, Resolved
from adco.config.resolve import processes_of
from adco.data.sources.open import open_source
from adco.data.sources.protocol import Source
from adco.data.sources.reading import Reading
from adco.devices import check_cores
from adco.launcher import announce_launch
from adco.models.backbone import is_fitted_to_small_images
from adco.training.build import backbone_info
from adco.training.console import rank_zero_info

SLOW_STEM = (
    "at %d px, a network with the stem for small images is several times slower than with the standard stem at 96 px "
    "(ResNet-18 on two cores: 22 against 97 images/s): --stem standard --image_size 96 is faster"
)
logger = logging.getLogger("adco")


def open_training_images(settings: Given | Resolved) -> Source:
    """Open the training images.

    Raises:
        InputError: as `open_source`.
    """
    check_cores(settings.accelerator, settings.devices)
    if processes_of(settings) > 1:
        announce_launch()
    reading = Reading(settings.channels, settings.white_level)
    return open_source(settings.require_data(), "train", settings.max_unreadable, settings.class_level, reading)


def log_and_open_training_images(settings: Given | Resolved) -> Source:
    """Open the training images after logging a line, because reading a large folder takes a while.

    Raises:
        InputError: as `open_source`.
    """
    rank_zero_info(f"reading {settings.require_data()} …")
    return open_training_images(settings)


def log_images_and_warnings(settings: Resolved, source: Source) -> None:
    """Log a description of the images, and what is slow or has no effect in the settings."""
    logger.info(source.description)
    if 48 <= settings.image_size <= 64 and is_fitted_to_small_images(backbone_info(settings)):
        logger.info(SLOW_STEM, settings.image_size)
    for warning in settings.warnings(settings.epochs * (len(source) // settings.batch_size)):
        logger.warning("warning: %s", warning)
