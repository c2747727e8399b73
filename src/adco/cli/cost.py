"""`adco cost`: the hours and the memory of a recipe's runs, from a few measured steps."""

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adco.cli.imports import import_lightning
from adco.cli.tables import print_table

if TYPE_CHECKING:
    from adco.comparison.costs import RowCost

PURPOSE = """\
Estimate the hours and memory of a recipe's runs: train some steps of each row on a device of this machine, and write
nothing."""
NOTES = """\
sum of {runs}: {total} one after the other, {hours} device hours (hours x devices)
measured on {measured_on}
counted: training, and the kNN after each epoch if the labels are here
not counted: the start of a run, its checkpoints, and the evaluations after it{exchange}
memory: the peak of {memory}"""
EXCHANGE = "; between devices, the exchange of gradients, up to {megabytes:.3g} MB per step"
ON_CPU, ON_GPU = "the training process, without its loader workers", "what torch allocates on one device"


def cost(arguments: Sequence[str]) -> int:
    """Run `adco cost`."""
    from adco.config.commands import CostSettings
    from adco.config.load import Parser

    parser = Parser([CostSettings], "adco cost", PURPOSE, "RECIPE")
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a recipe of the package by name, or a YAML file: of a run or a comparison"
    )
    flags = parser.read_flags(arguments)
    settings = CostSettings(devices=flags.devices, images=flags.images)
    settings.check()
    import_lightning()
    from adco.comparison.costs import costs

    rows: list[RowCost] = []
    try:
        for row in costs(flags.recipe, settings.devices, settings.images, lambda words: print(words, file=sys.stderr)):
            rows.append(row)
    finally:  # what was measured before an error or Ctrl-C
        if rows:
            _print(rows)
    return 0


def _print(rows: "Sequence[RowCost]") -> None:
    from adco.training.console import duration
    from adco.words import counted

    table = [
        [
            row.row,
            f"{row.cost.step:.3g} s",
            duration(row.cost.epoch),
            f"{row.epochs}",
            duration(row.seconds),
            f"{row.runs}",
            f"{row.processes}",
            _hours(row.device_hours),
            "–" if row.megabytes is None else f"{row.megabytes / 1024:.2f} GB",
        ]
        for row in rows
    ]
    print_table(["row", "step", "epoch", "epochs", "one run", "runs", "devices", "device hours", "memory"], table)
    measured_on = " and ".join(dict.fromkeys(row.measured_on for row in rows))
    exchanged = max((row.exchanged for row in rows if row.processes > 1), default=None)
    notes = NOTES.format(
        runs=counted(sum(row.runs for row in rows), "run"),
        total=duration(sum(row.runs * row.seconds for row in rows)),
        hours=_hours(sum(row.device_hours for row in rows)),
        measured_on=measured_on,
        exchange="" if exchanged is None else EXCHANGE.format(megabytes=exchanged),
        memory=ON_CPU if measured_on.startswith("cpu") else ON_GPU,
    )
    print(notes)


def _hours(hours: float) -> str:
    """Format hours, rounded up to a tenth."""
    return f"{math.ceil(10 * hours) / 10:,.1f}"
