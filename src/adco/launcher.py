"""What a launcher (torchrun, SLURM, Lightning) has told this process."""

import os

RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")  # the first rank has 0 in all of them
_LAUNCH = "ADCO_LAUNCH"  # environment variable that the processes started by Lightning inherit


def is_first_rank() -> bool:
    """Return True on global rank 0. Works before torch.distributed is initialised."""
    return all(int(os.environ.get(name, "0")) == 0 for name in RANKS)


def announce_launch() -> None:
    """Tell the processes that Lightning will start that they belong to this one."""
    if not _is_started_by_launcher():
        os.environ.setdefault(_LAUNCH, str(os.getpid()))


def forget_launch() -> None:
    """Undo `announce_launch`, so that processes started later do not belong to this launch."""
    if os.environ.get(_LAUNCH) == str(os.getpid()):
        del os.environ[_LAUNCH]


def launch() -> str | None:
    """Return a text that is the same in all processes of a run on this node; None if this process trains alone.

    Works before torch.distributed is initialised. The processes of torchrun and SLURM have the same parent, which may
    start them a second time if one fails.
    """
    if announced := os.environ.get(_LAUNCH):
        return announced
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"{os.getppid()}-{restart}" if _is_started_by_launcher() else None


def _is_started_by_launcher() -> bool:
    return bool({"LOCAL_RANK", "SLURM_LOCALID"} & os.environ.keys())
