"""Pretraining: from settings and images to a run directory."""

import logging
from functools import partial

import numpy as np
import torch

from adco.config.pretrain import Given, Resolved, to_dict
from adco.config.resolve import processes_of, resolve
from adco.data.augment import Augment, name_of
from adco.data.damage import load_or_next
from adco.data.sources.address import scheme_of, short_name
from adco.data.sources.objects import SCHEME
from adco.data.sources.protocol import Source
from adco.data.views import views_of
from adco.data.workers import refuse_to_start_over
from adco.errors import InputError
from adco.launcher import is_first_rank
from adco.ranks import together
from adco.runs.directory import RunDirectory
from adco.training.beginning import begin_run, new_run
from adco.training.build import make_first_method, make_views
from adco.training.opening import log_images_and_warnings
from adco.training.resuming import resume_run
from adco.training.same_images import file_names
from adco.training.train import train

logger = logging.getLogger("adco")


def pretrain_run(given: Given, source: Source, augment: Augment | None = None) -> RunDirectory:
    """Pretrain from the start.

    Args:
        given: the settings, already checked; unset ones are resolved here.
        source: the training images, `log_and_open_training_images(given)`.
        augment: the user's function that makes the views instead of the package.

    Raises:
        InputError: if a setting is impossible; nothing has been written then. Or if too many images cannot be read in
            training; the last checkpoint is kept.
        Interrupted: if a signal stopped the run; it can be resumed.
        NotFiniteError: if the loss is NaN or infinite; the last good checkpoint is kept.
        CollapsedError: if the embeddings collapse and stay collapsed; the last good checkpoint is kept.
        NotWrittenError: if a file of the run cannot be written; the last checkpoint is kept.
        NotEnoughMemoryError: if the memory of a GPU is full; the last checkpoint is kept.
    """
    refuse_to_start_over()
    settings = resolve(given, source)
    if augment is not None:
        _check_augment(settings, source, augment)
    torch.manual_seed(settings.seed)  # for the initial weights; other random numbers need no generator (data/draws.py)
    method, loaded = make_first_method(settings, len(source) // settings.batch_size)
    if is_first_rank():
        log_images_and_warnings(settings, source)
        if loaded:
            logger.info(f"weights from {settings.weights}: {loaded}")
    with together(processes_of(settings), settings.accelerator) as group:
        name = f"{settings.method}-{short_name(settings.data)}"
        run, is_new = begin_run(settings.out, name, partial(_write_first, settings, source, augment))
        if not is_new:
            given_images = source if scheme_of(settings.data) == SCHEME else None
            return resume_run(run.path, {}, given_images, augment)
        with new_run(run):
            return train(method, settings, source, run, augment, group)


def _write_first(
    settings: Resolved, source: Source, augment: Augment | None, run: RunDirectory, facts: dict[str, str]
) -> None:
    """Write the first files of a new run."""
    own = {} if augment is None else {"augment": name_of(augment)}
    run.write_environment(seed=settings.seed, images=len(source), **own, **facts)
    run.write_unreadable(source.unreadable)
    if names := file_names(source):
        run.write_file_names(names)
    run.write_config(to_dict(settings))


def _check_augment(settings: Resolved, source: Source, augment: Augment) -> None:
    """Raise an InputError unless the user's function makes views of the first image."""
    if not callable(augment):
        raise InputError(f"augment {augment!r} is not a function: it gets an image and returns a view")
    if settings.further_crops:
        raise InputError("augment makes the two views of full size: leave out small_crops")
    first = np.zeros(1, np.int64)
    views_of(load_or_next(source, first.copy(), {}), make_views(settings, augment), settings.seed, first, first)
