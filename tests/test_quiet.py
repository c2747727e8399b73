"""Lightning says nothing inside, and the caller's settings are as before outside."""

import io
import logging
import sys
import warnings

import pytest

from adco.quiet import LOGGERS, StderrHandler, quiet_lightning


def test_settings_are_restored_even_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGERS[0])
    before = [logging.getLogger(name).level for name in LOGGERS], list(warnings.filters), warnings.showwarning
    with quiet_lightning():
        assert not logging.getLogger("lightning.pytorch.utilities.rank_zero").isEnabledFor(logging.WARNING)
        assert logging.getLogger("adco").isEnabledFor(logging.WARNING)
    with pytest.raises(ZeroDivisionError), quiet_lightning():
        _ = 1 / 0
    assert ([logging.getLogger(name).level for name in LOGGERS], list(warnings.filters), warnings.showwarning) == before


def test_only_lightnings_warnings_are_silenced() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_lightning():
            warnings.warn_explicit("few workers", UserWarning, "x.py", 1, module="lightning.pytorch.trainer")
            warnings.warn_explicit("damaged files", UserWarning, "y.py", 1, module="adco.data.sources.folder")
    assert [str(warning.message) for warning in caught] == ["damaged files"]


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_line_for_a_closed_pipe_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        StderrHandler().handle(logging.makeLogRecord({"msg": "epoch 1/2"}))
