"""`adco compare`: train the rows of a table alike, several seeds each, and print it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from adco.cli.imports import import_lightning
from adco.cli.tables import or_dash, print_table


def compare(arguments: Sequence[str]) -> int:
    """Run `adco compare`."""
    from adco.config.commands import CompareSettings
    from adco.config.load import Parser

    parser = Parser([CompareSettings], "adco compare", "Train the rows of a table alike and print it.", "RECIPE")
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a comparison of the package by name, or a YAML file: shared, seeds, rows"
    )
    parser.add_argument("--dry-run", action="store_true", help="build each row and step twice on noise, no more")
    flags = parser.read_flags(arguments)
    import_lightning()
    from adco.training.errors import Interrupted

    if flags.dry_run:
        return _dry_run(flags.recipe)
    from adco.comparison.findings import statements
    from adco.comparison.report import caption
    from adco.comparison.run import compare as run_comparison
    from adco.comparison.run import run_next_stage

    out = Path(flags.out or Path("runs") / Path(flags.recipe).stem)
    try:
        if flags.only:
            return run_next_stage(flags.recipe, out, flags.only)
        table = run_comparison(flags.recipe, out)
    except Interrupted as stop:
        if not flags.only:
            print("adco: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return stop.exit_code
    print(caption(table))
    print_table(table.columns, table.lines())
    for statement in statements(table):
        print(statement.replace("**", ""))
    print(f"table.json, table.md, table.png and table.html are in {out}/")
    return 0


def _dry_run(recipe: str) -> int:
    """Print a table of the rows, each built and stepped twice on noise."""
    from adco.comparison.dry import dry_run
    from adco.comparison.plan import read_plan

    lines = [
        [
            found["row"],
            f"{found['parameters']:.1f}",
            or_dash(found["megabytes"]),
            "yes" if found["finite"] else "no",
            or_dash(found["steps"]),
        ]
        for found in dry_run(read_plan(recipe))
    ]
    print_table(["row", "parameters, M", "MB, batch 8", "finite", "planned steps"], lines)
    return 0
