"""What happens around a training step: records, the verdict, stopping with nothing lost."""

import itertools
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from adco.advice import ADVICE, advice
from adco.awake import adversary_note
from adco.console import TimeLeft
from adco.curves import plot_curves
from adco.data.loader import Batch, Loader
from adco.data.sources import Source
from adco.encoder import BackboneInfo, save_backbone
from adco.evaluation import evaluate_features, extract_features
from adco.health import embedding_health
from adco.methods.adco import AdCo
from adco.methods.method import Method, ends_step
from adco.run_directory import RunDirectory
from adco.verdict import Verdict, looks_collapsed, verdict

Record = dict[str, Any]
WAITS = 0.1  # part of the time spent waiting for views from which the epoch's line says so


class NotFiniteError(RuntimeError):
    """The loss is NaN or infinite."""


class CollapsedError(RuntimeError):
    """The embeddings have become nearly one point, and stay so."""


class Interrupted(Exception):
    """The run was asked to stop and can be resumed. `not_saved` is the reason if its state was not saved."""

    def __init__(self, signal_number: int, run: RunDirectory, not_saved: str | None = None) -> None:
        self.done = f"stopped; {not_saved}" if not_saved else "stopped and saved"
        super().__init__(f"{self.done}; go on with: adco pretrain --resume {quote(str(run.path))}")
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


