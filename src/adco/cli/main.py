"""The `adco` command. Each command has a module of its own, which is imported when the command is used."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from types import FrameType
from typing import Any

from adco.errors import AdcoError, InputError, same_in_all_processes
from adco.launcher import is_first_rank, place

COMMANDS = (
    "pretrain",
    "evaluate",
    "report",
    "probe",
    "finetune",
    "embed",
    "neighbors",
    "duplicates",
    "export",
    "compare",
    "cost",
    "check",
    "demo",
    "recipes",
)
HELP = """\
usage: adco COMMAND [--help] ...
       adco --version

Image representations without labels, by adversarial contrast (AdCo, CVPR 2021).

commands:
  demo       pretrain on CIFAR-10 for three epochs, and show what was learned
  pretrain   pretrain a backbone on your images, into a run directory
  report     write a report on a run as one HTML file
  evaluate   classify labelled images with a frozen backbone: knn, linear or linear_sgd
  probe      classify with 1, 2, 5, ... labels per class, and draw the accuracy
  finetune   train a classifier from a backbone and labelled images
  embed      write the embeddings of images to a file
  neighbors  find the nearest neighbours of images
  duplicates find altered copies among images, or between two folders
  export     write a backbone for timm, transformers, torchvision, ONNX or torch alone
  compare    train the rows of a table alike, several seeds each, and print it
  cost       estimate the hours and memory of a recipe's runs
  check      read all images of a folder, and list the damaged ones
  recipes    list the recipes, or show one

examples, of which those without a run take the newest:
  adco demo
  adco pretrain photos/
  adco pretrain --recipe cifar10_demo --seed 1
  adco pretrain --resume runs/adco-photos-20260101-120000
  adco report
  adco evaluate knn runs/adco-photos-20260101-120000 --data labelled/
  adco evaluate linear --floors
  adco probe --data labelled/
  adco finetune --data labelled/
  adco embed --data photos/ --out photos.parquet
  adco neighbors --data photos/ --query photo.jpg --sheet nearest.jpg
  adco duplicates --data photos/ --out duplicates.csv
  adco export --to onnx
  adco compare cifar10_table5
  adco cost imagenet_table5 --devices 8
"""


OF_ONE_PROCESS = ("report", "neighbors", "duplicates", "cost")  # several would do the same work
CONTINUING = ("check", "compare", "demo", "embed")  # the same command line continues what was stopped
MOST_WORDS = 4000  # characters of an error; a setting that is wrong may be longer


def main() -> None:
    """Run the command. Exit code: 2 for a user's mistake, 128 + the signal's number for a run stopped by a signal."""
    _keep_pages()
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = run(sys.argv[1:])
        if sys.stdout:  # None if it was closed before the start, as by `>&-`
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as in `adco recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + 13  # SIGPIPE, as a shell reports it
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    # Threads that wait in a busy loop take the core from other processes: training beside another busy process was 20
    # times slower that way. Torch's OpenMP reads this variable when it is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MPLBACKEND"] = "agg"  # pictures are files, so that no window system is needed
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        import adco

        print(f"adco {adco.__version__}")
        return 0
    _configure_output()
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise InputError(_unknown_command(name))
        _check_current_directory()
        if place()[1] > 1 and name in OF_ONE_PROCESS:  # place: its error is told before anything is imported
            with same_in_all_processes():
                raise InputError(f"adco {name} works in one process: start it without torchrun or srun")
        command: Callable[[Sequence[str]], int] = getattr(import_module(f"adco.cli.{name}"), name)
        return command(rest)
    except AdcoError as error:
        if is_first_rank() or not error.on_first_rank_only:
            from adco.untrusted import printable

            print(f"adco: {printable(str(error), MOST_WORDS)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # such as a full disk, or a folder without write permission
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"adco: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:  # outside training, which handles both signals itself
        _forget(stopped)
        if is_first_rank():
            continues = "; the same command continues from there" if name in CONTINUING else ""
            print(f"adco: stopped{continues}", file=sys.stderr)
        return stopped.args[0] if stopped.args else 128 + signal.SIGINT


def _check_current_directory() -> None:
    """Raise an InputError if the current directory is gone: torch could not even be imported."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as error:
        raise InputError("the current directory has been deleted: change to another one") from error


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop a command on SIGTERM as on Ctrl-C."""
    raise KeyboardInterrupt(128 + number)


def _forget(stopped: BaseException) -> None:
    """Delete what an interrupt has left half-made, such as a Trainer, whose deletion fails with a traceback."""
    import traceback
    from unittest.mock import patch

    with patch.object(sys, "unraisablehook", lambda failure: None):
        traceback.clear_frames(stopped.__traceback__)


def _unknown_command(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"unknown command {name}: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}")


def _keep_pages() -> None:
    """Let glibc keep freed memory: on a CPU, returning it and faulting it in again can take a fifth of a step."""
    if sys.platform == "linux":
        import ctypes

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: free memory at the end of the heap is kept
            mallopt(-4, 0)  # M_MMAP_MAX: all memory is in the heap


def _configure_output() -> None:
    """Print on stderr what the package logs, and warnings; all but a run's progress with the prefix `adco: `.

    Names of files that are not UTF-8 are printed as on stderr, with the numbers of such bytes.
    """
    import io
    import logging
    import warnings

    from adco.quiet import StderrHandler

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

    for name, layout in {"adco": "adco: %(message)s", "adco.progress": "%(message)s"}.items():
        logger = logging.getLogger(name)
        if not logger.handlers:
            handler = StderrHandler()
            handler.setFormatter(logging.Formatter(layout))
            handler.setLevel(logging.NOTSET if is_first_rank() else logging.ERROR)  # of several processes, one tells
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where the home directory cannot be written
    warnings.filterwarnings("ignore", module="lightning")
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if is_first_rank():
        _print_warning(str(message))


@cache  # each only once: measuring the cost resolves the settings again, with the same warnings
def _print_warning(text: str) -> None:
    print(f"adco: warning: {text}", file=sys.stderr)
