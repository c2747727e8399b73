"""Read files that may be damaged, of another kind, or made by somebody else: JSON, YAML and NumPy archives.

Nothing in a file is executed, it cannot make memory grow without bounds, and whatever is wrong with it becomes one
InputError that names the file and the reason.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import yaml

from adco.errors import InputError
from adco.memory import gigabytes, total_memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_JSON = 256 * 2**20  # bytes; a confusion matrix of 5 000 classes fits
MOST_YAML = 2**18  # bytes; PyYAML reads about 100 kB per second
MOST_VALUES = 100_000  # in a YAML file, with each alias replaced by what it stands for
MOST_WORDS = 200  # characters of a reason


@contextmanager
def reading(path: Path, *, what: str = "", says: str = "is damaged", advice: str = "") -> Iterator[None]:
    """Turn any error of the block, which reads a file and nothing else, into an InputError of one line.

    Parsers raise errors of dozens of types on damaged files, so the block catches all.

    Args:
        path: the file.
        what: its kind, which begins the line.
        says: what is said of a file that cannot be parsed.
        advice: what to do.

    Raises:
        InputError: the block failed, or `path` is no regular file. A pipe would block, and a device would never end.
    """
    name = f"{what} {path}".lstrip()
    then = f": {advice}" if advice else ""
    try:
        if not path.is_file():
            raise InputError(f"{name} {'is not a file' if path.exists() else 'does not exist'}{then}")
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{name} {says} ({error}){then}" if then else f"{name} {says}: {error}") from error
    except OSError as error:
        if error.strerror is None:  # raised by a parser
            raise InputError(_line(name, says, error, then)) from error
        raise InputError(f"{name} cannot be read: {error.strerror}{then}") from error
    except Exception as error:
        raise InputError(_line(name, says, error, then)) from error


def read_json(path: Path, kind: type = dict, advice: str = "") -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        kind: dict or list, what it must contain; object for anything.
        advice: what to do if it is damaged.

    Raises:
        InputError: if it is damaged, or contains something else.
    """
    with reading(path, advice=advice):
        content = json.loads(_text(path, MOST_JSON))
        if not isinstance(content, kind):
            raise ValueError(f"it must contain {'an object' if kind is dict else 'a list'}")
    return content


def read_yaml(path: Path, *, what: str = "", says: str = "is not valid YAML", advice: str = "") -> Any:
    """Return the content of a YAML file: plain values, lists and mappings.

    Args:
        path: the file.
        what, says, advice: as for `reading`.

    Raises:
        InputError: if it is damaged, has tags of objects, or would be too large with its aliases replaced.
    """
    with reading(path, what=what, says=says, advice=advice):
        loader = yaml.SafeLoader(_text(path, MOST_YAML))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()


def read_npz(
    path: Path, names: Collection[str] = (), advice: str = "", says: str = "is damaged"
) -> "dict[str, NDArray[np.generic]]":
    """Return arrays of a .npz file.

    Args:
        path: the file.
        names: of the arrays; by default all.
        advice, says: as for `reading`.

    Raises:
        InputError: if it is damaged, lacks an array, or would take more than half of the memory.
    """
    import numpy as np  # here, because the help of commands needs none

    with reading(path, advice=advice, says=says), path.open("rb") as opened, np.load(opened) as found:
        size = sum(entry.file_size for entry in found.zip.infolist())
        check_memory(size)
        if missing := [name for name in names if name not in found.files]:
            raise ValueError(f"it has no {missing[0]}")
        return {name: found[name] for name in names or found.files}


def refuse_compressed(path: Path) -> None:
    """Raise a ValueError if a zip file has compressed parts.

    torch.save writes none, and they may take a thousand times more memory than the file has bytes.
    """
    with ZipFile(path) as archive:
        if any(entry.file_size > entry.compress_size for entry in archive.infolist()):
            raise ValueError("it has compressed parts, which torch.save does not write")


def check_memory(size: float) -> None:
    """Raise an InputError if so many bytes are more than half of the memory."""
    if size > total_memory() / 2:
        raise InputError(f"its content takes {gigabytes(size)}, more than half of the memory here")


def reason(error: BaseException) -> str:
    """Return an error's message as one short line of printable characters."""
    if isinstance(error, MemoryError):
        return "its content takes more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"it has no {printable(str(error.args[0]) if error.args else 'such part')}"
    return printable(str(error)) or type(error).__name__


def printable(text: str, most: int = MOST_WORDS) -> str:
    """Return a text from a file on one line of moderate length, without control characters, which change terminals."""
    line = "".join(char if char.isprintable() else "?" for char in " ".join(text[: 10 * most].split()))
    return line if len(line) <= most else f"{line[:most]} …"


def _line(name: str, says: str, error: Exception, then: str) -> str:
    return f"{name} {says} ({reason(error)}){then}" if then else f"{name} {says}: {reason(error)}"


def _text(path: Path, most: int) -> str:
    """Return the text of a file of at most so many bytes."""
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes, and at most {most:,} are read")
    return path.read_text(encoding="utf-8")


def _check_size(node: yaml.Node) -> None:
    """Raise a ValueError if a YAML document has too many values. It may contain itself."""
    count, left = 0, [node]
    while left:
        count += 1
        if count + len(left) > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values, with its aliases replaced")
        part = left.pop()
        if isinstance(part, yaml.MappingNode):
            left.extend(inner for pair in part.value for inner in pair)
        elif isinstance(part, yaml.SequenceNode):
            left.extend(part.value)
