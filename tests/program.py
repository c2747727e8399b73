"""The command in a process of its own, with the images of the tests and without curves.

ADCO_TEST_SIGNAL="RANK,STEP,NUMBER" sends a rank a signal at a step, 0 being before the first, unless torchrun has
started it again.
ADCO_TEST_LIMIT is the seconds after which a batch is taken for hanging.
ADCO_TEST_READS="FILE" appends the name of each image that rank R decodes to FILE-R.
ADCO_TEST_READ="RANK,NAME,NUMBER" sends a rank a signal when it reads the image of this name. With NUMBER 0 it writes a
file `reached` and waits for a file `go`.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parent))
Result = TypeVar("Result")


def main() -> None:
    """Run the command of `sys.argv`."""
    import tiny  # noqa: F401
    from adco.cli.main import main as command
    from adco.data.sources import decode
    from adco.training import hanging, monitor, saving

    if {"ADCO_TEST_READS", "ADCO_TEST_READ"} & os.environ.keys():
        vars(decode)["read_rgb"] = partial(read, decode.read_rgb)
    vars(saving)["plot_curves"] = lambda records, path: None
    hanging.LIMIT = float(os.environ.get("ADCO_TEST_LIMIT", hanging.LIMIT))
    if os.environ.get("ADCO_TEST_SIGNAL") and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        victim, step, number = map(int, os.environ["ADCO_TEST_SIGNAL"].split(","))
        receive = saving.StopOnSignal.on_train_batch_end

        begin = monitor.Monitor.on_train_start

        def at_start(self: Any, trainer: Any, module: Any) -> None:
            if (trainer.global_rank, step) == (victim, 0):
                os.kill(os.getpid(), number)
            begin(self, trainer, module)

        setattr(monitor.Monitor, begin.__name__, at_start)

        def hook(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if (trainer.global_rank, trainer.global_step) == (victim, step):
                os.kill(os.getpid(), number)
            receive(self, trainer, module, outputs, batch, index)

        setattr(saving.StopOnSignal, receive.__name__, hook)
    command()


def read(decode: Callable[[Path], Any], path: Path) -> Any:
    """Decode an image, and do what the variables say."""
    rank = os.environ.get("RANK", "0")
    if reads := os.environ.get("ADCO_TEST_READS"):
        with Path(f"{reads}-{rank}").open("a") as file:
            file.write(f"{path}\n")
    victim, name, number = os.environ.get("ADCO_TEST_READ", ",,0").split(",")
    if (victim, name) == (rank, path.name):
        if int(number):
            os.kill(os.getpid(), int(number))
        Path("reached").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    return decode(path)


def forkserver() -> ForkServerContext:
    """Processes that start in a moment, because they have everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    ensure_running()  # here, because its processes inherit the signals that are blocked when it starts
    return context


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a process of its own, in which further processes start as in any other.

    Raises:
        concurrent.futures.process.BrokenProcessPool: the process crashed.
    """
    with ProcessPoolExecutor(1, forkserver(), multiprocessing.set_start_method, (None, True)) as pool:
        return pool.submit(function, *arguments).result()


def serve(arguments: list[str], environment: dict[str, str], said: str) -> None:
    """Be a process with these arguments and variables, whose output goes to a file."""
    multiprocessing.set_start_method(None, force=True)  # loader workers start as in any other process
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv[1:] = arguments
    main()


class Started:
    """What `subprocess.Popen` is for the command, but it starts in a moment. Its output is not kept."""

    def __init__(self, command: Sequence[str], start_new_session: bool) -> None:
        assert command[:3] == [sys.executable, "-m", "adco"], command
        assert start_new_session
        self.process = forkserver().Process(target=serve, args=(command[3:], dict(os.environ), os.devnull))
        self.process.start()

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(nodes: int, per_node: int, **more: str) -> list[dict[str, str]]:
    """The variables that torchrun sets, for each process."""
    port, size = str(free_port()), str(nodes * per_node)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": size}
    shared |= {"GROUP_WORLD_SIZE": str(nodes), "LOCAL_WORLD_SIZE": str(per_node)} | more
    return [
        {**shared, "RANK": str(node * per_node + local), "LOCAL_RANK": str(local), "GROUP_RANK": str(node)}
        for node in range(nodes)
        for local in range(per_node)
    ]


def start(
    folder: Path, environments: Sequence[dict[str, str]], *arguments: str, said: str = "said"
) -> list[BaseProcess]:
    """Start the command once in each environment, all in a folder, where `said` finds their output."""
    context, processes, here = forkserver(), list[BaseProcess](), Path.cwd()
    os.chdir(folder)
    for rank, environment in enumerate(environments):
        out = str(folder / f"{said}-{rank}")
        processes.append(context.Process(target=serve, args=(list(arguments), environment, out)))
        processes[-1].start()
    os.chdir(here)
    return processes


def end(processes: Sequence[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Wait for processes and return their exit codes; those that hang are killed."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def said(folder: Path, rank: int, name: str = "said") -> list[str]:
    return (folder / f"{name}-{rank}").read_text().splitlines()


def descendants(pid: int) -> list[int]:
    """Process numbers of the children and of theirs, where /proc tells them."""
    children = [int(n) for task in Path(f"/proc/{pid}/task").glob("*/children") for n in task.read_text().split()]
    return [*children, *(number for child in children for number in descendants(child))]


if __name__ == "__main__":
    main()
