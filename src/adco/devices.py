"""The devices of this machine: which there are, how many processes train on them, and in which precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import lightning as L
import torch

from adco.errors import InputError
from adco.quiet import quiet_lightning


def count_processes(accelerator: str, devices: int | str, num_nodes: int) -> int:
    """Return how many processes will train: as torchrun says, else as Lightning counts the devices.

    Raises:
        InputError: if such devices are not available.
    """
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    with (
        one_line_if_missing(f"accelerator {accelerator} with devices {devices} is not available here"),
        quiet_lightning(),
    ):
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
    return int(trainer.world_size)


@contextmanager
def one_line_if_missing(problem: str) -> Iterator[None]:
    """Raise an InputError, `problem` with Lightning's reason, if a Trainer made inside finds no such devices."""
    try:
        yield
    except Exception as error:  # Lightning has a different exception for each kind of mismatch
        raise InputError(f"{problem}: {' '.join(str(error).split())}") from error


def training_device(accelerator: str) -> torch.device:
    """Return the device on which this process will train."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def evaluation_device(device: str | None) -> str:
    """Return the device to evaluate on: the one given, else the GPU of this process where there is one.

    Raises:
        InputError: if that device is not available.
    """
    if device is None:
        found = training_device("auto").type
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if found == "cuda" else found
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device} is not available: {str(error).splitlines()[0]}") from error
    return device


def can_sync_batch_norm(accelerator: str) -> bool:
    """Return whether BatchNorm can use the statistics of several devices, which torch supports on GPUs only."""
    return accelerator != "cpu" and torch.cuda.is_available()


def best_precision(accelerator: str) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    """Return bf16 where the hardware multiplies it: a CPU without such instructions is half as fast in bf16."""
    device = training_device(accelerator)
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if device.type == "mps":
        return "32-true"
    supported = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return "bf16-mixed" if any(ask() for ask in supported if ask) else "32-true"


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
