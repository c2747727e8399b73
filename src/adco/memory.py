"""How much memory there is, to refuse what could never fit before it is allocated."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

UNKNOWN = 8 * 2**30  # bytes, where the system does not say
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container, v2 and v1


@cache
def total_memory() -> int:
    """Return the bytes of memory of this machine, or of the container if that has less.

    It is the total, not what is free: what is refused must not depend on the other processes.
    """
    found = []
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in LIMITS:
        with suppress(OSError, ValueError):  # not Linux, or "max"
            found.append(int(Path(file).read_text()))
    return min(found, default=UNKNOWN)


def gigabytes(size: float) -> str:
    """Return a number of bytes as text, such as "1.6 GB"."""
    return f"{size / 1e9:.1f} GB"
