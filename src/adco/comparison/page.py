"""The table as one HTML file that needs nothing else."""

from adco.comparison.findings import statements
from adco.comparison.report import caption
from adco.comparison.table import Table
from adco.reporting.material import Section, data_uri
from adco.reporting.page import page


def html(table: Table, name: str, picture: bytes) -> str:
    """Return the page of a comparison.

    Args:
        table: the comparison.
        name: its name, for the heading.
        picture: its picture, a PNG.
    """
    rows = {"title": "All rows", "columns": table.columns, "rows": table.lines(), "open": True}
    sections = [
        Section("Accuracy and cost", caption(table), "tables.html", {"tables": [rows]}),
        Section("Accuracy against time", "", "tables.html", {"pictures": [_picture(picture)]}),
    ]
    if claims := [[statement.replace("**", "")] for statement in statements(table)]:
        text = "What is claimed of these rows. A claim holds or does not hold, or the figures cannot tell."
        listed = {"title": "Claims", "rows": claims, "open": True}
        sections.append(Section("Claims", text, "tables.html", {"tables": [listed]}))
    return page(f"Comparison {name}", f"{len(table.entries)} rows, evaluated on {table.evaluated_on}", sections)


def _picture(content: bytes) -> dict[str, str]:
    return {"title": "accuracy of each row against its time per epoch", "uri": data_uri(content, "image/png")}
