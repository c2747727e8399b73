"""The devices of this machine: which there are, how many processes train on them, and in which precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from adco.errors import InputError
from adco.launcher import is_started_by_launcher, layout, local_rank, place, processes_here
from adco.processor import multiplies_bf16
from adco.quiet import quiet_lightning
from adco.words import counted


def placement(devices: int | str, num_nodes: int | str = "auto") -> tuple[int | str, int]:
    """Return the devices of a node and the number of nodes: as a launcher has started processes, else as given.

    Args:
        devices: auto, or a number or choice of devices of each node.
        num_nodes: auto, or the number of machines.

    Raises:
        InputError: if the settings say something else than the launcher or an earlier call of this program, or there
            are several nodes without a launcher.
    """
    found = layout()
    if found is None:
        nodes = 1 if num_nodes == "auto" else int(num_nodes)
        if nodes > 1 and not is_started_by_launcher():
            raise InputError(f"num_nodes {nodes} needs a launcher: start the command by torchrun or srun on each node")
        started = processes_here()  # by an earlier call of this program, and they go on with it
        if started > 1 and str(devices).isdecimal() and int(devices) != started:
            raise InputError(
                f"devices {devices} does not fit this program, which has started {started} processes before"
            )
        return devices, nodes
    for setting, value, started in (("devices", devices, found.per_node), ("num_nodes", num_nodes, found.nodes)):
        if str(value).isdecimal() and int(value) != started:
            what = "processes on each node" if setting == "devices" else "nodes"
            raise InputError(
                f"{setting} {value} does not fit {found.launcher}, which has started {started} {what}: "
                f"leave --{setting} out"
            )
    chosen = devices if isinstance(devices, str) and "," in devices else found.per_node
    return chosen, found.nodes


def check_cores(accelerator: str, devices: int | str) -> None:
    """Raise an InputError if more processes would be started on a CPU than it has cores."""
    is_cpu = training_device(accelerator).type == "cpu"
    if is_cpu and layout() is None and str(devices).isdecimal() and int(devices) > cores():
        raise InputError(f"devices {devices} is more than the {counted(cores(), 'core')} of this machine")


def count_processes(accelerator: str, devices: int | str, num_nodes: int | str = "auto") -> int:
    """Return how many processes will train: as a launcher says, else as Lightning counts the devices.

    Raises:
        InputError: as `placement`, or if such devices are not available.
    """
    devices, nodes = placement(devices, num_nodes)
    if is_started_by_launcher():
        return place()[1]
    with (
        one_line_if_missing(f"accelerator {accelerator} with devices {devices} is not available here"),
        quiet_lightning(),
    ):
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
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


def training_device(accelerator: str, devices: int | str = "auto") -> torch.device:
    """Return the device on which this process will train.

    Args:
        accelerator: Lightning's name.
        devices: as given; a text with commas has the numbers of the GPUs, such as "1," or "0,2".
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        numbers = str(devices).split(",") if "," in str(devices) else []
        return torch.device("cuda", int(numbers[local_rank()])) if numbers else torch.device("cuda")
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def evaluation_processes(device: str | None, devices: int | str) -> int:
    """Return how many processes share an evaluation.

    Args:
        device: as for `evaluation_device`.
        devices: auto, or the number of processes on this machine; those of a launcher take the place of 1, the default.

    Raises:
        InputError: as `count_processes`, or if `device` is a single one and there are several processes.
    """
    if devices == 1 and not layout():
        return 1
    accelerator = (device or training_device("auto").type).split(":")[0]
    check_cores(accelerator, devices)
    processes = count_processes(accelerator, "auto" if devices == 1 else devices)
    if processes > 1 and device and ":" in device:
        raise InputError(
            f"device {device} is one device for {processes} processes: leave --device out, or give --devices 1"
        )
    return processes


def evaluation_device(device: str | None) -> str:
    """Return the device to evaluate on: the one given, else the GPU of this process where there is one.

    Raises:
        InputError: if that device is not available.
    """
    device = device or training_device("auto").type
    if device == "cuda":
        device = f"cuda:{local_rank()}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device} is not available: {str(error).splitlines()[0]}") from error
    return device


def devices_of(device: torch.device, processes: int) -> int | str:
    """Return for Lightning the devices of a node: those of a launcher, else the one given, else one per process.

    Args:
        device: of this process.
        processes: that work together.
    """
    if processes > 1:
        return "auto" if layout() else processes
    return f"{device.index}," if device.type == "cuda" else 1  # the text "1," is GPU 1; the number is any one device


def slurm_environment() -> list[SLURMEnvironment]:
    """Return for Lightning's Trainer what it needs to know of SLURM; nothing if SLURM has not started this process.

    On SIGUSR1, Lightning's own would write a checkpoint beside the package's, and put the job into the queue again.
    """
    started = layout()
    return [SLURMEnvironment(auto_requeue=False)] if started and started.launcher == "SLURM" else []


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
    return "bf16-mixed" if multiplies_bf16() else "32-true"


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
