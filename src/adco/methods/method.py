"""What methods share: a LightningModule from views to a loss, and the embedding of queries and keys."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from adco.batchnorm import forward_groups, forward_shuffled
from adco.data.draws import permutation
from adco.data.loader import Batch
from adco.data.views import normalize
from adco.distributed import world_size
from adco.encoder import Encoder
from adco.momentum import MomentumEncoder
from adco.optimizers import Player, make_optimizer


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


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer has stepped with this batch, the last of those whose gradients are added up."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class Method(L.LightningModule):
    """A pretraining method. A subclass says what a step does with a batch of views, and who trains beside the encoder.

    Args:
        encoder: backbone + projector; its `backbone` is what the run is for.
        schedule: the encoder's learning rate.
        weight_decay: the encoder's.
        optimizer: the encoder's: sgd, muon or lars.
        accumulate: batches to a step.
        seed: of what a step draws.
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
        schedule: Schedule,
        weight_decay: float = 1e-4,
        optimizer: str = "sgd",
        accumulate: int = 1,
        seed: int = 0,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.encoder = encoder.to(memory_format=self.memory_format)
        self.schedule, self.weight_decay, self.optimizer = schedule, weight_decay, optimizer
        self.accumulate, self.seed = accumulate, seed
        dtype = torch.get_default_dtype()
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=dtype), persistent=False)

    def players(self) -> list[Player]:
        """Who trains, and how."""
        return [self.player(self.encoder.parameters())]

    def player(self, parameters: Iterable[torch.nn.Parameter]) -> Player:
        """Parameters that are trained as the encoder is."""
        return Player(parameters=parameters, learning_rate=self.schedule, weight_decay=self.weight_decay)

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
        optimizer, rates = make_optimizer(self.optimizer, self.players())
        # Plain functions, which LambdaLR leaves out of its state: a resumed run follows the schedule it is given.
        factors: list[Callable[[int], float]] = [lambda step, rate=rate: rate(step) for rate in rates]  # type: ignore[misc]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Take the rates of the first step from the schedule too: a checkpoint may be of a run of another length."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        for group, base, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(schedule.last_epoch)


class QueryKeyMethod(Method):
    """A method in which queries of the encoder meet keys of a momentum encoder, without shared batch statistics.

    Args:
        encoder: as of `Method`.
        symmetric: whether the first two views are both keys.
        ema_decay: of the momentum encoder.
        groups: into how many groups a rank splits its batch for BatchNorm.
        shuffle: whether keys change ranks for BatchNorm.
        method_arguments: the others of `Method`.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        symmetric: bool = False,
        ema_decay: float = 0.999,
        groups: int = 1,
        shuffle: bool = False,
        **method_arguments: Any,
    ) -> None:
        super().__init__(encoder, **method_arguments)
        self.momentum_encoder = MomentumEncoder(self.encoder)
        self.ema_decay, self.key_views = ema_decay, 1 + symmetric
        self.groups, self.shuffle = groups, shuffle

    def follow(self, batch: Batch) -> None:
        """Move the momentum encoder, before the first batch of a step."""
        if batch.position % self.accumulate == 0:
            self.momentum_encoder.update(self.encoder, self.ema_decay)

    def embed_queries(self, view: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] → [n, D]."""
        return forward_groups(lambda x: self.encoder(self.prepare(x)), view, self.groups)

    def embed_keys(self, batch: Batch, view: int) -> Tensor:
        """The keys of all ranks for one view, [N, D]."""
        images = len(batch.indices) * (world_size() if self.shuffle else 1)
        order = torch.from_numpy(permutation(self.seed, batch.position, view, length=images))
        return forward_shuffled(
            lambda x: self.momentum_encoder(self.prepare(x)),
            batch.views[view],
            self.groups,
            order.to(batch.indices.device),
            across_ranks=self.shuffle,
        )
