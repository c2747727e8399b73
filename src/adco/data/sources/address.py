"""What the setting `data` may be, judged by its text: a named set, several folders, an address, or one folder.

cifar10                a named set; cifar10-validation, see `VALIDATION`
folders:a/,b/          several folders
list:files.csv         an address: a scheme and what it opens
photos/                a folder
"""

import glob
import re
from pathlib import Path

from adco.data.sources.registry import FETCHED, NAMED, SCHEMES
from adco.errors import InputError
from adco.files import data_directory

VALIDATION = "-validation"  # suffix of a named set: a fifth of its training images becomes the test split
FOLDERS = "folders:"


def is_named(data: str | Path) -> bool:
    """True if `data` is the name of a named set."""
    return isinstance(data, str) and data.removesuffix(VALIDATION) in NAMED


def scheme_of(data: str | Path) -> str:
    """Return the scheme of an address, such as `list` of `list:files.csv`; "" if `data` is none."""
    scheme, colon, _ = str(data).partition(":")
    return scheme if colon and scheme in SCHEMES else ""


def folders_of(data: str | Path) -> list[str]:
    """Return the paths in `folders:a/,b/`; none if `data` is something else.

    Raises:
        InputError: if there are fewer than two.
    """
    if not str(data).startswith(FOLDERS):
        return []
    folders = [folder.strip() for folder in str(data).removeprefix(FOLDERS).split(",") if folder.strip()]
    if len(folders) < 2:
        raise InputError(f"data {str(data)!r} must name two or more folders, with commas between them: folders:a/,b/")
    return folders


def is_here(data: str | Path) -> bool:
    """True if the data is on this machine: a named set that needs no download or has been fetched, or a path."""
    if is_named(data):
        fetched = FETCHED.get(str(data).removesuffix(VALIDATION))
        return fetched is None or (data_directory() / fetched).exists()
    return all(path.exists() or (scheme_of(data) == "wds" and _matches(path)) for path in _paths(data))


def full_name(data: str, directory: Path = Path()) -> str:
    """Return the data with full paths, the same wherever the command is started. Names are unchanged.

    Args:
        data: the setting.
        directory: to which its paths are relative; by default the current one.
    """
    if is_named(data):
        return data
    scheme = scheme_of(data)
    are_paths = scheme in ("", "wds")  # others may be names
    places = [(directory / path, path) for path in _paths(data)]
    full = ",".join(str(place.resolve()) if are_paths or place.exists() else str(path) for place, path in places)
    scheme = "folders" if folders_of(data) else scheme
    return f"{scheme}:{full}{_split(data)}" if scheme else full


def short_name(data: str) -> str:
    """Return a name for files: that of a named set, or the last part of the path or address."""
    if is_named(data):
        return data
    path = _paths(data)[-1]
    return re.sub(r"[^\w.-]+", "_", (path.resolve() if path.exists() else path).name + _split(data))


def _paths(data: str | Path) -> list[Path]:
    """Return the paths in the data. The address of a scheme need not be a path; then it is one that does not exist."""
    scheme = scheme_of(data)
    address = str(data).removeprefix(f"{scheme}:").removesuffix(_split(data)) if scheme else str(data)
    return [Path(part).expanduser() for part in folders_of(data) or [address]]


def _split(data: str | Path) -> str:
    """Return the split at the end of `hf:NAME:SPLIT`, with its colon; "" if the data names none."""
    found = re.fullmatch(r"hf:.+(:[^:]*)", str(data))
    return found[1] if found else ""


def _matches(pattern: Path) -> bool:
    """True if any file matches a pattern of `wds`, in which braces contain a range or alternatives."""
    return bool(glob.glob(re.sub(r"\{[^{}]*\}", "*", str(pattern))))  # noqa: PTH207 (it may be absolute)
