"""Lightning's Trainer of a fine-tuning, and its devices."""

import lightning as L
import torch

from adco.devices import devices_of, evaluation_device, evaluation_processes, one_line_if_missing, placement
from adco.errors import InputError
from adco.finetuning.settings import Resolved
from adco.runs.directory import RunDirectory
from adco.training import trainer as shared


def make_trainer(settings: Resolved, run: RunDirectory, callbacks: list[L.Callback], processes: int) -> L.Trainer:
    """Return the Trainer of a run.

    Raises:
        InputError: if there are no such devices.
    """
    accelerator = accelerator_of(settings)
    devices = devices_of(torch.device(evaluation_device(settings.device)), processes)
    with one_line_if_missing(f"devices {devices} are not available on {accelerator}"):
        return shared.make_trainer(
            run,
            callbacks,
            accelerator=accelerator,
            devices=devices,
            precision=settings.precision,
            epochs=settings.epochs,
        )


def accelerator_of(settings: Resolved) -> str:
    """Return Lightning's name of the device."""
    device = torch.device(evaluation_device(settings.device)).type
    return {"cuda": "gpu"}.get(device, device)


def checked_processes(settings: Resolved) -> int:
    """Return the number of processes.

    Raises:
        InputError: if a batch cannot be divided between them, or as `placement` and `evaluation_processes`.
    """
    placement(settings.devices)
    processes = evaluation_processes(settings.device, settings.devices)
    if settings.batch_size % processes:
        raise InputError(f"batch_size {settings.batch_size} must be a multiple of devices, here {processes}")
    return processes
