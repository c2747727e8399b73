"""MoCo v2: Momentum Contrast (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297).

    L(q, k, Q) = −1/N Σ_i log  exp(q_i·k_i/τ) / ( exp(q_i·k_i/τ) + Σ_m exp(q_i·Q_m/τ) )

The negatives Q are a queue of the keys of earlier batches. The batch's own keys join the queue after the loss, in place
of the oldest.

Shapes: n images of a rank, N of all ranks, D width, K keys in the queue, c of them on a rank.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adco.config import defaults
from adco.config.checks import require
from adco.config.pretrain import RunLength
from adco.config.topics import MOST, TO_BE_CHOSEN, Unset
from adco.data.batch import Batch
from adco.losses.contrastive import info_nce
from adco.methods.method import MethodArguments, StepOutput
from adco.methods.query_key import QueryKeyMethod, QueryKeySettings
from adco.models.encoder import Encoder, mlp
from adco.shards import Rows

PAPER_QUEUE = 65_536


@dataclass(frozen=True, kw_only=True)
class MoCoSettings(QueryKeySettings[Unset], Generic[Unset]):
    """MoCo v2: contrast with a queue of earlier images.

    Args:
        queue: K, how many keys of earlier batches are negatives. Chosen: 65536 (MoCo v2), or the largest power of two
            that the images fill.
        temperature: temperature of the loss (MoCo v2).
    """

    TOPIC: ClassVar[str] = "moco"
    MARKER: ClassVar[str] = "s"

    method: Literal["moco"] = "moco"
    queue: int | Unset = TO_BE_CHOSEN
    temperature: float = 0.2

    def check(self) -> None:
        super().check()
        require(self, "queue", at_least=1, at_most=MOST)
        require(self, "temperature", above=0)

    def choose(self, run: RunLength) -> dict[str, Any]:
        return super().choose(run) | {"queue": min(PAPER_QUEUE, defaults.power_of_two(run.images))}

    def build(self: "MoCoSettings[Never]", backbone: nn.Module, width: int, common: MethodArguments) -> "MoCo":
        norm = self.projector_norm
        return MoCo(
            Encoder(backbone, mlp(width, self.hidden, self.dim, batch_norm=norm, output_norm=norm)),
            F.normalize(torch.randn(self.queue, self.dim)),
            common,
            symmetric=self.symmetric,
            ema_decay=self.ema_decay,
            groups=self.split_groups,
            shuffle=self.batch_norm == "shuffle",
            temperature=self.temperature,
        )

    @property
    def negatives(self) -> int | None:
        return self.queue


class MoCo(QueryKeyMethod):
    """Momentum contrast with a queue.

    Args:
        encoder: images → unit-norm embeddings [n, D].
        queue: [K, D] unit-norm rows to start with; K need not be a multiple of N.
        common, symmetric, ema_decay, groups, shuffle: as of `QueryKeyMethod`.
        temperature: τ.
    """

    oldest: Tensor

    def __init__(
        self,
        encoder: Encoder,
        queue: Tensor,
        common: MethodArguments,
        *,
        symmetric: bool = False,
        ema_decay: float = 0.999,
        groups: int = 1,
        shuffle: bool = False,
        temperature: float = 0.2,
    ) -> None:
        super().__init__(encoder, common, symmetric=symmetric, ema_decay=ema_decay, groups=groups, shuffle=shuffle)
        # Not a buffer: DDP copies the buffers of the first rank to all ranks in every step.
        self.queue = nn.Parameter(queue, requires_grad=False)  # [c, D]
        self.rows = Rows(self, "queue")
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))  # index of a row of the queue
        self.temperature = temperature

    def step(self, batch: Batch) -> StepOutput:
        self.update_momentum_encoder(batch)
        queries, keys, own = self.embed_both(batch)
        losses = [
            info_nce(
                query,
                key[own],
                self.queue,
                temperature=self.temperature,
                in_batch_negatives=False,
                shards=self.rows.shards,
            )
            for query, key in zip(queries, keys, strict=True)
        ]
        loss = torch.stack(losses).mean()
        self.enqueue(torch.cat(keys))
        return StepOutput({"loss": loss}, queries[0].detach(), keys[0][own])

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest rows of the queue by keys [M, D]; if M > K, by the last K of them."""
        shards = self.rows.shards
        keys = keys[-shards.rows :]
        places = (self.oldest + torch.arange(len(keys), device=keys.device)) % shards.rows
        self.oldest = (self.oldest + len(keys)) % shards.rows
        if shards.ranks > 1:
            here = (places >= shards.own.start) & (places < shards.own.stop)
            keys, places = keys[here], places[here] - shards.own.start
        # Not in place: the backward pass, which comes later, needs the queue as it was.
        self.queue.data = self.queue.data.index_copy(0, places, keys.to(self.queue.dtype))

    def banks(self) -> list[Rows]:
        return [self.rows]
