"""A function in a process of its own: what it returns and raises, and what is left if it is killed."""

import math
import signal
import warnings

import pytest

from adco.config.load import read_recipe
from adco.data.workers import WorkerLost
from adco.errors import InputError
from adco.training.own_process import in_a_process

pytestmark = pytest.mark.usefixtures("quick_processes")


def test_its_result_and_its_errors_arrive() -> None:
    assert in_a_process(math.hypot, 3, 4) == 5
    with pytest.raises(ZeroDivisionError):
        in_a_process(divmod, 1, 0)
    with pytest.raises(InputError, match=r"^recipe 'nowhere' is neither a file nor"):
        in_a_process(read_recipe, "nowhere")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_line_tells_that_it_was_killed(number: signal.Signals) -> None:
    with pytest.raises(WorkerLost, match=r"^the process that measures was killed, as when memory is full: raise acc"):
        in_a_process(signal.raise_signal, number)


def test_it_does_not_warn_and_leaves_ctrl_c_to_its_parent(capfd: pytest.CaptureFixture[str]) -> None:
    in_a_process(warnings.warn, "a warning")
    in_a_process(signal.raise_signal, signal.SIGINT)
    assert capfd.readouterr() == ("", "")
