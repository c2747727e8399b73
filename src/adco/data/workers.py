"""The processes that make batches: how they start, and when they end."""

import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from adco.errors import AdcoError, InputError

# The training process saves a checkpoint and stops. SLURM sends SIGUSR1 if asked to, a terminal sends SIGHUP when it is
# closed. Windows has neither.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
_HANG_UP = getattr(signal, "SIGHUP", None)
logger = logging.getLogger("adco")


def heeded() -> list[int]:
    """Return the signals that stop a run: `STOPPING`, but not SIGHUP if it is ignored, as nohup asks for."""
    return [number for number in STOPPING if number != _HANG_UP or signal.getsignal(number) != signal.SIG_IGN]


class WorkerLost(AdcoError):
    """A process that makes batches was killed."""


def start_worker(number: int) -> None:
    """Prepare a worker: it ignores the signals that stop a run, ends with its parent, and keeps shared memory shared.

    These signals reach the whole process group. The training process saves a checkpoint first and then stops its
    workers. Garbage collection would write to each object of the training process, and so copy 120 MB to each worker.
    """
    gc.freeze()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep the signals that stop a run from the processes that start in the block.

    A worker would otherwise be ended by one that comes before `start_worker` has ignored it, and the run with it.
    This process gets them when the block has ended, or at once if another of its threads takes them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Let this process end when its parent has ended, however that was.

    PyTorch's own check takes the process that has forked this one for its parent, which a fork server is not.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def script_not_repeated(given: object) -> Iterator[None]:
    """Start processes, in the block, that do not run the main script again, unless they need what it defines.

    With the start methods of macOS, Windows and Python 3.14, a new process imports the main script. A script that
    trains without `if __name__ == "__main__"` would start itself over in each worker.

    Args:
        given: what the processes get.

    Raises:
        InputError: if it cannot be passed to another process.
    """
    main = sys.modules["__main__"]
    if multiprocessing.get_start_method() == "fork" or _names_main(given):
        yield
        return
    with patch.dict(vars(main)):
        vars(main).update(__spec__=None)
        vars(main).pop("__file__", None)
        yield


def _names_main(given: object) -> bool:
    """Return whether an object, pickled, refers to the main script. Arrays are not copied."""
    try:
        return b"__main__" in pickle.dumps(given, protocol=5, buffer_callback=lambda buffer: None)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the images or augment cannot be passed to loader workers ({error}): define them at the top of a module, "
            "not inside a function, or use workers=0"
        ) from error


def refuse_to_start_over() -> None:
    """End a worker that runs the main script again, with a line that says how to write the script."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as Python itself checks
        logger.error(
            "loader workers import this script, because it defines what they need, and so start it over: "
            'write the calls of adco below `if __name__ == "__main__":`'
        )
        os._exit(1)


def told_in_one_line(error: RuntimeError, go_on: str) -> WorkerLost | None:
    """Return one line for PyTorch's error about a worker that has ended; None for any other error.

    Args:
        error: what PyTorch has raised.
        go_on: what the user does then.
    """
    text = str(error)
    if "DataLoader worker" not in text:
        return None
    if "Bus error" in text:
        what = "/dev/shm is full: give it more space (docker run --shm-size=1g)"
    elif "Killed" in text:
        what = "a loader worker was killed, as when memory is full"
    else:
        what = text.partition(". ")[0]
    return WorkerLost(f"{what}; {go_on}")
