"""The main job: settings → data, method, Trainer → run directory."""

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from adco.callbacks import Bar, Monitor, OnlineKNN, StopOnSignal, WarmStart
from adco.checkpoints import WholeCheckpointIO
from adco.curves import plot_curves
from adco.data.draws import permutation
from adco.data.loader import Loader, Order
from adco.data.sources import Source, open_source
from adco.data.views import View
from adco.distributed import is_first_rank
from adco.encoder import BackboneInfo, build_backbone, save_backbone
from adco.methods.adco import AdCo
from adco.methods.byol import BYOL
from adco.methods.method import Method, Schedule
from adco.methods.moco import MoCo
from adco.methods.simclr import SimCLR
from adco.methods.simsiam import SimSiam
from adco.resolve import resolve
from adco.run_directory import RUNS, RunDirectory
from adco.settings import AdCoSettings, PretrainSettings, QueryKeySettings, to_dict

METHODS: dict[str, Any] = {"adco": AdCo, "moco": MoCo, "simclr": SimCLR, "byol": BYOL, "simsiam": SimSiam}
WARM_START = 1 << 32  # the epoch whose order and views fill the adversaries: one that no run reaches


def pretrain_run(settings: PretrainSettings) -> RunDirectory:
    """Pretrain from the start.

    Raises:
        ValueError: if a setting is impossible; nothing has been written then.
        Interrupted: if a signal stopped the run; it can be resumed.
        NotFiniteError: if the loss is NaN or infinite; the last good checkpoint is kept.
    """
    settings.check()
    source = open_source(settings.data, "train", settings.max_unreadable)
    settings = resolve(settings, source)
    name = settings.data if not Path(settings.data).exists() else Path(settings.data).resolve().name
    build_backbone(backbone_info(settings))  # raises for a wrong name or argument before anything is written
    path = Path(settings.out or RUNS / f"{settings.method}-{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    run = RunDirectory(path)
    if is_first_rank():
        run = RunDirectory.create(path)
        run.write_config(to_dict(settings))
        run.write_environment(seed=settings.seed, images=len(source))
        run.write_unreadable((str(file.path), file.reason) for file in source.unreadable)
    return _train(settings, source, run)


def resume_run(run: RunDirectory, settings: PretrainSettings) -> RunDirectory:
    """Go on with a run from its last checkpoint, or from its start where it was stopped before the first.

    Raises:
        ValueError: if the images cannot be read, or are not as many as they were.
        Interrupted, NotFiniteError: as `pretrain_run`.
    """
    source = open_source(settings.data, "train", settings.max_unreadable)
    before = run.read_environment().get("images", len(source))
    if len(source) != before:
        raise ValueError(f"{source.name} has {len(source)} images, the run had {before}: start a new one")
    return _train(settings, source, run)


def make_views(settings: PretrainSettings) -> list[View]:
    """The views of an image: two at full size, then the small crops."""
    assert settings.image_size is not None
    small_crops = settings.small_crops if isinstance(settings, AdCoSettings) else []
    crops = [(settings.image_size, *settings.crop_scale)] * 2 + list(small_crops)
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
    assert settings.test_size is not None
    return BackboneInfo(
        settings.backbone, settings.test_size, tuple(settings.mean), tuple(settings.std), dict(settings.backbone_args)
    )


def make_method(settings: PretrainSettings, steps_per_epoch: int) -> Method:
    """Build a method from resolved settings."""
    assert settings.learning_rate is not None
    assert settings.final_learning_rate is not None
    assert settings.warmup_epochs is not None
    arguments: dict[str, Any] = {}
    if isinstance(settings, QueryKeySettings):
        arguments = {
            "symmetric": settings.symmetric,
            "momentum": settings.momentum,
            "groups": settings.split_groups,
            "shuffle": settings.batch_norm == "shuffle",
        }
    backbone = build_backbone(backbone_info(settings))
    method: Method = METHODS[settings.method].build(
        settings,
        backbone,
        backbone.num_features,
        schedule=Schedule(
            peak=settings.learning_rate,
            final=settings.final_learning_rate,
            warmup_steps=round(settings.warmup_epochs * steps_per_epoch),
            steps=settings.epochs * steps_per_epoch,
        ),
        weight_decay=settings.weight_decay,
        optimizer=settings.optimizer,
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
        assert self.settings.workers is not None
        order = Order(
            len(self.source),
            batch_size=self.settings.batch_size // self.settings.accumulate,
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
            workers=self.settings.workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def _syncs(settings: PretrainSettings) -> bool:
    """Whether BatchNorm is over all devices, which torch has for GPUs alone; on one device it makes no difference."""
    if isinstance(settings, QueryKeySettings):
        return settings.batch_norm == "sync"
    return settings.accelerator != "cpu" and torch.cuda.is_available()


def _train(settings: PretrainSettings, source: Source, run: RunDirectory) -> RunDirectory:
    torch.manual_seed(settings.seed)  # initial weights; all else is drawn by key
    steps_per_epoch = len(source) // settings.batch_size
    method = make_method(settings, steps_per_epoch)
    if settings.precision == "64-true":
        method.double()  # Lightning would do it only after reading a checkpoint, whose weights would be rounded
    knn = None
    if source.labels is not None and settings.knn_images:
        some = permutation(settings.seed, WARM_START, length=len(source))[: settings.knn_images]
        online = OnlineKNN(source.subset(some), backbone_info(settings))
        knn = online if online.has_classes else None
    monitor = Monitor(run if is_first_rank() else None, log_every=settings.log_every, knn=knn)
    data = PretrainData(settings, source)
    checkpoints = ModelCheckpoint(
        run.checkpoint.parent,
        filename=run.checkpoint.stem,
        every_n_train_steps=settings.checkpoint_every,
        enable_version_counter=False,
    )
    on_terminal = sys.stderr.isatty()
    callbacks = [
        *(
            [WarmStart(data.warm_start_dataloader)]
            if isinstance(settings, AdCoSettings) and settings.warm_start
            else []
        ),
        monitor,
        StopOnSignal(run, agree_every=settings.log_every),
        *([Bar(monitor)] if on_terminal else []),
        checkpoints,
    ]
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
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        default_root_dir=run.path,
    )
    resume = run.checkpoint if run.checkpoint.is_file() else None
    trainer.fit(method, datamodule=data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(run.checkpoint)  # on all ranks: they wait for each other there
    if trainer.is_global_zero:
        save_backbone(run.backbone, method.encoder.backbone, backbone_info(settings))
        plot_curves(run.records(), run.curves)
        run.write_finished()
        print(f"{run.path}: {monitor.verdict().word}", file=sys.stderr)
    return run
