"""Keeps Lightning from talking: a run has its own lines."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LOGGERS = ("lightning.pytorch", "lightning.fabric")


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to sys.stderr as it is at each record, not as it was when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notices and warnings inside the block; the caller's own settings are restored after it."""
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
