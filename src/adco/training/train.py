"""Training: build the Trainer with its callbacks, and train until the end of the run."""

import logging
import signal
import sys
from shlex import quote

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from adco.config.pretrain import Resolved
from adco.data.augment import Augment
from adco.data.sources.protocol import Source
from adco.data.workers import told_in_one_line
from adco.launcher import forget_launch, is_first_rank
from adco.methods.method import Method
from adco.quiet import quiet_lightning
from adco.ranks import Group
from adco.runs.directory import RunDirectory
from adco.training.adversary_images import AdversaryImages
from adco.training.build import backbone_info
from adco.training.console import Bar, TimeLeft, lines, progress, summary
from adco.training.damage import DamagedImages
from adco.training.datamodule import PretrainData, WarmStart
from adco.training.errors import Interrupted
from adco.training.fits import check_fits
from adco.training.hanging import EndIfHanging
from adco.training.memory_full import memory_full
from adco.training.module import Pretraining
from adco.training.monitor import Monitor
from adco.training.online_knn import online_knn
from adco.training.saving import Checkpoints, StopOnSignal, TakeSignalsBack, disk_errors_explained
from adco.training.trainer import make_trainer

logger = logging.getLogger("adco")


def train(
    method: Method, settings: Resolved, source: Source, run: RunDirectory, augment: Augment | None, group: Group
) -> RunDirectory:
    """Train from the run's last checkpoint, or from the start if it has none, to the end.

    Args:
        method: with its weights at the start; a checkpoint replaces them.
        settings: resolved.
        source: the training images.
        run: locked.
        augment: the user's function that makes the views instead of the package.
        group: the processes that train together.

    Raises:
        InputError, Interrupted, NotFiniteError, CollapsedError, NotWrittenError, NotEnoughMemoryError: as
            `pretrain_run`.
    """
    group.go_on = f"continue with: adco pretrain --resume {quote(str(run.path))}"
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
        TakeSignalsBack(stop),
        *([Bar(steps, clock, monitor.latest)] if sys.stderr.isatty() else []),
        EndIfHanging(group),  # it and the clock come before the monitor, whose kNN takes time between two epochs
        clock,
        monitor,  # before the warm start, because its first record is of the weights at the start
        *([WarmStart(data)] if settings.images_before_first_step else []),
        AdversaryImages(run if is_first_rank() else None, settings, source, steps),
        DamagedImages(
            data,
            checkpoints,
            source.unreadable,
            max_unreadable=settings.max_unreadable,
            agree_every=settings.log_every,
        ),
        stop,
        checkpoints,
    ]
    with disk_errors_explained(checkpoints), quiet_lightning():
        trainer = make_trainer(
            run,
            callbacks,
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            precision=settings.precision,
            epochs=settings.epochs,
            accumulate=settings.accumulate,
            sync_batch_norm=settings.syncs_batch_norm,
            logger=TensorBoardLogger(run.path, name="", version="tensorboard") if settings.tensorboard else None,
        )
        if is_first_rank():
            facts = summary(settings, source, method, trainer.strategy.root_device, trainer.world_size)
            progress.info(lines({**facts, "run": str(run.path)}))
        resume = run.checkpoint if run.checkpoint.is_file() else None
        try:
            stop.take_signals()
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        except SIGTERMException as error:  # the signal came before the first step
            raise Interrupted(signal.SIGTERM, checkpoints.run, "no step was done") from error
        except torch.OutOfMemoryError as error:
            raise memory_full(error, settings, source) from None
        except RuntimeError as error:
            if told := told_in_one_line(error, group.go_on):
                raise told from error
            raise
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
