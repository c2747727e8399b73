"""Tables in the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adco.words import counted

if TYPE_CHECKING:
    from rich.table import Table


def print_results(results: Mapping[Any, Any], of: str) -> None:
    """A table for each evaluation: the floors, the backbone and the majority baseline."""
    from rich.console import Console

    from adco.evaluation.registry import evaluation_of

    for name, result in results.items():
        images = f"{result['protocol']['train_images']:,} training and {counted(result['images'], 'test image')}"
        print(f"{name} of {of} on {result['data']}: {images}, {len(result['per_class'])} classes")
        print(evaluation_of(name).describe(result))
        floors = result.get("floors", {})
        rows = [*((floor, floors[floor]) for floor in reversed(floors)), ("this backbone", result)]
        Console().print(scores_table(rows))


def scores_table(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> "Table":
    """Return a terminal table with one line per (name, scores), and a last line for the majority-class baseline.

    The scores are given as returned by `Scores.to_json`.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("features", box=SIMPLE)
    for column in ("top-1 (%)", "95 % interval", "mean per class (%)"):
        table.add_column(column, justify="right")
    majority, classes = 0.0, 1
    for name, scores in rows:
        low, high = scores["top1_interval"]
        table.add_row(name, f"{scores['top1']:.1f}", f"{low:.1f} to {high:.1f}", f"{scores['per_class_mean']:.1f}")
        present = [value for value in scores["per_class"].values() if value is not None]
        majority, classes = scores["majority"], len(present)
    table.add_row("always the largest class", f"{majority:.1f}", "", f"{100 / classes:.1f}")
    return table


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, 160)  # a row is one line, also in a log
    console.print(table)


def or_dash(number: float | None) -> str:
    return "–" if number is None else f"{number:.0f}"
