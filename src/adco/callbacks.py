"""What happens around a training step: records, the verdict, stopping with nothing lost."""

import itertools
import math
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from adco.data.loader import Batch, Loader
from adco.data.sources import Source
from adco.encoder import BackboneInfo
from adco.evaluation import evaluate_features, extract_features
from adco.methods.adco import AdCo
from adco.methods.method import Method
from adco.monitor import Verdict, embedding_health, verdict
from adco.run_directory import RunDirectory

Record = dict[str, Any]


class NotFiniteError(RuntimeError):
    """The loss is NaN or infinite."""


class Interrupted(Exception):
    """The run was asked to stop, and its state is saved."""

    def __init__(self, signal_number: int, run: RunDirectory) -> None:
        super().__init__(f"stopped and saved; go on with: adco pretrain --resume {run.path}")
        self.exit_code = 128 + signal_number  # as a shell reports it


def require_finite(step: int, losses: dict[str, float], module: L.LightningModule) -> None:
    """Raise NotFiniteError unless the losses are finite, and the weights, which this step may have been the end of."""
    weights_finite = torch.stack([weights.isfinite().all() for weights in module.parameters()]).all()
    if all(map(math.isfinite, losses.values())) and weights_finite:
        return
    raise NotFiniteError(
        f"the loss is {losses}, or a weight is not finite, at step {step}: try a lower learning_rate or precision "
        "32-true; the last good checkpoint, if there was one, is kept"
    )


