"""The table as text: its caption, Markdown and JSON."""

from dataclasses import asdict
from typing import Any

from adco.comparison.findings import findings, statements
from adco.comparison.table import Table, few_images


def caption(table: Table) -> str:
    """Return the table's caption: the data, the meaning of the columns, and the machine."""
    trained = ", ".join(
        data if count is None else f"{data} ({_count(count)} images)" for data, count in table.trained_on.items()
    )
    tested, few = "", ""
    if table.test_images is not None:
        images = "image" if table.test_images == 1 else "images"
        tested, few = f" ({_count(table.test_images)} test {images})", few_images(table.test_images)
    *others, last = table.evaluations.values()
    columns = f"{', '.join(others)} and {last}" if others else last
    return (
        f"Trained on {trained}, evaluated on {table.evaluated_on}{tested}. {few and few + '. '}{columns}: top-1 "
        "accuracy in %, mean ± standard deviation over seeds. extra parameters: trained parameters outside backbone "
        f"and projector. images/s, time/epoch (relative to {table.relative_to}) and peak MB: measured on "
        f"{table.measured_on}; the rows were timed in turn."
    )


def markdown(table: Table) -> str:
    """Return the table in Markdown, with its caption above and its statements below."""
    lines = [table.columns, ["---"] * len(table.columns), *table.lines()]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join(part for part in (caption(table), rows, "\n".join(statements(table))) if part) + "\n"


def to_json(table: Table) -> dict[str, Any]:
    """Return the table as plain values, with the tested claims and their verdicts."""
    rows = [asdict(entry) for entry in table.entries]
    facts = ("floors", "measured_on", "trained_on", "evaluated_on", "test_images", "relative_to")
    return {
        "rows": [row | row.pop("top1") for row in rows],  # a key for each evaluation
        **{name: getattr(table, name) for name in facts},
        "claims": [asdict(finding) | {"verdict": finding.verdict} for finding in findings(table)],
    }


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")
