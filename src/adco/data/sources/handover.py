"""One process of a node does the work, and the others take its result over.

A launcher starts one process per device. Each would list the same folder, which takes long where there are many files
or the file system is on a network, and might find other files than the others if some are added meanwhile.
"""

import atexit
import hashlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adco.errors import InputError
from adco.files import alone, replacing, user_cache
from adco.launcher import launch
from adco.untrusted import read_npz

KEPT = 24 * 3600  # seconds; older files are of processes that were killed before they could delete them
_calls: Counter[str] = Counter()  # how often this process has asked for each result

Arrays = Mapping[str, NDArray[np.generic]]


def once_per_node(name: str, work: Callable[[], Arrays]) -> Arrays:
    """Return `work()`. Of the processes that a launcher started on this node, the first to come here calls it.

    Processes of one launch ask for the same results in the same order, so the n-th call with a name is the same in all.

    Args:
        name: what is computed.
        work: returns arrays that can be saved without pickle.

    Raises:
        Exception: as `work` raises.
    """
    started = launch()
    if started is None:
        return work()
    _calls[name] += 1
    file = _file(f"{started}:{name}:{_calls[name]}")
    with alone(file):
        try:
            return read_npz(file)
        except InputError:  # the first to come here, or the cache cannot be read
            result = work()
            _write(result, file)
            return result


def _file(what: str) -> Path:
    """Return the file of a result. It depends on the node, because nodes may share the home directory."""
    text = f"{socket.gethostname()}:{what}".encode(errors="surrogateescape")
    return user_cache() / "handover" / f"{hashlib.sha256(text).hexdigest()[:24]}.npz"


def _write(result: Arrays, file: Path) -> None:
    try:
        with replacing(file) as opened:
            np.savez(opened, **result)  # type: ignore[arg-type]  # no array is called allow_pickle
        atexit.register(file.unlink, missing_ok=True)
        for old in file.parent.iterdir():
            if time.time() - old.stat().st_mtime > KEPT:
                old.unlink(missing_ok=True)
    except OSError:  # the cache cannot be written: each process does the work
        return
