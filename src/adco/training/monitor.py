"""Write the records of a run to metrics.jsonl, log a line after each epoch, and stop a run that has collapsed."""

import math
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from adco.config.pretrain import PretrainSettings, to_dict
from adco.data.batch import Batch
from adco.health.advice import ADVICE, advice
from adco.health.numbers import embedding_health
from adco.health.verdict import Verdict, looks_collapsed, verdict
from adco.ranks import is_lost
from adco.runs.directory import RunDirectory
from adco.runs.records import History
from adco.training.console import TimeLeft, progress
from adco.training.errors import CollapsedError, NotFiniteError
from adco.training.module import ends_step, finite_losses, method_of
from adco.training.online_knn import OnlineKNN

Record = dict[str, Any]
REPORTED_WAITING = 0.1  # share of the time spent waiting for views from which the epoch's line reports it


class Monitor(Callback):
    """Writes metrics.jsonl, logs a verdict at the end of each epoch, and stops a run that has collapsed.

    Args:
        run: where to write, on the first rank; None on the others.
        settings: the settings of the run.
        steps: steps of the whole run.
        knn: measures the kNN top-1 of a backbone in %; None without labels.
        clock: its estimate of the time left is part of the epoch's line.
    """

    def __init__(
        self,
        run: RunDirectory | None,
        *,
        settings: PretrainSettings[Any],
        steps: int,
        knn: OnlineKNN | None,
        clock: TimeLeft | None = None,
    ) -> None:
        self.run, self.settings, self.steps, self.knn, self.clock = run, settings, steps, knn, clock
        self.log_every: int = settings.log_every
        self.history = History()
        self.latest: Record = {}  # the latest value of each key
        self.logged_words: set[str] = {"too early to say"}  # verdict and note in the line logged last
        self.failures: set[str] = set()  # why metrics were left out
        # since: time of the last record or epoch start; images: their number from then on; waited: the loader's total
        # waiting time then, in seconds.
        self.images, self.waited, self.since = 0, 0.0, time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.run is None:
            return
        self.run.forget_after(trainer.global_step)
        self.history = self.run.records()
        if self.knn and trainer.global_step == 0 and not self.history:
            floor = {
                f"knn_top1_{'start' if self.settings.weights else 'random'}": self.knn(
                    method_of(pl_module).encoder.backbone
                ),
                "knn_queries": len(self.knn.queries),
            }
            self._write(trainer, {"step": 0, "epoch": 0, **floor})

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart_speed(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images += len(batch.indices) * trainer.world_size
        step = trainer.global_step
        # The embeddings of step 1 are those of the untrained network. Later ones are compared with them.
        recorded = step == 1 or step % self.log_every == 0 or trainer.is_last_batch
        if not ends_step(trainer, batch_idx) or not recorded:
            return
        try:
            losses = finite_losses(step, outputs, pl_module)
        except NotFiniteError as error:
            texts = {name: str(loss) for name, loss in error.losses.items()}  # JSON has no NaN
            self._write(trainer, {"step": step, "epoch": trainer.current_epoch, **texts})
            raise
        seconds = time.perf_counter() - self.since
        speed = {
            "images_per_second": self.images / seconds,
            "waiting_for_data": self._seconds_waited(trainer) / seconds,
        }
        self._restart_speed(trainer)
        self._write(
            trainer,
            {
                "step": step,
                "epoch": trainer.current_epoch,
                **losses,
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                **speed,
                **self._measured(lambda: embedding_health(outputs["queries"], outputs["keys"])),
                **self._measured(lambda: method_of(pl_module).metrics(outputs["queries"], outputs["keys"])),
            },
        )
        if step % self._verdict_every == 0 or trainer.is_last_batch:
            self._act_on_verdict(trainer)
        if trainer.is_last_batch:
            self._record_epoch(trainer, pl_module)

    def _record_epoch(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record of an epoch and log its line.

        This is done in the epoch's last step, before the checkpoint of that step is saved: a run that is resumed from
        this checkpoint begins with the next epoch, so it would never write the record.
        """
        if self.run is None:
            return
        record: Record = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        if self.knn:
            knn, backbone = self.knn, method_of(pl_module).encoder.backbone
            record |= self._measured(lambda: {"knn_top1": knn(backbone)})
        found = verdict([*self.history, record], self.steps)
        self._write(trainer, {**record, **found._asdict()})
        self._say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}{self._numbers(record)}", found)

    def verdict(self) -> Verdict:
        """Return the verdict on the records so far."""
        return verdict(self.history, self.steps)

    def may_save(self, trainer: L.Trainer) -> bool:
        """Return False if the run looks collapsed and `stop_when_collapsed` is true: keep the last checkpoint then."""
        collapsed = self.settings.stop_when_collapsed and looks_collapsed(self.history, self.steps)
        # Ranks save together, and only the first rank has records.
        return trainer.strategy.reduce_boolean_decision(not collapsed)

    @property
    def _verdict_every(self) -> int:
        """Steps between verdicts within an epoch, at most 800 per run: each verdict reads all records."""
        return self.log_every * max(1, self.steps // (400 * self.log_every))

    def _act_on_verdict(self, trainer: L.Trainer) -> None:
        """Raise a CollapsedError if a collapsed run is to stop. Within an epoch, log the first and new bad verdicts."""
        found = self.verdict() if self.run else Verdict("too early to say", "")
        collapsed = found.word == "collapsed" and self.settings.stop_when_collapsed
        if trainer.strategy.reduce_boolean_decision(collapsed, all=False):
            saved = self.run is not None and self.run.checkpoint.is_file()
            kept = "the last checkpoint is kept" if saved else "there is no checkpoint yet"
            to_try = f"{advice(found.word, to_dict(self.settings))}; {kept}"
            anyway = "to continue anyway, use --stop_when_collapsed false"
            raise CollapsedError(f"collapsed at step {trainer.global_step}: {found.reason}; {to_try}; {anyway}")
        if trainer.is_last_batch:  # the epoch's line follows, with the verdict
            return
        is_first = "too early to say" in self.logged_words
        if found.word not in self.logged_words and (is_first or found.word in ADVICE):
            self._say(f"step {trainer.global_step}/{self.steps}{self._numbers({})}", found)

    def _seconds_waited(self, trainer: L.Trainer) -> float:
        """Return the seconds spent waiting for views since the last record."""
        return getattr(trainer.train_dataloader, "waited", 0.0) - self.waited

    def _restart_speed(self, trainer: L.Trainer) -> None:
        """Start a new measurement of the speed."""
        self.images, self.waited, self.since = 0, self.waited + self._seconds_waited(trainer), time.perf_counter()

    def _write(self, trainer: L.Trainer, record: Record) -> None:
        if self.run is None:
            return
        self.history.append(record)
        self.latest |= record
        self.run.append(record)
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=record["step"])

    def _measured(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return metrics; none, with a warning, if the device cannot compute them. A metric never ends a run."""
        try:
            return measure()
        except RuntimeError as error:
            if is_lost(error):  # some metrics need all ranks
                raise
            reason = str(error).partition("\n")[0]
            if reason not in self.failures:
                self.failures.add(reason)
                progress.warning(f"  a metric is left out: {reason}")
            return {}

    def _numbers(self, record: Record) -> str:
        knn = f"  kNN {record['knn_top1']:.1f} % on held-out training images" if "knn_top1" in record else ""
        rate, waits = (self.latest.get(name, 0.0) for name in ("images_per_second", "waiting_for_data"))
        waiting = f", {waits:.0%} of the time waiting for views" if waits >= REPORTED_WAITING else ""
        left = f"  {self.clock.words}" if self.clock and self.clock.words else ""
        return f"{left}  loss {self.latest.get('loss', math.nan):.3f}{knn}  {rate:.0f} images/s{waiting}"

    def _say(self, numbers: str, found: Verdict) -> None:
        """Log a line with numbers and verdict, and for each new problem a warning with its reason and what to try."""
        note = self.settings.note(self.history)
        reasons = {found.word: found.reason} | ({note.word: note.meaning} if note else {})
        progress.info(f"{numbers}  {found.word}{f', {note}' if note else ''}")
        for word, reason in reasons.items():
            if word in ADVICE and word not in self.logged_words:
                to_try = advice(word, to_dict(self.settings))
                progress.warning("  " + "; ".join(filter(None, [f"{word}: {reason}", to_try])))
        self.logged_words = set(reasons)
