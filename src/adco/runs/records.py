"""Read the records of a run: metrics.jsonl."""

import json
import math
from pathlib import Path

from adco.errors import InputError

KINDS = {int, float, str, bool, type(None)}  # of values in a record


def read_records(path: Path) -> list[dict[str, float | str]]:
    """Return the records of a metrics.jsonl file (one JSON object per line), oldest first.

    A last line without a newline that is not a JSON object was cut off by a crash and is ignored. If `step` decreases,
    the run was resumed from an earlier checkpoint, and the older records from that step on are ignored.

    Raises:
        InputError: if any other line is not a JSON object of numbers and texts; names the file and the line.
    """
    records: list[dict[str, float | str]] = []
    newest = -math.inf
    lines = path.read_bytes().splitlines(keepends=True)  # bytes, because a line may be cut off inside a character
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line, parse_int=_number)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise InputError(f"{path}, line {number}: not a JSON object: {line[:80]!r}")
        if not set(map(type, record.values())) <= KINDS or not _is_finite(record.get("step", 0)):
            raise InputError(f"{path}, line {number}: not the record of a step: {line[:80]!r}")
        step = record.get("step", newest)
        if step < newest:
            records = [earlier for earlier in records if earlier.get("step", -math.inf) < step]
        records.append(record)
        newest = step
    return records


def _is_finite(step: float | str | None) -> bool:
    return isinstance(step, int | float) and math.isfinite(step)


def _number(digits: str) -> float:
    """Return a whole number; as a float if it is too large for one, which then is no error in every computation."""
    return int(digits) if len(digits) < 19 else float(digits)