class Monitor(Callback):
    """Writes metrics.jsonl, says at each epoch's end whether the run is learning, and stops it where it cannot be.

    Args:
        run: where to write, on the first rank; None elsewhere.
        settings: the run's, as in config.yaml.
        steps: of the whole run.
        knn: top-1 in % of the backbone by its nearest neighbours, or None where there are no labels.
        clock: knows the time left, for the line of an epoch.
    """

    def __init__(
        self,
        run: RunDirectory | None,
        *,
        settings: Mapping[str, Any],
        steps: int,
        knn: "OnlineKNN | None",
        clock: TimeLeft | None = None,
    ) -> None:
        self.run, self.settings, self.steps, self.knn, self.clock = run, settings, steps, knn, clock
        self.log_every: int = settings["log_every"]
        self.history: list[Record] = []
        self.latest: Record = {}
        self.said: set[str] = {"too early to say"}
        self.images, self.waited, self.since = 0, 0.0, time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.run is None:
            return
        self.run.forget_after(trainer.global_step)
        self.history = list(self.run.records())
        if self.knn and trainer.global_step == 0 and not self.history:
            assert isinstance(pl_module, Method)
            floor = {"knn_top1_random": self.knn(pl_module), "knn_queries": len(self.knn.queries)}
            self._write(trainer, {"step": 0, "epoch": 0, **floor})

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count_anew(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images += len(batch.indices) * trainer.world_size
        step = trainer.global_step
        # The embeddings of step 1 are those of the untrained network: what later ones are compared with.
        recorded = step == 1 or step % self.log_every == 0 or trainer.is_last_batch
        if not ends_step(trainer, batch_idx) or not recorded:
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
        if step % self._look_every == 0 or trainer.is_last_batch:
            self._stop_if_collapsed(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        if self.run is None:
            return
        record: Record = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        if self.knn:
            record["knn_top1"] = self.knn(pl_module)
        found = verdict([*self.history, record], self.steps)
        self._write(trainer, {**record, **found._asdict()})
        self._say(trainer, f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}{self._numbers(record)}", found)

    def verdict(self) -> Verdict:
        """What the records so far say."""
        return verdict(self.history, self.steps)

    def may_save(self, trainer: L.Trainer) -> bool:
        """Whether a checkpoint may replace the last one: not while the latest record looks collapsed."""
        collapsed = self.settings["stop_when_collapsed"] and looks_collapsed(self.history, self.steps)
        # Ranks save together, and only the first one has records.
        return trainer.strategy.reduce_boolean_decision(not collapsed)

    @property
    def _look_every(self) -> int:
        """Steps between looks at the verdict, at most 800 a run: a look reads all records."""
        return self.log_every * max(1, self.steps // (400 * self.log_every))

    def _stop_if_collapsed(self, trainer: L.Trainer) -> None:
        found = self.verdict() if self.run else Verdict("too early to say", "")
        collapsed = found.word == "collapsed" and self.settings["stop_when_collapsed"]
        if trainer.strategy.reduce_boolean_decision(collapsed, all=False):
            saved = self.run is not None and self.run.checkpoint.is_file()
            kept = "the last checkpoint is kept" if saved else "there is no checkpoint yet"
            to_try = f"{advice(found.word, self.settings)}; {kept}; --stop_when_collapsed false trains on"
            raise CollapsedError(f"collapsed at step {trainer.global_step}: {found.reason}; {to_try}")
        if trainer.is_last_batch:  # the epoch's line follows
            return
        first = "too early to say" in self.said
        if found.word not in self.said and (first or found.word in ADVICE):
            self._say(trainer, f"step {trainer.global_step}/{self.steps}{self._numbers({})}", found)

    def _waited(self, trainer: L.Trainer) -> float:
        """Seconds since the last count that the step has waited for views."""
        return getattr(trainer.train_dataloader, "waited", 0.0) - self.waited

    def _count_anew(self, trainer: L.Trainer) -> None:
        self.images, self.waited, self.since = 0, self.waited + self._waited(trainer), time.perf_counter()

    def _write(self, trainer: L.Trainer, record: Record) -> None:
        if self.run is None:
            return
        self.history.append(record)
        self.latest |= record
        self.run.append(record)
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=record["step"])

    def _numbers(self, record: Record) -> str:
        knn = f"  kNN {record['knn_top1']:.1f} % on held-out training images" if "knn_top1" in record else ""
        rate, waits = (self.latest.get(name, 0.0) for name in ("images_per_second", "waiting_for_data"))
        waiting = f", {waits:.0%} of the time waiting for views" if waits >= WAITS else ""
        left = f"  {self.clock.words}" if self.clock and self.clock.words else ""
        return f"{left}  loss {self.latest.get('loss', math.nan):.3f}{knn}  {rate:.0f} images/s{waiting}"

    def _say(self, trainer: L.Trainer, numbers: str, found: Verdict) -> None:
        """One line, and a further one for each bad word that was not in the line before: why, and what to try."""
        note = adversary_note(self.history, self.settings)
        reasons = {found.word: found.reason} | ({note.word: note.meaning} if note else {})
        trainer.print(f"{numbers}  {found.word}{f', {note}' if note else ''}", file=sys.stderr)
        for word, reason in reasons.items():
            if word in ADVICE and word not in self.said:
                trainer.print(
                    "  " + "; ".join(filter(None, [f"{word}: {reason}", advice(word, self.settings)])), file=sys.stderr
                )
        self.said = set(reasons)


class Checkpoints(Callback):
    """Saves what a run is at: the full state to go on from, the backbone to use, and the curves to look at.

    Args:
        run: where to.
        info: what `backbone.safetensors` says of itself.
        every: steps between checkpoints.
        may_save: whether the state may replace the last checkpoint; not where it looks collapsed.
    """

    def __init__(
        self, run: RunDirectory, info: BackboneInfo, *, every: int, may_save: Callable[[L.Trainer], bool]
    ) -> None:
        self.run, self.info, self.every, self.may_save = run, info, every, may_save
        self.saved = 0  # step of the last checkpoint; 0 if there is none
        self.draw_next = 0.0  # seconds on the monotonic clock

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """All ranks know the first one's directory: each would name a new one by its own clock."""
        self.run = RunDirectory(Path(trainer.strategy.broadcast(str(self.run.path))))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = trainer.global_step  # a resumed run starts at its checkpoint

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if ends_step(trainer, batch_idx) and trainer.global_step % self.every == 0:
            require_finite(trainer.global_step, losses_of(outputs), pl_module)
            if self.may_save(trainer):
                self.save(trainer, draw=time.monotonic() >= self.draw_next)

    def save_last(self, trainer: L.Trainer, *, draw: bool = True) -> str | None:
        """Save the state in which a run stops or ends, unless it looks collapsed and there is an earlier checkpoint.

        Returns:
            None if the state was saved, otherwise the reason why it was not.
        """
        if self.may_save(trainer) or not self.saved:
            self.save(trainer, draw=draw)
            return None
        if draw and trainer.is_global_zero:
            self._draw()
        return f"step {trainer.global_step} looks collapsed, so the checkpoint of step {self.saved} is kept"

    def save(self, trainer: L.Trainer, *, draw: bool = True) -> None:
        """Save the state after a step. Call it on every rank: they wait for each other here."""
        trainer.save_checkpoint(self.run.checkpoint)
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            method = trainer.lightning_module
            assert isinstance(method, Method)
            save_backbone(self.run.backbone, method.encoder.backbone, self.info)
            if draw:
                self._draw()

    def _draw(self) -> None:
        """Draw the curves, which takes a second or so: at most a fiftieth of the time goes into it."""
        start = time.monotonic()
        plot_curves(self.run.records(), self.run.curves)
        now = time.monotonic()
        self.draw_next = now + 50 * (now - start)


class StopOnSignal(Callback):
    """SIGINT and SIGTERM save a checkpoint after the step under way and end the run; a second one ends it at once.

    Args:
        checkpoints: how to save.
        agree_every: steps between agreements of the ranks, which hear of a signal at different steps.
    """

    def __init__(self, checkpoints: Checkpoints, *, agree_every: int) -> None:
        self.checkpoints, self.agree_every = checkpoints, agree_every
        self.received = 0
        self.previous: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._receive)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning has put a handler of its own around this one since `setup`: it would end the run between two steps
        with nothing saved, and let ranks wait for each other inside a handler."""
        if not self.received:
            signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):  # gradients of half a step are in no checkpoint
            return
        if trainer.world_size > 1 and trainer.global_step % self.agree_every:
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            require_finite(trainer.global_step, losses_of(outputs), pl_module)
            run = self.checkpoints.run
            not_saved = self.checkpoints.save_last(trainer, draw=not run.curves.is_file())  # who asks may not wait long
            raise Interrupted(self.received or signal.SIGTERM, run, not_saved)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._give_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
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
    """Top-1 in % of the backbone by its nearest neighbours, on training images alone.

    A fifth of the images are the queries, the rest is the bank; k is chosen as of `adco evaluate knn`. That one has all
    training images as its bank and the test images as its queries, and is usually higher.
    """

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
