"""What a launcher (torchrun, SLURM, or the first process of `--devices`) has told this process."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from adco.errors import InputError

RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")  # the first rank has 0 in all of them
INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs in which srun has not started this process
_LAUNCH = "ADCO_LAUNCH"  # environment variable that the processes started by this package inherit


class Layout(NamedTuple):
    """How many processes a launcher has started."""

    launcher: str
    nodes: int
    per_node: int


def is_first_rank() -> bool:
    """Return True on global rank 0, and where one process trains alone. torch.distributed need not be initialised."""
    try:
        return place()[1] == 1 or all(_number(name, 0) == 0 for name in RANKS)
    except InputError:  # which every process tells
        return True


def layout() -> Layout | None:
    """Return how many processes a launcher has started, as its environment variables tell; None if there is none.

    Raises:
        InputError: if they are not the same number on each node.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _equal("torchrun", _number("GROUP_WORLD_SIZE"), _number("LOCAL_WORLD_SIZE"), _number("WORLD_SIZE"))
    if _is_started_by_srun():
        tasks, nodes = _number("SLURM_NTASKS"), _number("SLURM_NNODES")
        if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise InputError(f"SLURM has started {tasks} tasks: give --ntasks-per-node instead of --ntasks")
        return _equal("SLURM", nodes, _number("SLURM_NTASKS_PER_NODE"), tasks)
    return None


def place() -> tuple[int, int]:
    """Return the rank of this process and the number of all, as the launcher says; (0, 1) without a launcher.

    Raises:
        InputError: if an environment variable of a launcher is no number.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and _is_started_by_srun():
        return _number("SLURM_PROCID", 0), _number("SLURM_NTASKS")
    # Lightning deletes WORLD_SIZE after a run of processes that no launcher has started.
    return _number("RANK", 0), _number("WORLD_SIZE", _number("LOCAL_WORLD_SIZE"))


def local_rank() -> int:
    """Return the number of this process among those of its node, which is that of its GPU; 0 without a launcher.

    Raises:
        InputError: if an environment variable of a launcher is no number.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and _is_started_by_srun():
        return _number("SLURM_LOCALID", 0)
    return _number("LOCAL_RANK", 0)


def processes_here() -> int:
    """Return the number of processes of this launch on this node."""
    return _number("LOCAL_WORLD_SIZE", _number("SLURM_NTASKS_PER_NODE"))


def is_started_by_launcher() -> bool:
    """Return whether another process has started this one as one of several.

    SLURM_LOCALID alone does not say so: it is also set in a shell that srun has started, and in a job's script.
    """
    return "LOCAL_RANK" in os.environ or _is_started_by_srun()


def announce_launch() -> None:
    """Tell the processes that this one will start that they belong to it."""
    if not is_started_by_launcher():
        os.environ.setdefault(_LAUNCH, str(os.getpid()))


def forget_launch() -> None:
    """Undo `announce_launch`, so that processes started later do not belong to this launch."""
    if os.environ.get(_LAUNCH) == str(os.getpid()):
        del os.environ[_LAUNCH]


def parent_of_launch() -> int | None:
    """Return the process that has started the others of this launch; None if a launcher did."""
    announced = os.environ.get(_LAUNCH)
    return int(announced) if announced else None


def launch() -> str | None:
    """Return a text that is the same in all processes of a run on this node; None if this process trains alone.

    Works before torch.distributed is initialised. The processes of torchrun and SLURM have the same parent, which may
    start them a second time if one fails.
    """
    if announced := os.environ.get(_LAUNCH):
        return announced
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"{os.getppid()}-{restart}" if is_started_by_launcher() else None


def agent() -> str | None:
    """Return a text that names torchrun's process on this node; None without torchrun.

    It is the same when torchrun starts its processes again after one has failed. The count of restarts is not asked
    for: where several nodes start again, it may be 0 on those whose processes were only told to stop.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    parent, began = os.getppid(), ""
    with suppress(OSError):  # no /proc: the number alone, which a later process may get again
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.environ['TORCHELASTIC_RUN_ID']}-{socket.gethostname()}-{parent}-{began}"


def _is_started_by_srun() -> bool:
    """Return whether Lightning takes this process for one of srun's: by the name of the job, as Lightning does."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def _equal(launcher: str, nodes: int, per_node: int, processes: int) -> Layout:
    if nodes * per_node != processes:
        raise InputError(
            f"{launcher} has started {processes} processes on {nodes} nodes, {per_node} of them on this one: "
            "start the same number on each"
        )
    return Layout(launcher, nodes, per_node)


def _number(name: str, default: int = 1) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"the environment variable {name} is {text!r}, which is no number: unset it") from error
