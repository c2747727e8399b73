"""Damage files at random, as disks, networks, programs and people do. All is a function of the generator."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from adco.errors import AdcoError

# What a value of a JSON or YAML file is replaced by.
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**31, 10**30, 1e308, float("nan"), float("inf"), -0.5),
    *("", "text", "7", "../../x", "\x1b[2J", "é" * 300, [], {}, [[]], ["text"], {"a": 1}, [None, 1], {"kind": []}),
)
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)  # nine levels of nine aliases: 9^10 values
EXECUTES = "!!python/object/apply:os.system ['touch executed']"
TEXTS = ("[" * 100_000, '{"a":' * 100_000, "[" * 3000 + "]" * 3000, LAUGHS, EXECUTES, "- &a [*a]", "{}", "[]", "null")


def damaged(content: bytes, draw: Generator) -> bytes:
    """Return the content of a file after an accident: cut, emptied, overwritten, some bits flipped, or of noise."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: content[: int(draw.integers(len(content)))],
        lambda: b"",
        lambda: draw.bytes(int(draw.integers(1, 2000))),
        lambda: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
        lambda: content + draw.bytes(100),
        lambda: _flipped(content, draw, min(64, len(content))),  # in the header
        lambda: _flipped(content, draw, len(content)),
        lambda: _flipped(content, draw, len(content)),
    )
    return kinds[int(draw.integers(len(kinds)))]()


def edited(value: Any, draw: Generator) -> Any:
    """Return a JSON value in which one part, chosen at random, is of another type, absurd or missing."""
    changed = copy.deepcopy({"": value})
    place: Any = changed
    while True:
        key = list(place)[int(draw.integers(len(place)))] if isinstance(place, dict) else int(draw.integers(len(place)))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and draw.random() < 0.85:
            place = inner
            continue
        if isinstance(place, dict) and draw.random() < 0.2 and place is not changed:
            del place[key]
        else:
            place[key] = WRONG[int(draw.integers(len(WRONG)))]
        return changed[""]


def outcome(attempt: Callable[..., Any], *arguments: Any) -> str:
    """Return "" if the attempt works, else the line of its error.

    Raises:
        Exception: an error that the package does not explain in one line.
    """
    try:
        attempt(*arguments)
    except AdcoError as error:
        line = str(error)
        assert line, "an error without a word"
        assert "\n" not in line, line
        assert len(line) < 2000, line
        return line
    return ""


def edit_json(path: Path, draw: Generator) -> None:
    """Edit one part of a JSON file."""
    path.write_text(json.dumps(edited(json.loads(path.read_text()), draw)))


def _flipped(content: bytes, draw: Generator, within: int) -> bytes:
    values = np.frombuffer(content, np.uint8).copy()
    places = draw.integers(within, size=int(draw.integers(1, 9)))
    values[places] ^= draw.integers(1, 256, len(places)).astype(np.uint8)
    return values.tobytes()
