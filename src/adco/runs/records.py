"""Read the records of a run: metrics.jsonl.

Of very many records, only some are kept: all code that reads them follows a run from its start to its end, and needs no
more than `MOST` points of it.
"""

import json
import math
import mmap
import re
from pathlib import Path

from adco.errors import InputError

KINDS = {int, float, str, bool, type(None)}  # of values in a record
MOST = 20_000  # records of steps that are kept
STEP = re.compile(rb'"step": (\d+)')
Record = dict[str, float | str]


class History(list[Record]):
    """Records in order, to which others are appended. Of more than `MOST`, every second, fourth, … and the last stay.

    Which are kept follows from their number alone, so that it is the same in a run that was resumed. Records of epochs,
    which have a verdict in `word`, are all kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0  # of all records
        self.places = list[int]()  # of those kept, among all

    def append(self, record: Record) -> None:
        """Add the next record."""
        stride = stride_of(self.number + 1)
        if self.number and not self._stays(-1, stride):
            self.pop()
            self.places.pop()
        if stride > stride_of(self.number):
            stay = [place for place in range(len(self)) if self._stays(place, stride)]
            self.places, self[:] = [self.places[place] for place in stay], [self[place] for place in stay]
        super().append(record)
        self.places.append(self.number)
        self.number += 1

    def _stays(self, place: int, stride: int) -> bool:
        return self.places[place] % stride == 0 or "word" in self[place]


def stride_of(number: int) -> int:
    """Return how many records there are for one that is kept, a power of 2."""
    return 1 if number <= MOST else 2 ** math.ceil(math.log2(number / MOST))


def read_records(path: Path) -> History:
    """Return the records of a metrics.jsonl file (one JSON object per line), oldest first.

    A last line without a newline that is not a JSON object was cut off by a crash and is ignored. If `step` decreases,
    the run was resumed from an earlier checkpoint, and the older records from that step on are ignored.

    Raises:
        InputError: if any other line is not a JSON object of numbers and texts; names the file and the line. Of a file
            with more than `MOST` lines, only those that are kept are looked at.
    """
    with path.open("rb") as file:
        number = sum(1 for _ in file)
        file.seek(0)
        stride, newest = stride_of(number), -math.inf
        records = History()
        for place, line in enumerate(file):
            if stride > 1 and place % stride and place < number - 1 and b'"word"' not in line:
                records.number += 1
                continue
            record = _parsed(line, path, place + 1, is_last=place == number - 1)
            if record is None:
                break
            step = float(record.get("step", newest))
            if step < newest:
                records = _before(step, records)
            records.append(record)
            newest = step
    return records


def _before(step: float, records: History) -> History:
    """Return the records before a step."""
    kept = History()
    for record in records:
        if float(record.get("step", -math.inf)) < step:
            kept.append(record)
    return kept


def _parsed(line: bytes, path: Path, number: int, *, is_last: bool) -> Record | None:
    """Return the record in a line; None if it is the last one and was cut off."""
    try:
        record = json.loads(line, parse_int=_number)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        if is_last and not line.endswith(b"\n"):
            return None
        raise InputError(f"{path}, line {number}: not a JSON object: {line[:80]!r}")
    if not set(map(type, record.values())) <= KINDS or not _is_finite(record.get("step", 0)):
        raise InputError(f"{path}, line {number}: not the record of a step: {line[:80]!r}")
    return record


def length_until(path: Path, step: int) -> int:
    """Return the length in bytes of the lines of a metrics.jsonl file up to the last record of at most this step.

    A line without a step counts as one: `read_records` says what is wrong with it, if anything is.
    """
    if not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1  # what follows was cut off
        while end:
            start = content.rfind(b"\n", 0, end - 1) + 1
            found = STEP.search(content[start:end])
            if not found or int(found[1]) <= step:
                return end
            end = start
    return 0


def _is_finite(step: float | str | None) -> bool:
    return isinstance(step, int | float) and math.isfinite(step)


def _number(digits: str) -> float:
    """Return a whole number; as a float if it is too large for one, which then is no error in every computation."""
    return int(digits) if len(digits) < 19 else float(digits)
