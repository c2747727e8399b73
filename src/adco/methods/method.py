"""The interface of a method: an encoder, the players (groups of parameters that share a learning rate and weight
decay), and a training step, which computes losses from views.

Shapes: n images of a rank, S side of a view in pixels, D width of the embeddings.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adco.data.batch import Batch, normalize
from adco.models.encoder import Encoder
from adco.models.vectors import vectors
from adco.optim.players import Player, Schedule
from adco.shards import Rows


class StepOutput(NamedTuple):
    """The result of a training step."""

    losses: dict[str, Tensor]  # scalars by name; "loss" is the encoder's. `backward` is called on their sum
    queries: Tensor  # [n, D] unit-norm, for the monitor
    keys: Tensor  # [n, D] unit-norm, of the same images


@dataclass(frozen=True, kw_only=True)
class MethodArguments:
    """The arguments that all methods have in common.

    Args:
        schedule: learning rate of the encoder.
        backbone_rate: factor of this learning rate for the backbone.
        weight_decay: weight decay of the encoder.
        accumulate: batches per optimizer step.
        seed: seed of the random numbers that a step draws, such as the shuffling of keys.
        mean, std: of the red, green and blue pixel values in [0, 1], for normalisation.
        channels_last: whether images have the channels-last memory format.
    """

    schedule: Schedule
    backbone_rate: float = 1.0
    weight_decay: float = 1e-4
    accumulate: int = 1
    seed: int = 0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels_last: bool = False


class Method(nn.Module):
    """A pretraining method. A subclass defines `step`, and `players` if more than the encoder is trained.

    Args:
        encoder: backbone + projector. Its `backbone` is the result of the run.
        common: the arguments that all methods have in common.
    """

    mean: Tensor
    std: Tensor
    encoder: Encoder

    def __init__(self, encoder: Encoder, common: MethodArguments) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if common.channels_last else torch.contiguous_format
        self.encoder = encoder.to(memory_format=self.memory_format)
        self.schedule, self.backbone_rate = common.schedule, common.backbone_rate
        self.weight_decay = common.weight_decay
        self.accumulate, self.seed = common.accumulate, common.seed
        dtype = torch.get_default_dtype()
        self.register_buffer("mean", torch.tensor(common.mean, dtype=dtype), persistent=False)
        self.register_buffer("std", torch.tensor(common.std, dtype=dtype), persistent=False)

    def players(self) -> list[Player]:
        """Return the groups of parameters that are trained, each with its learning rate and weight decay."""
        if self.backbone_rate == 1:
            return [self.make_player(self.encoder.parameters())]
        backbone = replace(
            self.make_player(self.encoder.backbone.parameters()),
            learning_rate=lambda step: self.backbone_rate * self.schedule(step),
        )
        return [self.make_player(self.encoder.projector.parameters()), backbone]

    def make_player(self, parameters: Iterable[nn.Parameter]) -> Player:
        """Return these parameters as a player with the encoder's learning rate and weight decay."""
        return Player(
            parameters=parameters,
            learning_rate=self.schedule,
            weight_decay=self.weight_decay,
            vectors=vectors(self.encoder.backbone),
        )

    def step(self, batch: Batch) -> StepOutput:
        """Compute the losses of a batch."""
        raise NotImplementedError

    def metrics(self, queries: Tensor, keys: Tensor) -> dict[str, float]:
        """Return the method's own metrics for the records, from the queries and keys of a step.

        All ranks must call it.
        """
        return {}

    def banks(self) -> list[Rows]:
        """Return the negatives that are divided among the ranks, if several train."""
        return []

    def adversary_directions(self) -> Tensor | None:
        """Return the directions of the method's trained negatives, [K, D] of unit norm; None if it has none.

        All ranks must call it.
        """
        return None

    def warm_start(self, batches: Iterable[Batch]) -> None:
        """Initialise parts of the method from training images, before the first step of a run.

        Called only if `images_before_first_step` of the method's settings is above 0.

        Args:
            batches: an endless supply, in random order; take as many as needed.
        """

    def prepare(self, views: Tensor) -> Tensor:
        """Convert uint8 views [n, 3, S, S] to normalised floats in the method's memory format."""
        return normalize(views, self.mean, self.std, self.memory_format)
