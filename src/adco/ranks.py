"""The processes that work together: they are started here unless a launcher has, connected, and end together.

A further process runs the command line of the first again, and finds its rank in the environment, as under torchrun.
"""

import atexit
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from textwrap import shorten
from typing import TypeVar, cast
from uuid import uuid4

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from adco.devices import training_device
from adco.distributed import gather_objects
from adco.errors import AdcoError, InputError
from adco.launcher import announce_launch, is_started_by_launcher, parent_of_launch, place

SETUP = timedelta(hours=3)  # the longest wait for another process: one may list a large folder while the others wait
GRACE = 10.0  # seconds that a process has to report by itself that another has ended
_CLOSED = ("closed by peer", "onnection reset", "Broken pipe")  # words of errors when another process has ended
_LOST = (*_CLOSED, "gloo", "NCCL", "Timed out", "timed out")
_others: list["subprocess.Popen[bytes]"] = []  # the further processes, in the one that has started them
logger = logging.getLogger("adco")
Decision = TypeVar("Decision")
Item = TypeVar("Item")


class ProcessLost(AdcoError):
    """Another process of the run was killed, or has ended with an error."""


class Group:
    """The processes of a run, as one of them sees it.

    Attributes:
        rank: the number of this process; the first has 0.
        size: how many there are.
        go_on: what a user does if the run ends early.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.go_on = "start the command again"  # until there is a run

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items that this process works on: of two processes, every second one."""
        return items[self.rank :: self.size]

    def in_order(self, results: Iterable[Item]) -> Iterator[Item]:
        """Yield, in the first process, the results of all processes in the order of the items; in the others, nothing.

        All processes call it and go through it. A process has one of its results at a time, and passes it on before it
        computes the next; the first process has one of each.

        Args:
            results: those of the items of `share`, in their order; None is no result.

        Raises:
            AdcoError: as the results of any process raise; in all processes, of which the first tells it.
        """
        if self.size == 1:
            yield from results
            return
        mine, ended = iter(results), False
        while not ended:
            result, error = None, None
            try:
                result = next(mine, None)
            except AdcoError as failure:
                error = failure
            states = gather_objects((result is None, error))
            for _, found in states:
                if found:
                    found.on_first_rank_only = True
                    raise found
            ended = all(has_ended for has_ended, _ in states)
            of_all: list[Item | None] | None = [None] * self.size if self.rank == 0 else None
            dist.gather_object(result, of_all)
            yield from (each for each in of_all or [] if each is not None)

    def gather(self, part: Item) -> list[Item]:
        """Return in all processes what each of them passed, in the order of the processes."""
        return [part] if self.size == 1 else gather_objects(part)

    def decided_by_first(self, decide: Callable[[], Decision]) -> Decision:
        """Return in all processes what `decide` returns in the first, as the function of this name does."""
        return decide() if self.size == 1 else decided_by_first(decide)

    def lost(self, what: str) -> str:
        """Return the line that tells why this process ends."""
        rank, size = place()
        return f"process {rank} of {size} ends: {what}; {self.go_on}"

    def end(self, what: str) -> None:
        """End this process with a line, from any of its threads."""
        logger.error(self.lost(what))
        _kill_others()
        os._exit(1)


ALONE = Group()  # of a process that works by itself


@contextmanager
def together(processes: int, accelerator: str) -> Iterator[Group]:
    """Run the block in so many processes, which are connected.

    The processes are started by the first call and stay until the program ends: all of them run what follows.

    Args:
        processes: of all nodes together; with 1, nothing happens.
        accelerator: auto, cpu, gpu or mps.

    Raises:
        InputError: if this program cannot be started again.
        ProcessLost: if the connection to another process is lost.
    """
    if processes == 1:
        yield Group()
        return
    if not is_started_by_launcher():
        _start_others(processes)
    group, done = Group(*place()), threading.Event()
    threading.Thread(target=_watch, args=(group, done), name="adco-ranks", daemon=True).start()
    try:
        _connect(accelerator)
        yield group
    except RuntimeError as error:
        if not is_lost(error):
            raise
        what, reason = "another process was killed or has failed", " ".join(str(error).split())
        told = what if any(word in reason for word in _CLOSED) else f"{what} ({shorten(reason, 200)})"
        raise ProcessLost(group.lost(told)) from error
    finally:
        done.set()


