"""The main job: settings → data, method, Trainer → run directory."""

import os
import shutil
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from adco.adversaries import Adversaries
from adco.callbacks import Bar, Monitor, StopOnSignal
from adco.curves import plot_curves
from adco.data.draws import permutation
from adco.data.loader import Loader, Order
from adco.data.sources import Source, open_source
from adco.data.views import View
from adco.encoder import BackboneInfo, Encoder, build_backbone, save_backbone
from adco.evaluation import evaluate_features, extract_features
from adco.methods.adco import AdCo
from adco.methods.method import Method, Schedule
from adco.run_directory import RUNS, RunDirectory
from adco.settings import AdCoSettings, PretrainSettings, to_dict

WARM_START = 1 << 32  # the epoch whose order and views fill the adversaries: one that no run reaches


def pretrain_run(settings: AdCoSettings) -> RunDirectory:
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
    path = Path(settings.out or RUNS / f"{settings.method}-{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    run = RunDirectory(path)
    if rank_zero_only.rank == 0:
        run = RunDirectory.create(path)
        run.write_config(to_dict(settings))
        run.write_environment(seed=settings.seed, images=len(source))
        run.write_unreadable((str(file.path), file.reason) for file in source.unreadable)
    return _train(settings, source, run)


def resume_run(path: Path, settings: AdCoSettings) -> RunDirectory:
    """Go on with a run from its last checkpoint, or from its start where it was stopped before the first.

    Raises:
        ValueError: if the images have changed.
        Interrupted, NotFiniteError: as `pretrain_run`.
    """
    run = RunDirectory.open(path)
    source = open_source(settings.data, "train", settings.max_unreadable)
    return _train(settings, source, run)


def resolve(settings: AdCoSettings, source: Source) -> AdCoSettings:
    """Put a value in the place of every None and auto.

    Raises:
        ValueError: if the images are too few or too small for the settings.
    """
    if len(source) < settings.batch_size:
        raise ValueError(
            f"batch_size {settings.batch_size} is more than the {len(source)} images of {source.name}: "
            f"try --batch_size {1 << (len(source).bit_length() - 1)}"
        )
    if settings.image_size and settings.image_size > source.shorter_side:
        raise ValueError(
            f"image_size {settings.image_size} is larger than the images of {source.name}, whose shorter side is "
            f"{source.shorter_side} px in the median: try --image_size {source.shorter_side}"
        )
    image_size = settings.image_size or min(224, source.shorter_side)
    if source.smallest_side < image_size:
        warnings.warn(
            f"some images of {source.name} are smaller than image_size {image_size} (the smallest: "
            f"{source.smallest_side} px) and are enlarged",
            stacklevel=2,
        )
    for size, *_ in settings.small_crops:
        if size > image_size:
            raise ValueError(f"small_crops has a size of {size}, larger than image_size {image_size}")
    accelerator, precision = settings.accelerator, settings.precision
    device = torch.device("cuda" if torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda") else "cpu")
    in_memory = isinstance(getattr(source, "images", None), np.ndarray)
    processes = _processes(settings)
    batch_norm = settings.batch_norm
    if batch_norm == "auto":
        batch_norm = "shuffle" if processes > 1 else "split"
    if batch_norm == "shuffle" and processes == 1:
        raise ValueError("batch_norm shuffle needs more than one device: take split, or leave it auto")
    share = settings.batch_size // (processes * settings.accumulate)
    if share * processes * settings.accumulate != settings.batch_size:
        raise ValueError(
            f"batch_size {settings.batch_size} must be a multiple of devices x nodes x accumulate = "
            f"{processes * settings.accumulate}"
        )
    groups = min(settings.split_groups, max(1, share // 2)) if batch_norm == "split" else 1
    return replace(
        settings,
        image_size=image_size,
        adversaries=settings.adversaries or min(8192, 1 << (len(source).bit_length() - 1)),
        final_learning_rate=settings.learning_rate / 50
        if settings.final_learning_rate is None
        else settings.final_learning_rate,
        workers=_workers(in_memory) if settings.workers is None else settings.workers,
        precision=_best_precision(device) if precision == "auto" else precision,
        channels_last=settings.channels_last if settings.channels_last is not None else True,
        batch_norm=batch_norm,
        split_groups=groups,
        checkpoint_every=settings.checkpoint_every or max(1, len(source) // settings.batch_size),
    )


def _workers(in_memory: bool) -> int:
    """Views of images in memory take less time than handing them from process to process."""
    return 0 if in_memory else min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def _processes(settings: PretrainSettings) -> int:
    """How many processes will train, as Lightning counts them."""
    if "WORLD_SIZE" in os.environ:  # torchrun
        return int(os.environ["WORLD_SIZE"])
    connector = L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return int(connector.world_size)


def _best_precision(device: torch.device) -> Any:
    """bf16 where the hardware multiplies it; a CPU without such instructions is slower by half in it."""
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() or getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    return "bf16-mixed" if bf16 else "32-true"


def make_views(settings: AdCoSettings) -> list[View]:
    """The views of an image: two at full size, then the small crops."""
    assert settings.image_size is not None
    crops = [(settings.image_size, *settings.crop_scale)] * 2 + list(settings.small_crops)
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
    assert settings.image_size is not None
    return BackboneInfo(
        settings.backbone, settings.image_size, tuple(settings.mean), tuple(settings.std), dict(settings.backbone_args)
    )


def make_method(settings: AdCoSettings, steps_per_epoch: int) -> AdCo:
    """Build AdCo from resolved settings."""
    assert settings.adversaries is not None and settings.final_learning_rate is not None
    encoder = Encoder(build_backbone(backbone_info(settings)), hidden=settings.hidden, dim=settings.dim)
    if settings.channels_last:
        encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return AdCo(
        encoder,
        Adversaries(settings.adversaries, settings.dim),
        views=2 + len(settings.small_crops),
        symmetric=settings.symmetric,
        temperature=settings.temperature,
        adversary_temperature=settings.adversary_temperature,
        in_batch_negatives=settings.in_batch_negatives,
        momentum=settings.momentum,
        groups=settings.split_groups,
        shuffle=settings.batch_norm == "shuffle",
        schedule=Schedule(
            peak=settings.learning_rate,
            final=settings.final_learning_rate,
            warmup_steps=round(settings.warmup_epochs * steps_per_epoch),
            steps=settings.epochs * steps_per_epoch,
        ),
        weight_decay=settings.weight_decay,
        adversary_learning_rate=settings.adversary_learning_rate,
        adversary_weight_decay=settings.adversary_weight_decay,
        accumulate=settings.accumulate,
        seed=settings.seed,
        mean=settings.mean,
        std=settings.std,
        channels_last=bool(settings.channels_last),
    )


class PretrainData(L.LightningDataModule):
    """Training batches of a source, from wherever the run stands; and the batches of the warm start."""

    def __init__(self, settings: AdCoSettings, source: Source) -> None:
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
        assert self.trainer is not None and self.settings.workers is not None
        order = Order(
            len(self.source),
            batch_size=self.settings.batch_size // self.settings.accumulate,
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


class WarmStart(Callback):
    """Fills the adversaries with keys of training images before the first step of a fresh run."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > 0:
            return
        assert isinstance(pl_module, AdCo)
        loader = trainer.datamodule.warm_start_dataloader()  # type: ignore[attr-defined]

        def batches() -> Any:
            while True:  # an epoch at a time, each with fresh views
                for batch in loader:
                    yield pl_module.transfer_batch_to_device(batch, pl_module.device, 0)

        with trainer.precision_plugin.forward_context():
            pl_module.warm_start(batches())


class OnlineKNN:
    """Top-1 of the backbone by its nearest neighbours, on training images alone: a fifth of some ask, the rest answer."""

    def __init__(self, source: Source, settings: AdCoSettings) -> None:
        chosen = permutation(settings.seed, WARM_START, length=len(source))[: settings.knn_images]
        cut = max(1, len(chosen) // 5)
        self.queries, self.bank = source.subset(chosen[:cut]), source.subset(chosen[cut:])
        self.info = backbone_info(settings)

    def __call__(self, method: Method) -> float:
        backbone = method.encoder.backbone
        bank, queries = (
            extract_features(
                backbone,
                part,
                image_size=self.info.image_size,
                mean=self.info.mean,
                std=self.info.std,
                progress=False,
            )
            for part in (self.bank, self.queries)
        )
        return evaluate_features(bank, queries, self.bank.classes, kind="knn").top1


def _train(settings: AdCoSettings, source: Source, run: RunDirectory) -> RunDirectory:
    torch.manual_seed(settings.seed)  # initial weights; all else is drawn by key
    steps_per_epoch = len(source) // settings.batch_size
    method = make_method(settings, steps_per_epoch)
    knn = OnlineKNN(source, settings) if source.labels is not None and settings.knn_images else None
    monitor = Monitor(run if rank_zero_only.rank == 0 else None, log_every=settings.log_every, knn=knn)
    checkpoints = ModelCheckpoint(
        run.checkpoint.parent,
        filename=run.checkpoint.stem,
        every_n_train_steps=settings.checkpoint_every,
        enable_version_counter=False,
    )
    on_terminal = sys.stderr.isatty()
    callbacks = [
        *([WarmStart()] if settings.warm_start else []),
        monitor,
        StopOnSignal(run, agree_every=settings.log_every),
        *([Bar(monitor)] if on_terminal else []),
        checkpoints,
    ]
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision=settings.precision,  # type: ignore[arg-type]
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulate,
        sync_batchnorm=settings.batch_norm == "sync",
        use_distributed_sampler=False,
        logger=TensorBoardLogger(run.path, name="", version="tensorboard") if settings.tensorboard else False,
        callbacks=callbacks,
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        default_root_dir=run.path,
    )
    resume = run.checkpoint if run.checkpoint.is_file() else None
    trainer.fit(method, datamodule=PretrainData(settings, source), ckpt_path=resume, weights_only=True)
    if trainer.is_global_zero:
        trainer.save_checkpoint(run.checkpoint)
        save_backbone(run.backbone, method.encoder.backbone, backbone_info(settings))  # type: ignore[arg-type]
        plot_curves(run.records(), run.curves)
        print(f"{run.path}: {monitor.verdict().word}", file=sys.stderr)
    return run
