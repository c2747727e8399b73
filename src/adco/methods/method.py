"""What all methods share: a LightningModule from views to a loss."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from adco.data.loader import Batch
from adco.data.views import normalize
from adco.encoder import Encoder
from adco.optimizers import Muon


class Step(NamedTuple):
    """What a training step tells: its losses, and embeddings for the monitor."""

    losses: dict[str, Tensor]  # scalars by name, "loss" the encoder's; the backward is of their sum
    queries: Tensor  # [n, D] unit-norm
    keys: Tensor  # [n, D] unit-norm, of the same images


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate as a function of the step: linear warm-up, then half a cosine."""

    peak: float
    final: float
    warmup_steps: int
    steps: int  # of the whole run

    def __call__(self, step: int) -> float:
        """The rate of step 0, 1, …, steps − 1."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True, kw_only=True)
class Player:
    """Parameters that are trained alike."""

    parameters: Iterable[nn.Parameter]
    learning_rate: Callable[[int], float]
    weight_decay: float
    maximize: bool = False
    orthogonal: bool = False  # whether weights of two or more dimensions take the steps of `Muon`


class Method(L.LightningModule):
    """A pretraining method. A subclass says which players train and what a step does with a batch of views.

    Args:
        encoder: backbone + projector; its `backbone` is what the run is for.
        mean, std: of red, green and blue in [0, 1].
        channels_last: the memory format of images.
    """

    mean: Tensor
    std: Tensor
    encoder: Encoder

    def __init__(
        self,
        encoder: Encoder,
        *,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        dtype = torch.get_default_dtype()
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=dtype), persistent=False)

    def players(self) -> list[Player]:
        """Who trains, and how."""
        raise NotImplementedError

    def step(self, batch: Batch) -> Step:
        """From views to losses."""
        raise NotImplementedError

    def health(self, queries: Tensor, keys: Tensor) -> dict[str, float]:
        """Numbers for the monitor that this method alone has."""
        return {}

    def prepare(self, views: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] → normalised floats in the memory format."""
        return normalize(views, self.mean, self.std, self.memory_format)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        step = self.step(batch)
        loss = torch.stack(list(step.losses.values())).sum()
        return {"loss": loss, **step._asdict()}

    def configure_optimizers(self) -> Any:
        groups, rates = [], []
        for player in self.players():
            parameters = list(player.parameters)
            for orthogonal in (True, False):
                weights = [w for w in parameters if (player.orthogonal and w.ndim > 1) == orthogonal]
                if weights:
                    group = {"params": weights, "weight_decay": player.weight_decay, "maximize": player.maximize}
                    groups.append(group | {"orthogonal": orthogonal})
                    rates.append(player.learning_rate)
        optimizer = Muon(groups, lr=1.0, momentum=0.9)  # the schedule's factor is the rate itself
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
