"""The main job: settings → data, method, Trainer → run directory."""

import logging
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from adco.callbacks import Checkpoints, Interrupted, Monitor, OnlineKNN, StopOnSignal, WarmStart
from adco.checkpoints import WholeCheckpointIO, read_checkpoint
from adco.console import Bar, TimeLeft, lines, outline, say
from adco.data.draws import permutation
from adco.data.loader import Loader, Order
from adco.data.sources import Source, labelled, open_source
from adco.data.views import View
from adco.distributed import is_first_rank
from adco.encoder import BackboneInfo, build_backbone, feature_width
from adco.methods.adco import AdCo
from adco.methods.byol import BYOL
from adco.methods.method import Method, Schedule
from adco.methods.moco import MoCo
from adco.methods.simclr import SimCLR
from adco.methods.simsiam import SimSiam
from adco.quiet import quiet_lightning
from adco.resolve import resolve
from adco.run_directory import RUNS, RunDirectory
from adco.settings import AdCoSettings, PretrainSettings, QueryKeySettings, known, to_dict
from adco.words import counted

METHODS: dict[str, Any] = {"adco": AdCo, "moco": MoCo, "simclr": SimCLR, "byol": BYOL, "simsiam": SimSiam}
SLOW_STEM = (
    "networks with the stem for small images at %d px are several times slower than with the usual stem at 96 px "
    "(ResNet-18 on two cores: 22 against 97 images/s): --stem standard --image_size 96 is faster"
)
SHORT_RUN = (
    "warning: the warm start fills %d adversaries in %d steps, and the run has %d: they are never trained; take fewer "
    "--adversaries or more --epochs"
)
logger = logging.getLogger("adco")
WARM_START = 1 << 32  # the epoch whose order and views fill the adversaries: one that no run reaches


def training_images(settings: PretrainSettings) -> Source:
    """The training images.

    Raises:
        ValueError: as `open_source`.
    """
    return open_source(settings.require_data(), "train", settings.max_unreadable, settings.class_level)


def open_images(settings: PretrainSettings) -> Source:
    """The training images.

    Raises:
        ValueError: as `open_source`.
    """
    say(f"reading {settings.require_data()} …")
    return training_images(settings)


