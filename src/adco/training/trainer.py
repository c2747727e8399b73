"""Lightning's Trainer, as pretraining and fine-tuning use it: the package's own callbacks save, log and draw."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from adco.devices import can_sync_batch_norm, placement, slurm_environment
from adco.runs.checkpoints import WholeCheckpointIO
from adco.runs.directory import RunDirectory
from adco.training.console import Bar


class SyncBatchNorm(LayerSync):
    """BatchNorm that uses the statistics of all devices.

    Lightning's own plugin would drop the activations that are part of timm's BatchNorm layers, as in EfficientNets.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        synchronised: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return synchronised

    def revert(self, model: nn.Module) -> nn.Module:
        """Return the model as it is: in eval mode, and in one process, nothing is synchronised."""
        return model


def make_trainer(
    run: RunDirectory,
    callbacks: list[L.Callback],
    *,
    accelerator: str,
    devices: int | str,
    num_nodes: int | str = "auto",
    precision: Any,
    epochs: int,
    accumulate: int = 1,
    sync_batch_norm: bool = True,
    logger: Logger | None = None,
) -> L.Trainer:
    """Return the Trainer of a run.

    Args:
        run: where Lightning would write.
        callbacks: in the order in which they are called.
        accelerator, precision: Lightning's names.
        devices, num_nodes: as given; a launcher has the last word.
        epochs: of the whole run.
        accumulate: batches of an optimizer step.
        sync_batch_norm: use BatchNorm statistics of all devices, where that is possible.
        logger: a logger of Lightning's, besides the run's own records.

    Raises:
        InputError: as `placement`.
    """
    placed, nodes = placement(devices, num_nodes)
    synchronised = [SyncBatchNorm()] if sync_batch_norm and can_sync_batch_norm(accelerator) else []
    return L.Trainer(
        accelerator=accelerator,
        devices=placed,
        num_nodes=nodes,
        precision=precision,
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        logger=logger or False,
        callbacks=callbacks,
        enable_checkpointing=False,  # Lightning's ModelCheckpoint is not used
        enable_progress_bar=any(isinstance(callback, Bar) for callback in callbacks),
        enable_model_summary=False,
        plugins=[WholeCheckpointIO(), *slurm_environment(), *synchronised],
        default_root_dir=run.path,
    )