def decided_by_first(decide: Callable[[], Decision]) -> Decision:
    """Return in all processes what `decide` returns in the first, the only one that calls it.

    Raises:
        InputError: as `decide` raises; in all processes, of which the first tells it.
    """
    if not dist.is_initialized():
        return decide()
    found: list[Decision | InputError | None] = [None]
    if dist.get_rank() == 0:
        try:
            found = [decide()]
        except InputError as error:
            found = [error]
    dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], InputError):
        found[0].on_first_rank_only = True
        raise found[0]
    return cast(Decision, found[0])


def is_lost(error: BaseException) -> bool:
    """Return whether an error of torch says that another process does not answer."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)


def _connect(accelerator: str) -> None:
    """Connect the processes before Lightning does, because the first one has the name of the run to tell."""
    if dist.is_initialized():
        return
    rank, size = place()
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment()
        os.environ.update(MASTER_ADDR=slurm.main_address, MASTER_PORT=str(slurm.main_port))
    # The backend for the CPU carries objects, such as names, also where NCCL carries gradients.
    backend = "cpu:gloo,cuda:nccl" if training_device(accelerator).type == "cuda" else "gloo"
    store = fresh_store(next(rendezvous("env://", rank, size, timeout=SETUP))[0], rank, size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=SETUP)
    atexit.register(_disconnect)


def _disconnect() -> None:
    """End the threads of the connection before the program ends, which they would abort."""
    if dist.is_initialized():
        dist.destroy_process_group()


def fresh_store(store: Store, rank: int, size: int) -> Store:
    """Return a part of a store that only the present processes use.

    torchrun (torch 2.14) starts processes again with the store that they had before. It still has the addresses of the
    ended processes, to which the new ones would try to connect for ever. The first process chooses a new name, and
    tells it to those that answer to this name, each with a number that no earlier process had.
    """
    me = uuid4().hex
    if rank == 0:
        store.set("adco/name", me)
        answers = [store.get(f"adco/{me}/{other}").decode() for other in range(1, size)]
        store.set(f"adco/{me}/all", " ".join(answers))
        return PrefixStore(me, store)
    end = time.monotonic() + SETUP.total_seconds()
    while time.monotonic() < end:
        name = store.get("adco/name").decode()  # perhaps that of an ended process
        store.set(f"adco/{name}/{rank}", me)
        if store.check([f"adco/{name}/all"]) and me in store.get(f"adco/{name}/all").decode().split():
            return PrefixStore(name, store)
        time.sleep(0.1)
    raise dist.DistStoreError("the first process has not answered")


def _start_others(processes: int) -> None:
    """Start the further processes of this machine."""
    command = [sys.executable, *sys.orig_argv[1:]]
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules or command[1:] in ([], ["-"]):
        raise InputError(
            f"devices {processes} starts this program again for each device, which needs a file: "
            "use devices=1 here, or the adco command, or a script"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    announce_launch()
    size = str(processes)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    os.environ.update(RANK="0", LOCAL_RANK="0", NODE_RANK="0")
    for rank in range(1, processes):
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        _others.append(subprocess.Popen(command, env=environment))
    atexit.register(_end_others)


def _end_others() -> None:
    """Wait for the further processes, which end when this one does, and kill those that do not."""
    for process in _others:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    _kill_others()


def _kill_others() -> None:
    for process in _others:
        with suppress(ProcessLookupError):
            process.kill()


def _watch(group: Group, done: threading.Event) -> None:
    """End this process if another has ended and this one does not notice, as when it waits for a GPU."""
    first = parent_of_launch()
    while not done.wait(0.5):
        failed = [process.returncode for process in _others if process.poll()]
        if failed:
            what = (
                f"another process was ended by signal {-failed[0]}" if failed[0] < 0 else "another process has failed"
            )
        elif first and first not in (os.getpid(), os.getppid()):
            what = "the first process has ended"
        else:
            continue
        if not done.wait(GRACE):
            group.end(what)
