"""Training steps without Lightning's loop, for measurements."""

from typing import Any

from adco.data.batch import Batch
from adco.methods.method import Method
from adco.training.module import Pretraining, autocast


class BareTraining:
    """Forward, backward and optimizer step of a method, without records and checkpoints.

    Args:
        method: what to train, on its device.
        optimizer: of the players that descend: sgd, muon, adamw or lars.
        precision: as of `adco pretrain`.
    """

    def __init__(self, method: Method, optimizer: str = "sgd", precision: str = "32-true") -> None:
        self.method = method.train()
        self.module = Pretraining(method, optimizer)
        configured = self.module.configure_optimizers()
        self.optimizer, self.schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        self.precision = precision

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Train on a batch, and take a step if it is the last of those whose gradients are added up."""
        if batch.position % self.method.accumulate == 0:
            self.optimizer.zero_grad()
        with autocast(batch.indices.device, self.precision):
            outputs = self.module.training_step(batch, 0)
        outputs["loss"].backward()
        if self.ends_step(batch):
            self.optimizer.step()
            self.schedule.step()
        return outputs

    def ends_step(self, batch: Batch) -> bool:
        """Return whether the optimizer steps with this batch."""
        return (batch.position + 1) % self.method.accumulate == 0
