"""Pretraining: build data, method and Trainer from settings, train, and write a run directory."""

import logging
import signal
import sys
import time
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from adco.config.pretrain import Given, Resolved, to_dict
from adco.config.resolve import processes_of, resolve
from adco.data.augment import Augment, name_of
from adco.data.damage import load_or_next
from adco.data.sources.address import short_name
from adco.data.sources.open import open_source
from adco.data.sources.protocol import Source
from adco.data.sources.reading import Reading
from adco.data.views import views_of
from adco.devices import can_sync_batch_norm
from adco.errors import InputError
from adco.launcher import announce_launch, forget_launch, is_first_rank
from adco.methods.method import Method
from adco.models.backbone import is_fitted_to_small_images
from adco.quiet import quiet_lightning
from adco.runs.checkpoints import WholeCheckpointIO
from adco.runs.directory import RUNS, RunDirectory
from adco.training.adversary_images import AdversaryImages
from adco.training.build import backbone_info, make_first_method, make_views
from adco.training.console import Bar, TimeLeft, lines, progress, rank_zero_info, summary
from adco.training.damage import DamagedImages
from adco.training.datamodule import PretrainData, WarmStart
from adco.training.errors import Interrupted
from adco.training.fits import check_fits
from adco.training.module import Pretraining
from adco.training.monitor import Monitor
from adco.training.online_knn import online_knn
from adco.training.same_images import file_names
from adco.training.saving import Checkpoints, StopOnSignal, disk_errors_explained

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
    """
    settings = resolve(given, source)
    if augment is not None:
        _check_augment(settings, source, augment)
    torch.manual_seed(settings.seed)  # for the initial weights; other random numbers need no generator (data/draws.py)
    method, loaded = make_first_method(settings, len(source) // settings.batch_size)
    if is_first_rank():
        log_images_and_warnings(settings, source)
        if loaded:
            logger.info(f"weights from {settings.weights}: {loaded}")
    path = Path(settings.out or _default_out(settings))
    run = RunDirectory(path)
    if is_first_rank():
        run = RunDirectory.create(path)
        run.write_config(to_dict(settings))
        own = {} if augment is None else {"augment": name_of(augment)}
        run.write_environment(seed=settings.seed, images=len(source), **own)
        run.write_unreadable(source.unreadable)
        if names := file_names(source):
            run.write_file_names(names)
    try:
        with run.locked():
            return train(method, settings, source, run, augment)
    except Interrupted:
        raise
    except Exception:
        if is_first_rank():
            run.discard_if_empty()
        raise


def _check_augment(settings: Resolved, source: Source, augment: Augment) -> None:
    """Raise an InputError unless the user's function makes views of the first image."""
    if not callable(augment):
        raise InputError(f"augment {augment!r} is not a function: it gets an image and returns a view")
    if settings.further_crops:
        raise InputError("augment makes the two views of full size: leave out small_crops")
    first = np.zeros(1, np.int64)
    views_of(load_or_next(source, first.copy(), {}), make_views(settings, augment), settings.seed, first, first)


def _default_out(settings: Resolved) -> Path:
    return RUNS / f"{settings.method}-{short_name(settings.data)}-{time.strftime('%Y%m%d-%H%M%S')}"


def log_images_and_warnings(settings: Resolved, source: Source) -> None:
    """Log a description of the images, and what is slow or has no effect in the settings."""
    logger.info(source.description)
    if 48 <= settings.image_size <= 64 and is_fitted_to_small_images(backbone_info(settings)):
        logger.info(SLOW_STEM, settings.image_size)
    for warning in settings.warnings(settings.epochs * (len(source) // settings.batch_size)):
        logger.warning("warning: %s", warning)


def train(
    method: Method, settings: Resolved, source: Source, run: RunDirectory, augment: Augment | None
) -> RunDirectory:
    """Train from the run's last checkpoint, or from the start if it has none, to the end.

    Args:
        method: with its weights at the start; a checkpoint replaces them.
        settings: resolved.
        source: the training images.
        run: locked.
        augment: the user's function that makes the views instead of the package.

    Raises:
        InputError, Interrupted, NotFiniteError, CollapsedError, NotWrittenError: as `pretrain_run`.
    """
    if settings.precision == "64-true":
        method.double()  # Lightning would convert it only after reading a checkpoint, whose weights would be rounded
    module = Pretraining(method, settings.optimizer)
    check_fits(run, module)
    steps = method.schedule.steps
    data, clock, knn = PretrainData(settings, source, augment), TimeLeft(steps), online_knn(settings, source)
    monitor = Monitor(run if is_first_rank() else None, settings=settings, steps=steps, knn=knn, clock=clock)
    checkpoints = Checkpoints(
        run,
        backbone_info(settings),
        every=settings.checkpoint_every,
        may_save=monitor.may_save,
        keep_every=settings.keep_every,
    )
    stop = StopOnSignal(checkpoints, agree_every=settings.log_every)
    callbacks: list[L.Callback] = [
        *([Bar(steps, clock, monitor.latest)] if sys.stderr.isatty() else []),
        monitor,  # before the warm start, because its first record is of the weights at the start
        *([WarmStart(data)] if settings.images_before_first_step else []),
        clock,
        AdversaryImages(run if is_first_rank() else None, settings, source, steps),
        DamagedImages(data, checkpoints, agree_every=settings.log_every),
        stop,
        checkpoints,
    ]
    with disk_errors_explained(checkpoints), quiet_lightning():
        trainer = _make_trainer(settings, run, callbacks)
        if is_first_rank():
            facts = summary(settings, source, method, trainer.strategy.root_device, trainer.world_size)
            progress.info(lines({**facts, "run": str(run.path)}))
        resume = run.checkpoint if run.checkpoint.is_file() else None
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        except SIGTERMException as error:  # the signal came before the first step
            raise Interrupted(signal.SIGTERM, checkpoints.run, "no step was done") from error
        finally:
            stop.restore_handlers()
            forget_launch()
        not_saved = checkpoints.save_last(trainer)
        if trainer.is_global_zero:
            if not_saved:
                logger.warning(not_saved)
            run.write_finished()
            progress.info(f"{run.path}: {': '.join(monitor.verdict())}")
    return checkpoints.run


def _make_trainer(settings: Resolved, run: RunDirectory, callbacks: list[L.Callback]) -> L.Trainer:
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision=settings.precision if settings.precision != "auto" else None,
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulate,
        sync_batchnorm=settings.syncs_batch_norm and can_sync_batch_norm(settings.accelerator),
        use_distributed_sampler=False,
        logger=TensorBoardLogger(run.path, name="", version="tensorboard") if settings.tensorboard else False,
        callbacks=callbacks,
        enable_checkpointing=False,  # Lightning's ModelCheckpoint is not used
        enable_progress_bar=any(isinstance(callback, Bar) for callback in callbacks),
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        default_root_dir=run.path,
    )