def losses_of(outputs: Any) -> dict[str, float]:
    """A training step's losses as numbers."""
    return {name: float(loss.detach()) for name, loss in outputs["losses"].items()}


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer has stepped with this batch, the last of those whose gradients are added up."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Monitor(Callback):
    """Writes metrics.jsonl, says at each epoch's end whether the run is learning, and stops it where it cannot be.

    Args:
        run: where to write, on the first rank; None elsewhere.
        log_every: steps between records.
        knn: top-1 in % of the backbone by its nearest neighbours, or None where there are no labels.
    """

    def __init__(self, run: RunDirectory | None, *, log_every: int, knn: Callable[[Method], float] | None) -> None:
        self.run, self.log_every, self.knn = run, log_every, knn
        self.history: list[Record] = []
        self.latest: Record = {}
        self.images, self.waited, self.since = 0, 0.0, time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.run:
            self.run.forget_after(trainer.global_step)
            self.history = list(self.run.records())
        self._count_anew(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images += len(batch.images) * trainer.world_size
        step = trainer.global_step
        if not ends_step(trainer, batch_idx) or (step % self.log_every and not self._saves(trainer)):
            return
        losses = losses_of(outputs)
        try:
            require_finite(step, losses, pl_module)
        except NotFiniteError:
            words = {name: str(loss) for name, loss in losses.items()}
            self._write(trainer, {"step": step, "epoch": trainer.current_epoch, **words})
            raise
        seconds = time.perf_counter() - self.since
        speed = {"images_per_second": self.images / seconds, "waiting_for_data": self._waited(trainer) / seconds}
        self._count_anew(trainer)
        assert isinstance(pl_module, Method)
        self._write(
            trainer,
            {
                "step": step,
                "epoch": trainer.current_epoch,
                **losses,
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                **speed,
                **embedding_health(outputs["queries"], outputs["keys"]),
                **pl_module.health(outputs["queries"], outputs["keys"]),
            },
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        if self.run is None:
            return
        record: Record = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        if self.knn:
            record["knn_top1"] = self.knn(pl_module)
        self._write(trainer, {**record, **verdict([*self.history, record])._asdict()})
        self._say(trainer, record)
        self._count_anew(trainer)

    def verdict(self) -> Verdict:
        """What the records so far say."""
        return verdict(self.history)

    def _waited(self, trainer: L.Trainer) -> float:
        """Seconds since the last count that the step has waited for views."""
        return getattr(trainer.train_dataloader, "waited", 0.0) - self.waited

    def _count_anew(self, trainer: L.Trainer) -> None:
        self.images, self.waited, self.since = 0, self.waited + self._waited(trainer), time.perf_counter()

    def _saves(self, trainer: L.Trainer) -> bool:
        """Whether a checkpoint follows, which must not hold NaN."""
        every = getattr(trainer.checkpoint_callback, "_every_n_train_steps", 0)
        return trainer.is_last_batch or (bool(every) and trainer.global_step % every == 0)

    def _write(self, trainer: L.Trainer, record: Record) -> None:
        if self.run is None:
            return
        self.history.append(record)
        self.latest |= record
        self.run.append(record)
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=record["step"])

    def _say(self, trainer: L.Trainer, record: Record) -> None:
        knn = f"  kNN {record['knn_top1']:.1f} %" if "knn_top1" in record else ""
        word, reason = self.history[-1]["word"], self.history[-1]["reason"]
        rate, waits = (self.latest.get(name, 0.0) for name in ("images_per_second", "waiting_for_data"))
        loss = self.latest.get("loss", math.nan)
        speed = f"{rate:.0f} images/s, {waits:.0%} of the time waiting for views"
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {loss:.3f}{knn}  {speed}"
        trainer.print(f"{line}  {word}: {reason}", file=sys.stderr)


class StopOnSignal(Callback):
    """SIGINT and SIGTERM save a checkpoint after the step under way and end the run; a second one ends it at once."""

    def __init__(self, run: RunDirectory, *, agree_every: int) -> None:
        self.run, self.agree_every = run, agree_every
        self.received = 0
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):  # gradients of half a step are in no checkpoint
            return
        # Ranks hear of it at different steps and must stop at the same one.
        if trainer.world_size > 1 and trainer.global_step % self.agree_every:
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            require_finite(trainer.global_step, losses_of(outputs), pl_module)
            trainer.save_checkpoint(self.run.checkpoint)
            raise Interrupted(self.received or signal.SIGTERM, self.run)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class WarmStart(Callback):
    """Fills the adversaries with keys of training images before the first step of a fresh run."""

    def __init__(self, make_loader: Callable[[], Loader]) -> None:
        self.make_loader = make_loader

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > 0:
            return
        assert isinstance(pl_module, AdCo)
        loader = self.make_loader()
        epochs = itertools.chain.from_iterable(itertools.repeat(loader))  # each epoch with fresh views
        batches = (pl_module.transfer_batch_to_device(batch, pl_module.device, 0) for batch in epochs)
        with trainer.precision_plugin.forward_context():
            pl_module.warm_start(batches)


class OnlineKNN:
    """Top-1 of the backbone by its nearest neighbours, on training images alone: a fifth ask, the rest answer."""

    def __init__(self, source: Source, info: BackboneInfo) -> None:
        cut = max(1, len(source) // 5)
        self.queries, self.bank = (source.subset(part) for part in np.split(np.arange(len(source)), [cut]))
        self.info = info

    @property
    def has_classes(self) -> bool:
        """Whether those who answer are of two classes at least: very few images may be of one."""
        return self.bank.labels is not None and len(np.unique(self.bank.labels)) > 1

    def __call__(self, method: Method) -> float:
        bank, queries = (
            extract_features(
                method.encoder.backbone,
                part,
                image_size=self.info.image_size,
                mean=self.info.mean,
                std=self.info.std,
                progress=False,
            )
            for part in (self.bank, self.queries)
        )
        return evaluate_features(bank, queries, self.bank.classes, kind="knn").top1


class Bar(TQDMProgressBar):
    """Lightning's progress bar, with what the monitor saw last."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        names = {"loss": "loss", "spread": "spread", "images_per_second": "images/s", "knn_top1": "kNN"}
        return {new: f"{self.monitor.latest[old]:.4g}" for old, new in names.items() if old in self.monitor.latest}
