"""Fine-tuning: from a backbone and labelled images to a run directory with a classifier."""

import logging
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from adco.config.defaults import log_every
from adco.data.sources.address import short_name
from adco.data.sources.reading import RGB, Reading
from adco.devices import can_sync_batch_norm, count_processes, evaluation_device, one_line_if_missing
from adco.errors import InputError
from adco.evaluation.backbones import info_of
from adco.evaluation.evaluate import open_labelled
from adco.evaluation.subject import Subject, open_subject
from adco.finetuning.best import EpochCheckpoints, KeepBest, Records, StopBetweenEpochs
from adco.finetuning.config import COMMAND, resolve, settings_of, to_config
from adco.finetuning.head import start_head
from adco.finetuning.images import Parts, TrainingImages, divide
from adco.finetuning.module import Finetuning
from adco.finetuning.result import save_scores
from adco.finetuning.settings import Given, Resolved
from adco.launcher import forget_launch, is_first_rank
from adco.models.backbone import BackboneInfo, build_backbone, feature_width
from adco.models.classifier import Classifier
from adco.quiet import quiet_lightning
from adco.runs.checkpoints import WholeCheckpointIO
from adco.runs.directory import RUNS, RunDirectory
from adco.training.console import Bar, TimeLeft, lines, progress, rank_zero_info
from adco.training.errors import Interrupted
from adco.words import counted

logger = logging.getLogger("adco")


