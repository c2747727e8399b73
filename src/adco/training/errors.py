"""The ways in which a run ends before its last step."""

from shlex import quote

from adco.errors import AdcoError
from adco.runs.directory import RunDirectory


class NotFiniteError(AdcoError):
    """A loss or a weight is NaN or infinite. `losses` has the losses of the step."""

    def __init__(self, step: int, losses: dict[str, float]) -> None:
        self.losses = losses
        super().__init__(
            f"the loss is {losses}, or a weight is not finite, at step {step}: try a lower learning_rate or precision "
            "32-true; the last good checkpoint, if there was one, is kept"
        )


class CollapsedError(AdcoError):
    """The embeddings have collapsed to nearly one point and have stayed collapsed."""


class NotWrittenError(AdcoError):
    """A file of the run could not be written: the file system is full or read-only, or the run directory is gone."""


class NotEnoughMemoryError(AdcoError):
    """The memory of a GPU is full."""


class Interrupted(AdcoError):
    """A signal stopped the run. It can be resumed by its command.

    `not_saved` is the reason if its state was not saved.
    """

    on_first_rank_only = True

    def __init__(
        self, signal_number: int, run: RunDirectory, not_saved: str | None = None, command: str = "pretrain"
    ) -> None:
        self.done = f"stopped; {not_saved}" if not_saved else "stopped and saved"
        super().__init__(f"{self.done}; continue with: adco {command} --resume {quote(str(run.path))}")
        self.exit_code = 128 + signal_number  # as a shell reports it
