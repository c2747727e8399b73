"""Write docs/reliability.md from the rows of `make faults`: python tests/faults/table.py."""

import sys
from pathlib import Path
from textwrap import shorten
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.rows import FILE, read_rows

MOST_WORDS = 250  # characters of a line that a person reads
OUT = FILE.parents[2] / "docs" / "reliability.md"
HEAD = """\
# Reliability

What happens to a run, and what a person reads, when something goes wrong. `make faults` tries all of this and writes
this page; `make test` tries a sample. A fault is *survived* if nothing is lost or changed that should not be, memory
stays bounded, and the person reads one line instead of a traceback, or nothing, because the work goes on.

Each row has the test that tries it: `ADCO_FAULTS=1 .venv/bin/pytest TEST` does it as often as `make faults`, and
without `ADCO_FAULTS=1` it is a sample. The seconds are those of all tries one after another, and depend on what else
the machine does; MB is the most memory that a process had.

| fault | tried | survived | s | MB | what the person reads | tests |
|---|---|---|---|---|---|---|
"""


def line(row: dict[str, Any]) -> str:
    """Return the line of the table."""
    says = shorten(row["says"], MOST_WORDS, placeholder=" …")
    says = f"`` {says} ``" if "`" in says else f"`{says}`" if says else "nothing"
    cells = [
        row["fault"],
        f"{row['tried']:,}",
        f"{row['survived']:,}",
        f"{row['seconds']:.0f}",
        f"{row['megabytes']:.0f}" if row["megabytes"] else "",
        says,
        "<br>".join(f"`{test}`" for test in row["tests"]),
    ]
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"


if __name__ == "__main__":
    OUT.write_text(HEAD + "".join(map(line, read_rows())))
