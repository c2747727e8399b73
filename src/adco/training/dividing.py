"""The banks of negatives in a run of several ranks: divided among them for training, whole in checkpoints.

A checkpoint is therefore the same for any number of ranks.
"""

from typing import Any

import torch
from torch import Tensor

from adco.methods.method import Method
from adco.shards import Rows


def divide(bank: Rows, optimizer: torch.optim.Optimizer) -> None:
    """Keep only this rank's rows of a bank and of the optimizer's averages for it, which are those of a checkpoint."""
    whole = bank.weight.shape
    bank.divide()
    state = optimizer.state.get(bank.weight, {})
    for name, average in state.items():
        if isinstance(average, Tensor) and average.shape == whole:
            state[name] = average[bank.shards.own].clone()


def join(bank: Rows, method: Method, optimizer: torch.optim.Optimizer, checkpoint: dict[str, Any]) -> None:
    """Replace this rank's rows of a bank in a checkpoint by those of all ranks, which must all call this.

    Args:
        bank: a part of the method.
        method, optimizer: of the run.
        checkpoint: as Lightning is about to write it.
    """
    names = {parameter: name for name, parameter in method.named_parameters()}
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    weights[names[bank.weight]] = bank.of_all_ranks()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {parameter: number for number, parameter in enumerate(parameters)}
    states: dict[int, dict[str, Any]] = checkpoint["optimizer_states"][0]["state"]
    if (number := numbers.get(bank.weight)) in states:
        states[number] = {  # a new one: the old one is the optimizer's own
            name: bank.shards.join(value) if isinstance(value, Tensor) and value.shape == bank.weight.shape else value
            for name, value in states[number].items()
        }
