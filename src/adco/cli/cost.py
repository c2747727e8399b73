"""`adco cost`: the hours and the memory of a recipe's runs, from a few measured steps."""

import sys
from collections.abc import Sequence

from adco.cli.imports import import_lightning
from adco.cli.tables import print_table

FOOT = """\
measured on {device} in {precision}; with the kNN after each epoch, without the evaluations after a run"""
EXCHANGE = """\
time for {devices} devices like this one, without that of exchanging gradients, up to {megabytes:.0f} MB per step"""


def cost(arguments: Sequence[str]) -> int:
    """Run `adco cost`."""
    from adco.config.commands import CostSettings
    from adco.config.load import Parser

    parser = Parser([CostSettings], "adco cost", "Estimate the hours and memory of a recipe's runs.", "RECIPE")
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a recipe of the package by name, or a YAML file: of a run or a comparison"
    )
    flags = parser.read_flags(arguments)
    settings = CostSettings(devices=flags.devices, images=flags.images)
    settings.check()
    import_lightning()
    from adco.comparison.costs import costs
    from adco.training.console import duration

    rows = list(costs(flags.recipe, settings.devices, settings.images, lambda words: print(words, file=sys.stderr)))
    table = [
        [
            row.row,
            f"{row.cost.step:.3g} s",
            duration(row.cost.epoch),
            f"{row.epochs}",
            duration(row.seconds),
            f"{row.runs}",
            "–" if row.megabytes is None else f"{row.megabytes / 1024:.2f} GB",
        ]
        for row in rows
    ]
    print_table(["row", "step", "epoch", "epochs", "one run", "runs", "memory"], table)
    print(f"all runs, one after the other: {duration(sum(row.runs * row.seconds for row in rows))}")
    print(FOOT.format(device=rows[0].device, precision=rows[0].precision))
    several = [row for row in rows if row.processes > 1]
    if several:
        print(EXCHANGE.format(devices=several[0].processes, megabytes=max(row.exchanged for row in several)))
    return 0
