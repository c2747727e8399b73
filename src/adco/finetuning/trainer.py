"""Lightning's Trainer of a fine-tuning, and its devices."""

import lightning as L
import torch

from adco.devices import (
    can_sync_batch_norm,
    check_cores,
    count_processes,
    evaluation_device,
    one_line_if_missing,
    placement,
)
from adco.errors import InputError
from adco.finetuning.settings import Resolved
from adco.runs.checkpoints import WholeCheckpointIO
from adco.runs.directory import RunDirectory
from adco.training.console import Bar


def make_trainer(settings: Resolved, run: RunDirectory, callbacks: list[L.Callback]) -> L.Trainer:
    """Return the Trainer of a run.

    Raises:
        InputError: if there are no such devices.
    """
    accelerator = accelerator_of(settings)
    devices, nodes = placement(settings.devices)
    with one_line_if_missing(f"devices {settings.devices} are not available on {accelerator}"):
        return L.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=settings.precision,  # type: ignore[arg-type]  # "auto" is resolved
            max_epochs=settings.epochs,
            sync_batchnorm=can_sync_batch_norm(accelerator),
            use_distributed_sampler=False,
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=False,  # Lightning's ModelCheckpoint is not used
            enable_progress_bar=any(isinstance(callback, Bar) for callback in callbacks),
            enable_model_summary=False,
            plugins=[WholeCheckpointIO()],
            default_root_dir=run.path,
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
