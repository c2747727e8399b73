"""Write docs/reliability.md from the rows of `make faults`: python tests/faults/table.py."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.rows import FILE, read_rows

OUT = FILE.parents[2] / "docs" / "reliability.md"
HEAD = """\
# Reliability

What happens to a run, and what a person reads, when something goes wrong. `make faults` tries all of this and writes
this page; `make test` tries a sample. A fault is *survived* if nothing is lost or changed that should not be, memory
stays bounded, and the person reads one line instead of a traceback.

| fault | tried | survived | what the person reads |
|---|---|---|---|
"""


def line(row: dict[str, Any]) -> str:
    """Return the line of the table."""
    extra = [f"{row[name]:g} {unit}" for name, unit in (("seconds", "s"), ("megabytes", "MB at most")) if name in row]
    more = f" ({', '.join(extra)})" if extra else ""
    says = str(row["says"]).replace("|", "\\|")
    return f"| {row['fault']}{more} | {row['tried']:,} | {row['survived']:,} | {says} |\n"


if __name__ == "__main__":
    OUT.write_text(HEAD + "".join(map(line, read_rows())))
