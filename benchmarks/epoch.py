"""An epoch of AdCo, as `adco pretrain` trains it, over the encoder's passes alone: the demo's and the table's network.

    python benchmarks/epoch.py [demo|table]

An epoch of CIFAR-10 has everything: reading, views, loss, adversaries, split-BN, records, Lightning's loop and the
checkpoint at its end, but no kNN (the images have no labels here). The bare passes are the query's forward and
backward, the key's forward, the encoder's optimizer step and the update of the momentum encoder, on views that are
already made, in one group, in the same precision and memory format. Both are timed in turns: after each epoch, the bare
passes of as many steps. Ratios are medians over epochs. The first epoch is a warm-up.
"""

import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L

from adco.comparison.plan import read_plan
from adco.comparison.timing import relative_time
from adco.config.load import pretrain_settings
from adco.config.pretrain import Given, Resolved
from adco.config.resolve import resolve
from adco.data.batch import Batch
from adco.data.loader import Loader, Order
from adco.data.sources.arrays import ArraySource
from adco.data.sources.open import open_source
from adco.data.sources.protocol import Source
from adco.methods.adco import AdCo
from adco.training.bare import BareTraining
from adco.training.build import make_method, make_views
from adco.training.pretrain import pretrain_run
from adco.training.trainer import make_trainer
from measure import save, show
from step import bare_step

ROUNDS = 3


def networks() -> dict[str, Given]:
    """Return the settings of both networks."""
    (row,) = (row for row in read_plan("cifar10_table5").rows if row.name == "AdCo 8192")
    return {"demo": pretrain_settings("cifar10_demo"), "table": row.settings}


class BarePasses:
    """The passes of the same encoder, without a loss."""

    def __init__(self, settings: Resolved, source: Source) -> None:
        made = make_method(settings, steps_per_epoch=len(source) // settings.batch_size)
        assert isinstance(made, AdCo)
        self.method, self.precision = made, settings.precision
        self.method.groups = 1
        self.optimizer = BareTraining(made, settings.optimizer).optimizer
        self.steps = len(source) // settings.batch_size
        some = source.subset(range(16 * settings.batch_size))
        order = Order(len(some), batch_size=settings.batch_size, seed=0)
        self.batches: list[Batch] = list(Loader(some, make_views(settings), order))

    def __call__(self) -> None:
        """Pass through as many steps as an epoch has."""
        for batch in islice(cycle(self.batches), self.steps):
            bare_step(self.method, self.optimizer, batch, self.precision)


class InTurns(L.Callback):
    """Times each epoch of a run, and after it the bare passes."""

    def __init__(self, bare: BarePasses) -> None:
        self.bare, self.start = bare, 0.0
        self.seconds: dict[str, list[float]] = {"epoch": [], "bare passes": []}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        between = time.perf_counter()
        self.bare()
        if trainer.current_epoch:
            self.seconds["epoch"].append(between - self.start)
            self.seconds["bare passes"].append(time.perf_counter() - between)


def measured(settings: Given, source: Source) -> dict[str, list[float]]:
    """Return the seconds of each epoch and of the bare passes."""
    with tempfile.TemporaryDirectory() as folder:
        records: dict[str, Any] = {
            "log_every": resolve(settings, source).log_every
        }  # as often as in a run of all epochs
        given = replace(settings, epochs=1 + ROUNDS, out=str(Path(folder) / "run"), **records)
        timer = InTurns(BarePasses(resolve(given, source), source))

        def with_timer(run: Any, callbacks: list[L.Callback], **more: Any) -> L.Trainer:
            return make_trainer(run, [*callbacks, timer], **more)

        with patch("adco.training.train.make_trainer", with_timer):
            pretrain_run(given, source)
    return timer.seconds


def main() -> None:
    whole = open_source("cifar10")
    assert isinstance(whole, ArraySource)
    source = ArraySource("cifar10", whole.images, None, ())
    figures, rows = {}, []
    for name, settings in networks().items():
        if name not in (sys.argv[1:] or networks()):
            continue
        seconds = measured(settings, source)
        ratio = relative_time(seconds["epoch"], seconds["bare passes"])
        figures[name] = {"seconds": seconds, "epoch_over_bare_passes": ratio}
        rows.append([name, *(f"{sorted(times)[ROUNDS // 2]:.3g}" for times in seconds.values()), f"{ratio:.3f}"])
    show("an epoch of CIFAR-10", ["network", "epoch, s", "bare passes, s", "ratio"], rows)
    save("epoch", {"rounds": ROUNDS, "figures": figures})


if __name__ == "__main__":
    main()
