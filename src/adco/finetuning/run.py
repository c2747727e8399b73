"""Fine-tuning: from a backbone and labelled images to a run directory with a classifier."""

import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from adco.config.defaults import log_every
from adco.data.sources.address import short_name
from adco.data.sources.reading import RGB, Reading
from adco.data.workers import refuse_to_start_over, told_in_one_line
from adco.devices import evaluation_device
from adco.errors import InputError, same_in_all_processes
from adco.evaluation.backbones import info_of
from adco.evaluation.evaluate import open_labelled
from adco.evaluation.subject import open_subject
from adco.finetuning.best import KeepBest
from adco.finetuning.config import COMMAND, resolve, settings_of, to_config
from adco.finetuning.head import start_head
from adco.finetuning.images import Parts, TrainingImages, divide
from adco.finetuning.job import Job, log_summary
from adco.finetuning.module import Finetuning
from adco.finetuning.records import Records
from adco.finetuning.result import save_scores
from adco.finetuning.saving import EpochCheckpoints, StopBetweenEpochs
from adco.finetuning.settings import Given
from adco.finetuning.trainer import accelerator_of, checked_processes, make_trainer
from adco.launcher import forget_launch, is_first_rank
from adco.models.backbone import build_backbone, feature_width, width_for_training
from adco.models.classifier import Classifier
from adco.models.pretrained import load_weights
from adco.quiet import quiet_lightning
from adco.ranks import Group, together
from adco.runs.directory import RunDirectory, newest_run
from adco.training.beginning import begin_run, new_run
from adco.training.console import Bar, TimeLeft, rank_zero_info
from adco.training.damage import DamagedImages
from adco.training.errors import Interrupted, NotEnoughMemoryError
from adco.training.fits import check_fits
from adco.training.hanging import EndIfHanging
from adco.training.saving import TakeSignalsBack, disk_errors_explained
from adco.words import counted


def finetune_run(start: Path | None, given: Given) -> RunDirectory:
    """Fine-tune a backbone.

    Args:
        start: the run directory, checkpoint or backbone.safetensors to start from; if None, the network that the
            settings name or, if they name none, the newest run.
        given: the settings.

    Raises:
        InputError: if a setting is impossible or the images have no labels; nothing has been written then.
        Interrupted: if a signal stopped the run; it can be resumed.
        NotFiniteError: if the loss is NaN or infinite.
        NotEnoughMemoryError: if the memory of a GPU is full.
    """
    refuse_to_start_over()
    with same_in_all_processes():
        given.check()
    evaluation_device(given.device)
    start = _start(start, given)
    subject = open_subject(given, start, open_labelled)
    train, test = subject.sources
    parts = divide(train, test, given)
    settings = resolve(given, subject, start, parts)
    accelerator = accelerator_of(settings)
    width_for_training(  # only a check
        subject.backbone, subject.info, subject.image_size, "image_size", settings.precision, accelerator
    )
    info = replace(subject.info, image_size=subject.image_size, stem=settings.stem)
    with together(checked_processes(settings), accelerator) as group:
        config = to_config(settings, info, _white_level(subject.run))
        name = f"{COMMAND}-{short_name(subject.data)}"
        run, is_new = begin_run(settings.out, name, partial(_write_first, config, parts))
        if not is_new:
            return resume_finetuning(run)
        with new_run(run):
            return _train(Job(settings, info, parts, run), group)


def _write_first(config: Mapping[str, Any], parts: Parts, run: RunDirectory, facts: dict[str, str]) -> None:
    """Write the first files of a new run."""
    run.write_environment(seed=config["seed"], images=len(parts.train), classes=parts.train.classes, **facts)
    run.write_config(config)


def resume_finetuning(run: RunDirectory) -> RunDirectory:
    """Continue a fine-tuning from its last checkpoint, or from its start if it was stopped before the first.

    Raises:
        InputError: if it is not a fine-tuning, or its images have changed.
        Interrupted, NotFiniteError, NotEnoughMemoryError: as `finetune_run`.
    """
    settings = settings_of(run)
    if run.is_finished:
        rank_zero_info(f"{run.path} is finished")
        return run
    info = info_of(run)
    assert settings.data is not None
    reading = Reading(len(info.mean), _white_level(run))
    train, test = open_labelled(settings.data, settings.class_level or 0, settings.max_unreadable or 0, reading)
    parts = divide(train, test, settings)
    before = run.read_environment()
    if (len(parts.train), list(parts.train.classes)) != (before.get("images"), before.get("classes")):
        raise InputError(
            f"data {settings.data} has other images or classes than when {run.path} began: start a new run"
        )
    with together(checked_processes(settings), accelerator_of(settings)) as group, run.locked():
        return _train(Job(settings, info, parts, run), group)


