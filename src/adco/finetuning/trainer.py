"""Lightning's Trainer of a fine-tuning, and its devices."""

import lightning as L
import torch

from adco.devices import check_cores, count_processes, evaluation_device, one_line_if_missing
from adco.errors import InputError
from adco.finetuning.settings import Resolved
from adco.runs.directory import RunDirectory
from adco.training import trainer as shared


def make_trainer(settings: Resolved, run: RunDirectory, callbacks: list[L.Callback]) -> L.Trainer:
    """Return the Trainer of a run.

    Raises:
        InputError: if there are no such devices.
    """
    accelerator = accelerator_of(settings)
    with one_line_if_missing(f"devices {settings.devices} are not available on {accelerator}"):
        return shared.make_trainer(
            run,
            callbacks,
            accelerator=accelerator,
            devices=settings.devices,
            precision=settings.precision,
            epochs=settings.epochs,
        )


def accelerator_of(settings: Resolved) -> str:
    """Return Lightning's name of the device."""
    device = torch.device(evaluation_device(settings.device)).type
    return {"cuda": "gpu"}.get(device, device)


def checked_processes(settings: Resolved) -> int:
    """Return the number of processes. Raise InputError unless a batch can be divided between them."""
    accelerator = accelerator_of(settings)
    check_cores(accelerator, settings.devices)
    processes = count_processes(accelerator, settings.devices)
    if settings.batch_size % processes:
        raise InputError(f"batch_size {settings.batch_size} must be a multiple of devices, here {processes}")
    return processes
