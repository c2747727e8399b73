"""A function called in a process of its own, for measurements that nothing before them may change."""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

from adco.data.workers import STOPPING, WorkerLost, end_with_parent, signals_held

LESS_MEMORY = "raise accumulate or the number of devices, or lower batch_size, image_size or workers"
PATIENCE = 15.0  # seconds in which a subprocess clears up before it is killed
Found = TypeVar("Found")


def in_a_process(function: Callable[..., Found], *arguments: Any) -> Found:
    """Call a function in a subprocess, which logs and warns of nothing but errors, and ends with this process.

    Raises:
        WorkerLost: the subprocess was killed.
        Exception: the function raised it.
    """
    context = multiprocessing.get_context("spawn")  # processes of a multiprocessing Pool could not start loader workers
    with ProcessPoolExecutor(1, context, initializer=_start) as executor:
        try:
            with signals_held():
                number = executor.submit(os.getpid)
                found = executor.submit(_call, function, *arguments)
            return found.result()
        except KeyboardInterrupt:  # leaving the outer block waits for the subprocess
            with suppress(BrokenProcessPool, ProcessLookupError):
                os.kill(number.result(), signal.SIGTERM)
                wait([found], PATIENCE)
                if not found.done():
                    os.kill(number.result(), signal.SIGKILL)
            raise
        except (BrokenProcessPool, SystemExit) as error:
            raise WorkerLost(f"the process that measures was killed, as when memory is full: {LESS_MEMORY}") from error


def _start() -> None:
    """Prepare the subprocess: Ctrl-C, which reaches it, too, is left to its parent, which then sends SIGTERM."""
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    # Until `_call`, there is nothing to clear up, and the modules that are imported may catch a SystemExit.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # `signals_held` had blocked them
    end_with_parent()


def _call(function: Callable[..., Found], *arguments: Any) -> Found:
    """Call the function, and end the loader workers that an error has left: leaving the process would wait for them."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        return function(*arguments)
    except BaseException as error:
        reason: BaseException | None = error
        while reason:  # the frames of an error keep the loader, which ends its workers when it is deleted
            traceback.clear_frames(reason.__traceback__)
            reason = reason.__context__
        gc.collect()
        raise
    finally:
        for worker in multiprocessing.active_children():  # of a loader that was not complete
            worker.kill()


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the clearing up
    sys.unraisablehook = lambda failure: None  # the deletion of a loader that was not complete fails
    raise SystemExit(128 + number)
