"""The beginning of a run: its directory, and what becomes of it if the run fails at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adco.launcher import is_first_rank
from adco.ranks import decided_by_first, is_lost
from adco.runs.directory import RunDirectory
from adco.runs.restart import name_of_next_run, run_begun_before
from adco.training.errors import Interrupted


def begin_run(
    out: str | None, name: str, write: Callable[[RunDirectory, dict[str, str]], None]
) -> tuple[RunDirectory, bool]:
    """Return the directory of the run, and whether it is new: torchrun may have started the processes again.

    The first process decides, and the others are told.

    Args:
        out: the run directory, if it was given.
        name: begins the name of the directory otherwise.
        write: writes the first files of a new run, config.yaml last; it also gets facts for environment.json.

    Raises:
        InputError: if the directory is not empty, or cannot be created.
    """

    def decide() -> tuple[RunDirectory, bool]:
        launch = name_of_next_run()
        if begun := run_begun_before(launch, out):
            return begun, False
        facts = {} if launch is None else {"launch": launch}

        def write_first(run: RunDirectory) -> None:
            write(run, facts)

        if out:
            return RunDirectory.create(Path(out), write_first), True
        return RunDirectory.create_named(name, write_first), True

    return decided_by_first(decide)


@contextmanager
def new_run(run: RunDirectory) -> Iterator[None]:
    """Lock a new run for the block. If the block fails before there is anything to keep, the directory is deleted."""
    try:
        with run.locked():
            yield
    except Interrupted:
        raise
    except Exception as error:
        if is_first_rank() and not is_lost(error):
            run.discard_if_empty()
        raise
