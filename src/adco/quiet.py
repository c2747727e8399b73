"""What is written to stderr: nothing by Lightning, because a run logs its own lines."""

import errno
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LOGGERS = ("lightning.pytorch", "lightning.fabric")


class StderrHandler(logging.StreamHandler[TextIO]):
    """Handler that writes to the current sys.stderr, not to the one at the time of its creation."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error, as print() does: the command ends when the reader has closed the pipe."""
        with closed_terminal_ignored():
            raise


@contextmanager
def closed_terminal_ignored() -> Iterator[None]:
    """Ignore that nothing can be printed because the terminal is closed: its signal comes a moment later."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's log messages and warnings inside the block, and restore the caller's settings after it."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