def _start(start: Path | None, given: Given) -> Path | None:
    """Return the run to start from; None if the settings name the network."""
    if start or given.names_backbone:
        return start
    newest = newest_run()
    if newest.read_config().get("command") == COMMAND:
        raise InputError(f"the newest run, {newest.path}, is of adco finetune itself: give the run to start from")
    return newest.path


def _classifier(job: Job, is_new: bool) -> Classifier:
    """Return the classifier at its start; a resumed run gets its weights from the checkpoint later."""
    settings, classes = job.settings, job.parts.train.classes
    torch.manual_seed(settings.seed)
    backbone = build_backbone(job.info)
    if is_new and not settings.from_scratch and settings.weights:
        load_weights(backbone, job.info, settings.weights)
    head = nn.Linear(feature_width(backbone, job.info, job.info.image_size), len(classes))
    classifier = Classifier(backbone, head, classes, job.info)
    if is_new and settings.head == "probe" and is_first_rank():  # the other ranks get the weights from this one
        classifier.to(evaluation_device(settings.device))
        start_head(classifier, job.parts.train, settings.max_unreadable or 0)
    return classifier


def _train(job: Job, group: Group) -> RunDirectory:
    settings, parts, run = job.settings, job.parts, job.run
    group.go_on = f"continue with: adco finetune --resume {quote(str(run.path))}"
    resume = run.checkpoint if run.checkpoint.is_file() else None
    classifier = _classifier(job, is_new=resume is None)
    if settings.precision == "64-true":
        classifier.double()  # Lightning would convert it after reading a checkpoint, whose weights would be rounded
    records, clock = Records(run, every=log_every(job.steps)), TimeLeft(job.steps)
    best = KeepBest(
        run,
        parts.validation,
        patience=settings.patience,
        max_unreadable=settings.max_unreadable or 0,
        records=records,
        clock=clock,
    )
    checkpoints = EpochCheckpoints(run)
    stop = StopBetweenEpochs(checkpoints, agree_every=log_every(job.steps), command=COMMAND)
    bar = [Bar(job.steps, clock, records.latest)] if sys.stderr.isatty() else []
    module = Finetuning(classifier, torch.as_tensor(parts.train.labels), settings, job.steps)
    check_fits(run, module)
    data = TrainingImages(parts.train, settings, job.info.image_size, len(job.info.mean))
    damaged = DamagedImages(
        data,
        checkpoints,
        (),  # those left out are of all images, of which these may be a few
        max_unreadable=settings.max_unreadable or 0,
        agree_every=log_every(job.steps),
        command=COMMAND,
    )
    callbacks = [TakeSignalsBack(stop), *bar, records, clock, damaged, best, checkpoints, stop, EndIfHanging(group)]
    with disk_errors_explained(checkpoints, COMMAND), quiet_lightning():
        trainer = make_trainer(settings, run, callbacks, group.size)
        log_summary(job)
        try:
            stop.take_signals()
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        except SIGTERMException as error:  # the signal came before the first step
            raise Interrupted(signal.SIGTERM, checkpoints.run, "no step was done", COMMAND) from error
        except torch.OutOfMemoryError as error:
            images = f"{counted(settings.batch_size // group.size, 'image')} of {job.info.image_size} px"
            raise NotEnoughMemoryError(
                f"the GPU's memory is full: {images} at once are too many: take a smaller --batch_size or --image_size"
            ) from error
        except RuntimeError as error:
            if told := told_in_one_line(error, group.go_on):
                raise told from error
            raise
        finally:
            stop.restore_handlers()
            forget_launch()
        checkpoints.save_last(trainer)
        if trainer.is_global_zero:
            save_scores(run, settings, parts, best.epoch)
            run.write_finished()
    return checkpoints.run


def _white_level(run: RunDirectory | None) -> int:
    """Return which value is white in the images of a run."""
    return run.white_level if run else RGB.white_level
