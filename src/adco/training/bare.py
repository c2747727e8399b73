"""Training steps without Lightning's loop, for measurements."""

from typing import Any

import torch

from adco.data.batch import Batch
from adco.methods.method import Method
from adco.training.module import Pretraining

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class BareTraining:
    """Forward, backward and optimizer step of a method, without records and checkpoints.

    Args:
        method: what to train, on its device.
        optimizer: of the players that descend: sgd, muon or lars.
        precision: as of `adco pretrain`.
    """

    def __init__(self, method: Method, optimizer: str = "sgd", precision: str = "32-true") -> None:
        self.method = method.train()
        self.module = Pretraining(method, optimizer)
        configured = self.module.configure_optimizers()
        self.optimizer, self.schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        self.half = HALF.get(precision)

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Train on a batch, and take a step if it is the last of those whose gradients are added up."""
        if batch.position % self.method.accumulate == 0:
            self.optimizer.zero_grad()
        with torch.autocast(batch.indices.device.type, self.half, enabled=self.half is not None):
            outputs = self.module.training_step(batch, 0)
        outputs["loss"].backward()
        if self.ends_step(batch):
            self.optimizer.step()
            self.schedule.step()
        return outputs

    def ends_step(self, batch: Batch) -> bool:
        """Return whether the optimizer steps with this batch."""
        return (batch.position + 1) % self.method.accumulate == 0
