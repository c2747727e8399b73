"""The command in a process of its own, with the images of the tests and without curves.

ADCO_TEST_SIGNAL="RANK,STEP,NUMBER" sends a rank a signal at a step, 0 being before the first, unless torchrun has
started it again.
ADCO_TEST_LIMIT is the seconds after which a batch is taken for hanging.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parent))
Result = TypeVar("Result")


def main() -> None:
    """Run the command of `sys.argv`."""
    import tiny  # noqa: F401
    from adco.cli.main import main as command
    from adco.training import hanging, monitor, saving

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


def forkserver() -> ForkServerContext:
    """Processes that start in a moment, because they have everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
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
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv[1:] = arguments
    main()


def descendants(pid: int) -> list[int]:
    """Process numbers of the children and of theirs, where /proc tells them."""
    children = [int(n) for task in Path(f"/proc/{pid}/task").glob("*/children") for n in task.read_text().split()]
    return [*children, *(number for child in children for number in descendants(child))]


if __name__ == "__main__":
    main()
