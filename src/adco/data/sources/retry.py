"""Try again where a file system fails for a moment, as network file systems do."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Errors of the file system, not of the file: a connection was lost, or a server is busy or has restarted.
PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET, errno.EHOSTDOWN)
PAUSES = (0.1, 0.4, 1.0)  # seconds before the second, third and fourth attempt

Read = TypeVar("Read")


def retried(read: Callable[[Path], Read], path: Path) -> Read:
    """Return `read(path)`. If the file system fails, try again, up to three times within two seconds.

    Raises:
        Exception: whatever `read` raises, if it is not an error of the file system or occurs at every attempt.
    """
    for pause in PAUSES:
        try:
            return read(path)
        except OSError as error:
            if error.errno not in PASSING:
                raise
        time.sleep(pause)
    return read(path)
