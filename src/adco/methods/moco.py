"""MoCo v2: Momentum Contrast (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297).

    L(q, k, Q) = −1/N Σ_i log  exp(q_i·k_i/τ) / ( exp(q_i·k_i/τ) + Σ_m exp(q_i·Q_m/τ) )

The negatives Q are the keys of earlier batches, first in, first out; the batch's own join them after the loss.

Shapes: n images of a rank, N of all ranks, D width, K keys in the queue.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adco.data.loader import Batch
from adco.distributed import rank
from adco.encoder import Encoder, mlp
from adco.losses import info_nce
from adco.methods.method import QueryKeyMethod, Step
from adco.settings import MoCoSettings, known


class MoCo(QueryKeyMethod):
    """Momentum contrast with a queue.

    Args:
        encoder: images → unit-norm embeddings [n, D].
        queue: [K, D] unit-norm rows to start with; K need not be a multiple of N.
        temperature: τ.
        method_arguments: the others of `QueryKeyMethod`.
    """

    queue: Tensor
    oldest: Tensor

    def __init__(self, encoder: Encoder, queue: Tensor, *, temperature: float = 0.2, **method_arguments: Any) -> None:
        super().__init__(encoder, **method_arguments)
        self.register_buffer("queue", queue)
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))  # a row of the queue
        self.temperature = temperature

    @classmethod
    def build(cls, settings: MoCoSettings, backbone: nn.Module, width: int, **method_arguments: Any) -> "MoCo":
        """From settings, for a backbone with features of this width."""
        norm = bool(settings.projector_norm)
        encoder = Encoder(backbone, mlp(width, settings.hidden, settings.dim, batch_norm=norm, output_norm=norm))
        queue = F.normalize(torch.randn(known(settings.queue), settings.dim))
        return cls(encoder, queue, temperature=settings.temperature, **method_arguments)

    def step(self, batch: Batch) -> Step:
        self.follow(batch)
        keys = [self.embed_keys(batch, view) for view in range(self.key_views)]  # each [N, D]
        queries = [self.embed_queries(batch.views[1 - view]) for view in range(self.key_views)]  # each [n, D]
        mine = slice(rank() * len(batch.indices), (rank() + 1) * len(batch.indices))
        losses = [
            info_nce(query, key[mine], self.queue, temperature=self.temperature, in_batch_negatives=False)
            for query, key in zip(queries, keys, strict=True)
        ]
        loss = torch.stack(losses).mean()
        self.enqueue(torch.cat(keys))
        return Step({"loss": loss}, queries[0].detach(), keys[0][mine])

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put keys [M, D] in the place of the oldest; of more than K, the last."""
        keys = keys[-len(self.queue) :]
        places = (self.oldest + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        # Not in place: the loss's backward, still to come, needs the queue as it was.
        self.queue = self.queue.index_copy(0, places, keys.to(self.queue.dtype))
        self.oldest = (self.oldest + len(keys)) % len(self.queue)
