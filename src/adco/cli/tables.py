"""Tables in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from adco.words import counted


def print_results(results: Mapping[Any, Any], of: str) -> None:
    """A table for each kind of evaluation: the floors, the backbone and the majority baseline."""
    from rich.console import Console

    from adco.evaluation.scores import results_table

    for kind, result in results.items():
        images = f"{result['protocol']['train_images']} training and {counted(result['images'], 'test image')}"
        print(f"{kind} of {of} on {result['data']}: {images}, {len(result['per_class'])} classes")
        print(_protocol(result))
        floors = result.get("floors", {})
        rows = [*((name, floors[name]) for name in reversed(floors)), ("this backbone", result)]
        Console().print(results_table(rows))


def _protocol(result: Mapping[str, Any]) -> str:
    """How the backbone's scores were made, in a line."""
    told, asked = result["protocol"], result["evaluation"]
    if told["kind"] == "knn":
        fewer = f", all there are ({asked['k']} asked)" if asked["k"] and told["k"] < asked["k"] else ""
        return (
            f"each test image is classified by its k = {counted(told['k'], 'nearest training image')}{fewer}, "
            f"weighted by exp(cosine / {told['temperature']:g})"
        )
    if told.get("protocol") == "sgd":
        return f"a linear layer trained by SGD on augmented images for {counted(told['epochs'], 'epoch')}"
    return f"logistic regression on the features; its L2 of {told['l2']:g} was chosen on held-out training images"


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