def pretrain_run(settings: PretrainSettings, source: Source) -> RunDirectory:
    """Pretrain from the start.

    Args:
        settings: checked; what is unset is chosen here.
        source: the training images, `open_images(settings)`.

    Raises:
        ValueError: if a setting is impossible; nothing has been written then.
        Interrupted: if a signal stopped the run; it can be resumed.
        NotFiniteError: if the loss is NaN or infinite; the last good checkpoint is kept.
        CollapsedError: if the embeddings collapse and stay so; the last good checkpoint is kept.
    """
    settings = resolve(settings, source)
    data = settings.require_data()
    name = Path(data).resolve().name if Path(data).exists() else data
    backbone = build_backbone(backbone_info(settings))  # raises for a wrong name before anything is written
    for size in {view.size for view in make_views(settings)} | {backbone_info(settings).image_size}:
        feature_width(backbone, settings.backbone, size)  # raises if the network does not take the size
    if is_first_rank():
        announce(settings, source)
    path = Path(settings.out or RUNS / f"{settings.method}-{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    run = RunDirectory(path)
    if is_first_rank():
        run = RunDirectory.create(path)
        run.write_config(to_dict(settings))
        run.write_environment(seed=settings.seed, images=len(source))
        run.write_unreadable((str(file.path), file.reason) for file in source.unreadable)
    try:
        with run.locked():
            return _train(settings, source, run)
    except Interrupted:
        raise
    except Exception:
        if is_first_rank():
            run.discard_if_empty()
        raise


def announce(settings: PretrainSettings, source: Source) -> None:
    """Say what the images are, and warn of a stem that is slow for them and of a run too short for its warm start."""
    logger.info(source.description)
    size = known(settings.image_size)
    if settings.stem == "cifar" and 48 <= size <= 64:
        logger.info(SLOW_STEM, size)
    steps = settings.epochs * (len(source) // known(settings.batch_size))
    if isinstance(settings, AdCoSettings) and settings.warm_start and settings.warm_start_trains:
        filled = -(-known(settings.adversaries) // (known(settings.batch_size) * (1 + settings.symmetric)))
        if filled >= steps:
            logger.warning(SHORT_RUN, settings.adversaries, filled, steps)


def resume_run(run: RunDirectory, settings: PretrainSettings, epochs: int) -> RunDirectory:
    """Go on with a run from its last checkpoint, or from its start if it was stopped before the first.

    Args:
        run: as it was left.
        settings: as in its config.yaml.
        epochs: in all; other than in the settings to make the run longer or shorter.

    Raises:
        ValueError: if the images cannot be read, or are not as many as they were; if more epochs are done already; if
            the checkpoint cannot be read or does not fit the settings; if another process trains in the directory.
        Interrupted, NotFiniteError, CollapsedError: as `pretrain_run`.
    """
    if run.is_finished and epochs == settings.epochs:
        say(
            f"{run.path} is finished, with {counted(epochs, 'epoch')}; train it for longer with: "
            f"adco pretrain --resume {quote(str(run.path))} --epochs {2 * epochs}"
        )
        return run
    source = open_images(settings)
    before = run.read_environment().get("images", len(source))
    if len(source) != before:
        raise ValueError(f"{source.name} has {len(source)} images, the run had {before}: start a new one")
    with run.locked():
        if epochs != settings.epochs:
            settings = _change_length(run, settings, epochs, len(source) // known(settings.batch_size))
        return _train(settings, source, run)


def _change_length(run: RunDirectory, settings: PretrainSettings, epochs: int, steps: int) -> PretrainSettings:
    """The settings of a run with another number of epochs, of so many steps each; also in its config.yaml."""
    done = read_checkpoint(run.checkpoint)["global_step"] if run.checkpoint.is_file() else 0
    least = max(1, -(-done // steps))
    if epochs < least:
        raise ValueError(f"epochs {epochs} must be at least {least}: the run has done {done} steps, {steps} an epoch")
    changed = replace(settings, epochs=epochs)
    changed.check()
    if is_first_rank():
        run.write_unfinished()
        run.write_config(to_dict(changed))
    say(
        f"{counted(epochs, 'epoch')} instead of {settings.epochs}: from step {done} on, the learning rate follows "
        f"the schedule of a run of {counted(epochs * steps, 'step')}"
    )
    return changed


def _check_fits(run: RunDirectory, method: Method) -> None:
    """Raise a ValueError unless the weights in the last checkpoint are those of the method, by name and shape."""
    if not run.checkpoint.is_file():
        return
    weights = read_checkpoint(run.checkpoint)["state_dict"]
    wanted = {name: tuple(weight.shape) for name, weight in method.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            shapes = f"{name} is {list(found.get(name, ()))} there and {list(wanted.get(name, ()))} here"
            raise ValueError(f"checkpoint {run.checkpoint} does not fit {run.config}, was that edited? {shapes}")


def make_views(settings: PretrainSettings) -> list[View]:
    """The views of an image: two at full size, then the small crops."""
    small_crops = settings.small_crops if isinstance(settings, AdCoSettings) else []
    crops = [(known(settings.image_size), *settings.crop_scale)] * 2 + list(small_crops)
    return [
        View(
            size=size,
            scale=(smallest, largest),
            brightness=settings.brightness,
            contrast=settings.contrast,
            saturation=settings.saturation,
            hue=settings.hue,
            jitter_probability=settings.jitter_probability,
            grayscale_probability=settings.grayscale_probability,
            blur_probability=settings.blur_probability,
            flip_probability=settings.flip_probability,
        )
        for size, smallest, largest in crops
    ]


def backbone_info(settings: PretrainSettings) -> BackboneInfo:
    """What `backbone.safetensors` says of itself."""
    return BackboneInfo(
        settings.backbone,
        known(settings.test_image_size),
        tuple(settings.mean),
        tuple(settings.std),
        dict(settings.backbone_args),
        settings.stem,
    )


def make_method(settings: PretrainSettings, steps_per_epoch: int) -> Method:
    """Build a method from resolved settings."""
    arguments: dict[str, Any] = {}
    if isinstance(settings, QueryKeySettings):
        arguments = {
            "symmetric": settings.symmetric,
            "ema_decay": known(settings.ema_decay),
            "groups": known(settings.split_groups),
            "shuffle": settings.batch_norm == "shuffle",
        }
    backbone = build_backbone(backbone_info(settings))
    assert settings.image_size is not None
    method: Method = METHODS[settings.method].build(
        settings,
        backbone,
        feature_width(backbone, settings.backbone, settings.image_size),
        schedule=Schedule(
            peak=known(settings.learning_rate),
            final=known(settings.final_learning_rate),
            warmup_steps=round(known(settings.warmup_epochs) * steps_per_epoch),
            steps=settings.epochs * steps_per_epoch,
        ),
        weight_decay=known(settings.weight_decay),
        optimizer=known(settings.optimizer),
        accumulate=settings.accumulate,
        seed=settings.seed,
        mean=settings.mean,
        std=settings.std,
        channels_last=bool(settings.channels_last),
        **arguments,
    )
    return method


class PretrainData(L.LightningDataModule):
    """Training batches of a source, from wherever the run stands; and the batches of the warm start."""

    def __init__(self, settings: PretrainSettings, source: Source) -> None:
        super().__init__()
        self.settings, self.source = settings, source

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
            batch_size=known(self.settings.batch_size) // self.settings.accumulate,
            accumulate=self.settings.accumulate,
            seed=self.settings.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            position=position,
        )
        return Loader(
            self.source,
            make_views(self.settings),
            order,
            workers=known(self.settings.workers),
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def _syncs(settings: PretrainSettings) -> bool:
    """Whether BatchNorm is over all devices, which torch has for GPUs alone; on one device it makes no difference."""
    if isinstance(settings, QueryKeySettings):
        return settings.batch_norm == "sync"
    return settings.accelerator != "cpu" and torch.cuda.is_available()


def _train(settings: PretrainSettings, source: Source, run: RunDirectory) -> RunDirectory:
    torch.manual_seed(settings.seed)  # initial weights; all else is drawn by key
    method = make_method(settings, len(source) // known(settings.batch_size))
    if settings.precision == "64-true":
        method.double()  # Lightning would do it only after reading a checkpoint, whose weights would be rounded
    _check_fits(run, method)
    data = PretrainData(settings, source)
    clock = TimeLeft(method.schedule.steps)
    knn = online_knn(settings, source)
    mine, steps = run if is_first_rank() else None, method.schedule.steps
    monitor = Monitor(mine, settings=to_dict(settings), steps=steps, knn=knn, clock=clock)
    every = known(settings.checkpoint_every)
    checkpoints = Checkpoints(run, backbone_info(settings), every=every, may_save=monitor.may_save)
    on_terminal = sys.stderr.isatty()
    fills = isinstance(settings, AdCoSettings) and settings.warm_start and not settings.warm_start_trains
    callbacks: list[L.Callback] = [
        *([Bar(method.schedule.steps, clock, monitor.latest)] if on_terminal else []),
        monitor,  # before the warm start: its first record is of random weights
        *([WarmStart(data.warm_start_dataloader)] if fills else []),
        clock,
        StopOnSignal(checkpoints, agree_every=known(settings.log_every)),
        checkpoints,
    ]
    with quiet_lightning():
        trainer = L.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            precision=settings.precision if settings.precision != "auto" else None,
            max_epochs=settings.epochs,
            accumulate_grad_batches=settings.accumulate,
            sync_batchnorm=_syncs(settings),
            use_distributed_sampler=False,
            logger=TensorBoardLogger(run.path, name="", version="tensorboard") if settings.tensorboard else False,
            callbacks=callbacks,
            enable_checkpointing=False,  # ours are not Lightning's ModelCheckpoint
            enable_progress_bar=on_terminal,
            enable_model_summary=False,
            plugins=[WholeCheckpointIO()],
            default_root_dir=run.path,
        )
        if is_first_rank():
            facts = outline(settings, source, method, trainer.strategy.root_device, trainer.world_size)
            print(lines({**facts, "run": str(run.path)}), file=sys.stderr, flush=True)
        resume = run.checkpoint if run.checkpoint.is_file() else None
        try:
            trainer.fit(method, datamodule=data, ckpt_path=resume, weights_only=True)
        except SIGTERMException as stop:  # it came before the first step
            raise Interrupted(signal.SIGTERM, checkpoints.run, "no step was done") from stop
        not_saved = checkpoints.save_last(trainer)
    if not_saved:
        say(not_saved)
    if trainer.is_global_zero:
        run.write_finished()
        print(f"{run.path}: {': '.join(monitor.verdict())}", file=sys.stderr)
    return checkpoints.run


def online_knn(settings: PretrainSettings, source: Source) -> OnlineKNN | None:
    """The kNN at each epoch's end, on some of the images; None if they have no labels, or of one class only."""
    if source.labels is None or not settings.knn_images:
        return None
    with_class = labelled(source)
    some = permutation(settings.seed, WARM_START, length=len(with_class))[: settings.knn_images]
    online = OnlineKNN(with_class.subset(some), backbone_info(settings))
    return online if online.has_classes else None