@dataclass(frozen=True)
class Job:
    """What a fine-tuning trains, on what, and where to.

    Args:
        settings: resolved.
        info: of the backbone.
        parts: the labelled images.
        run: its directory.
    """

    settings: Resolved
    info: BackboneInfo
    parts: Parts
    run: RunDirectory

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.epochs * (len(self.parts.train) // self.settings.batch_size)


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
    """
    given.check()
    evaluation_device(given.device)
    subject = open_subject(given, start, open_labelled)
    train, test = subject.sources
    parts = divide(train, test, given)
    settings = resolve(given, subject, len(parts.train))
    torch.manual_seed(settings.seed)
    backbone = build_backbone(subject.info) if settings.from_scratch else subject.backbone
    info = replace(subject.info, image_size=subject.image_size)
    default = RUNS / f"{COMMAND}-{short_name(subject.data)}-{time.strftime('%Y%m%d-%H%M%S')}"
    job = Job(settings, info, parts, RunDirectory(Path(given.out or default)))
    _check_devices(settings)
    if is_first_rank():
        RunDirectory.create(job.run.path)
        job.run.write_config(to_config(settings, info, _white_level(subject)))
        job.run.write_environment(seed=settings.seed, images=len(parts.train), classes=parts.train.classes)
    try:
        with job.run.locked():
            return _train(job, _classifier(job, backbone, is_new=True))
    except Interrupted:
        raise
    except Exception:
        if is_first_rank():
            job.run.discard_if_empty()
        raise


def resume_finetuning(run: RunDirectory) -> RunDirectory:
    """Continue a fine-tuning from its last checkpoint, or from its start if it was stopped before the first.

    Raises:
        InputError: if it is not a fine-tuning, or its images have changed.
        Interrupted, NotFiniteError: as `finetune_run`.
    """
    settings, config = settings_of(run), run.read_config()
    if run.is_finished:
        rank_zero_info(f"{run.path} is finished")
        return run
    if not run.checkpoint.is_file():
        raise InputError(f"{run.path} has no checkpoint: it was stopped before the first epoch; start it again")
    info = info_of(config)
    assert settings.data is not None
    reading = Reading(len(info.mean), config["white_level"])
    train, test = open_labelled(settings.data, settings.class_level or 0, settings.max_unreadable or 0, reading)
    parts = divide(train, test, settings)
    before = run.read_environment()
    if (len(parts.train), list(parts.train.classes)) != (before.get("images"), before.get("classes")):
        raise InputError(
            f"data {settings.data} has other images or classes than when {run.path} began: start a new run"
        )
    job = Job(settings, info, parts, run)
    with run.locked():
        return _train(job, _classifier(job, build_backbone(info), is_new=False))


def _classifier(job: Job, backbone: nn.Module, is_new: bool) -> Classifier:
    """Return the classifier at its start; of a resumed run, the weights are those of the checkpoint later."""
    classes = job.parts.train.classes
    head = nn.Linear(feature_width(backbone, job.info, job.info.image_size), len(classes))
    classifier = Classifier(backbone, head, classes, job.info)
    if is_new and job.settings.head == "probe" and is_first_rank():  # the other ranks get the weights from this one
        classifier.to(evaluation_device(job.settings.device))
        start_head(classifier, job.parts.train, job.settings.max_unreadable or 0)
    return classifier


def _train(job: Job, classifier: Classifier) -> RunDirectory:
    settings, parts, run = job.settings, job.parts, job.run
    labels = torch.as_tensor(parts.train.labels)
    data = TrainingImages(parts.train, settings, job.info.image_size, len(job.info.mean))
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
    callbacks: list[L.Callback] = [
        *([Bar(job.steps, clock, records.latest)] if sys.stderr.isatty() else []),
        *(records, clock, best, checkpoints, stop),
    ]
    with quiet_lightning():
        trainer = _make_trainer(settings, run, callbacks)
        _log_summary(job)
        resume = run.checkpoint if run.checkpoint.is_file() else None
        module = Finetuning(classifier, labels, settings, job.steps)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        except SIGTERMException as error:  # the signal came before the first step
            raise Interrupted(signal.SIGTERM, checkpoints.run, "no step was done", COMMAND) from error
        finally:
            stop.restore_handlers()
            forget_launch()
        checkpoints.save_last(trainer)
    if trainer.is_global_zero:
        save_scores(run, settings, parts, best.epoch)
        run.write_finished()
    return checkpoints.run


def _make_trainer(settings: Resolved, run: RunDirectory, callbacks: list[L.Callback]) -> L.Trainer:
    accelerator = _accelerator(settings)
    with one_line_if_missing(f"devices {settings.devices} are not available on {accelerator}"):
        return L.Trainer(
            accelerator=accelerator,
            devices=settings.devices,
            precision=settings.precision,  # type: ignore[arg-type]  # "auto" is resolved
            max_epochs=settings.epochs,
            sync_batchnorm=can_sync_batch_norm(accelerator),
            use_distributed_sampler=False,
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=False,  # Lightning's ModelCheckpoint is not used
            enable_progress_bar=any(isinstance(callback, Bar) for callback in callbacks),
            enable_model_summary=False,
            plugins=[WholeCheckpointIO()],
            default_root_dir=run.path,
        )


def _accelerator(settings: Resolved) -> str:
    """Return Lightning's name of the device."""
    device = torch.device(evaluation_device(settings.device)).type
    return {"cuda": "gpu"}.get(device, device)


def _check_devices(settings: Resolved) -> None:
    """Raise InputError unless the devices are there and a batch can be divided between them."""
    processes = count_processes(_accelerator(settings), settings.devices, 1)
    if settings.batch_size % processes:
        raise InputError(f"batch_size {settings.batch_size} must be a multiple of devices, here {processes}")


def _white_level(subject: Subject) -> int:
    """Return which value is white in the images of a run."""
    level: int = subject.run.read_config().get("white_level", RGB.white_level) if subject.run else RGB.white_level
    return level


def _log_summary(job: Job) -> None:
    settings, parts = job.settings, job.parts
    weights = "random weights" if settings.from_scratch else settings.weights
    held_out = len(parts.validation) if parts.validation else 0
    rates = f"{settings.learning_rate:g}, backbone {settings.learning_rate * settings.backbone_rate:g}"
    facts = {
        "images": f"{len(parts.train)} for training, {held_out} for validation, {len(parts.test)} for the test",
        "classes": str(len(parts.train.classes)),
        "backbone": f"{job.info.name} from {weights}, linear layer from {settings.head}",
        "steps": f"{job.steps} in {counted(settings.epochs, 'epoch')} of {settings.batch_size} images per step",
        "rates": f"{settings.optimizer}, {rates}",
        "run": str(job.run.path),
    }
    if is_first_rank():
        progress.info(lines(facts))
        if not held_out:
            logger.info("no images for validation: the classifier of the last epoch is kept")
