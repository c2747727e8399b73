"""The adapter between a method and Lightning's Trainer: loss, optimizer and learning rates."""

import math
from typing import Any

import lightning as L
import torch
from torch import nn

from adco.data.batch import Batch
from adco.distributed import gather_objects, world_size
from adco.methods.method import Method
from adco.optim.optimizers import with_schedule
from adco.shards import Rows
from adco.training.dividing import divide, join
from adco.training.errors import NotFiniteError


class Pretraining(L.LightningModule):
    """A method as a LightningModule. Checkpoints contain the state of the method, whose keys have no prefix.

    If several ranks train, the method's banks of negatives are divided among them (`training/dividing.py`). Checkpoints
    contain the rows of all ranks.

    Args:
        method: the method to train.
        optimizer: optimizer of the players that descend their loss: sgd, muon, adamw or lars.
    """

    def __init__(self, method: Method, optimizer: str = "sgd") -> None:
        super().__init__()
        self.method, self.optimizer = method, optimizer
        self.divided: list[Rows] = []  # among the ranks
        self.hidden: list[nn.Parameter] = []  # from DDP, until it has wrapped the module

    def setup(self, stage: str) -> None:
        """Hide the banks from DDP: when it wraps a module, it leaves out the parameters that need no gradient then.

        It still copies all values of the first rank to the other ranks, so the banks are divided later.
        """
        self.divided = self.method.banks() if world_size() > 1 else []
        self.hidden = [bank.weight for bank in self.divided if bank.weight.requires_grad]
        for weight in self.hidden:
            weight.requires_grad_(False)

    def divide(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the banks among the ranks, after DDP has wrapped the module."""
        for weight in self.hidden:
            weight.requires_grad_()
        for bank in self.divided:
            divide(bank, optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        step = self.method.step(batch)
        return {"loss": torch.stack(list(step.losses.values())).sum(), **step._asdict()}

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer, self.method.players())

    def on_train_start(self) -> None:
        """Divide the banks among the ranks, and set the learning rates of the next step.

        Those in a checkpoint may follow the schedule of another length.
        """
        self.divide(self.trainer.optimizers[0])
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        for group, base, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(schedule.last_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace the rows of this rank by those of all ranks. Lightning calls it on all ranks."""
        for bank in self.divided:
            join(bank, self.method, self.trainer.optimizers[0], checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's counters of epochs and batches to what follows from the number of steps.

        Those that it saves in the last step of an epoch count that epoch once too little, so that a longer run would
        end too early. And a step may have another number of batches now, if the setting `accumulate` was changed.
        """
        assert self.trainer.max_epochs is not None
        per_epoch = self.method.schedule.steps // self.trainer.max_epochs
        epochs, steps = divmod(checkpoint["global_step"], per_epoch)
        set_progress(checkpoint["loops"]["fit_loop"], epochs, steps, per_epoch, self.trainer.accumulate_grad_batches)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.method.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.method.load_state_dict(*args, **kwargs)


def set_progress(loops: dict[str, Any], epochs: int, steps: int, per_epoch: int, batches: int) -> None:
    """Set the counters of Lightning's training loops to what they are after an optimizer step.

    Args:
        loops: the state of the loops in a checkpoint.
        epochs: epochs that are complete.
        steps: steps since then.
        per_epoch: steps of an epoch.
        batches: batches of a step.
    """
    counted, begun = ("ready", "started", "processed", "completed"), steps > 0
    done = {"total": (epochs * per_epoch + steps) * batches, "current": (steps or per_epoch) * batches}
    for scope, number in done.items():
        epoch = dict.fromkeys(counted, epochs) | {"ready": epochs + begun, "started": epochs + begun}
        loops["epoch_progress"][scope] = epoch
        # Lightning saves in the last hook of a batch, before it counts the batch as completed.
        loops["epoch_loop.batch_progress"][scope] = dict.fromkeys(counted, number) | {"completed": number - begun}
    loops["epoch_loop.batch_progress"]["is_last_batch"] = not begun


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which Lightning's Trainer runs a step of this precision."""
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device.type, half, enabled=half is not None, cache_enabled=False)


def method_of(module: L.LightningModule) -> Method:
    """Return the method that a Trainer trains."""
    assert isinstance(module, Pretraining)
    return module.method


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether the optimizer has stepped after this batch, the last of those whose gradients are added up."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def finite_losses(step: int, outputs: Any, module: L.LightningModule) -> dict[str, float]:
    """Return a step's losses as numbers, averaged over ranks, which all call this.

    Raises:
        NotFiniteError: on all ranks, if a loss or a weight of any rank is not finite. The losses were computed before
            the optimizer's step, so they can be finite although the weights no longer are.
    """
    # A sum is finite only if all of its terms are, and takes far less time than looking at each of them.
    weights_finite = torch.stack([weights.sum() for weights in module.parameters()]).isfinite().all()
    mine = {name: float(loss.detach()) for name, loss in outputs["losses"].items()}
    parts = gather_objects((mine, bool(weights_finite)))
    losses = {name: sum(part[name] for part, _ in parts) / len(parts) for name in mine}
    if not all(map(math.isfinite, losses.values())) or not all(finite for _, finite in parts):
        raise NotFiniteError(step, losses)
    return losses
