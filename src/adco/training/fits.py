"""Check that the last checkpoint of a run is one of its network and optimizer before anything is trained."""

from typing import Any

import lightning as L

from adco.errors import InputError
from adco.runs.checkpoints import read_checkpoint
from adco.runs.directory import RunDirectory
from adco.untrusted import reading


def check_fits(run: RunDirectory, module: L.LightningModule) -> None:
    """Check the last checkpoint of a run, if there is one: names and shapes of the weights, and the optimizer.

    Args:
        run: the run that is resumed.
        module: what its settings train.

    Raises:
        InputError: the checkpoint is damaged, of another run or method, or the settings were edited.
    """
    if not run.checkpoint.is_file():
        return
    state = read_checkpoint(run.checkpoint)
    edited = f"does not fit {run.config}; was {run.config.name} edited?"
    with reading(run.checkpoint, what="checkpoint", says=edited):
        _compare(f"checkpoint {run.checkpoint} {edited}", state["state_dict"], module.state_dict())
        groups: list[dict[str, Any]] = state["optimizer_states"][0]["param_groups"]
        configured: Any = module.configure_optimizers()
        wanted = configured["optimizer"].state_dict()["param_groups"]
        if list(map(_kind, groups)) != list(map(_kind, wanted)):
            raise InputError(f"checkpoint {run.checkpoint} {edited} It is of another optimizer")


def _kind(group: dict[str, Any]) -> tuple[list[str], int]:
    """Return what tells groups of different optimizers apart: the names of their settings, and their size."""
    return sorted(group), len(group["params"])


def _compare(problem: str, found: Any, wanted: Any) -> None:
    """Raise an InputError that begins with `problem` unless the tensors have the same names and shapes."""
    shapes = [{name: tuple(weight.shape) for name, weight in part.items()} for part in (found, wanted)]
    there, asked = shapes
    for name in sorted(asked.keys() | there.keys()):
        if asked.get(name) != there.get(name):
            both = f"{list(there.get(name, ()))} in the checkpoint, {list(asked.get(name, ()))} with these settings"
            raise InputError(f"{problem} The shape of {name} is {both}")
