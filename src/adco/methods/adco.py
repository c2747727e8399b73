"""AdCo: Adversarial Contrast (Hu, Wang, Hu & Qi, CVPR 2021, arXiv 2011.08435).

    L(q, k, A; τ) = −1/N Σ_i log  exp(q_i·k_i/τ) / ( Σ_j exp(q_i·k_j/τ) + Σ_m exp(q_i·â_m/τ) )

The encoder descends L at τ, the adversaries A ascend it at τ_adv, both from one forward. Plain, symmetric and
multi-crop differ in their list of (query view, key view) pairs alone:

    plain                    (v₁, k₀)
    symmetric                (v₁, k₀) (v₀, k₁), averaged over the two keys
    multi-crop               (u, k₀) for every query view u, summed
    multi-crop, symmetric    (u, k_v) for every view u ≠ v, summed, averaged over the two keys v

Departures from the published code: the adversaries' gradient is autograd's, with the derivative of their normalisation;
the warm start leaves the encoder untrained and fills every row, with fresh views where the images are fewer.

Shapes: n images of a rank, N of all ranks, D width, K adversaries.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from adco.adversaries import Adversaries, adversarial_info_nce
from adco.batchnorm import forward_groups, forward_shuffled
from adco.data.draws import permutation
from adco.data.loader import Batch
from adco.distributed import rank, world_size
from adco.encoder import Encoder
from adco.methods.method import Method, Player, Schedule, Step
from adco.momentum import MomentumEncoder
from adco.monitor import adversary_hardness


def view_pairs(views: int, symmetric: bool) -> list[tuple[int, int]]:
    """(query view, key view) of views 0, 1, …: the first is a key, and so is the second if the loss is symmetric."""
    return [(query, key) for key in range(1 + symmetric) for query in range(views) if query != key]


class AdCo(Method):
    """Adversarial contrast.

    Args:
        encoder: images → unit-norm embeddings [n, D].
        adversaries: the bank A.
        views: how many views an image has: one more than the plain method's queries.
        symmetric: whether the first two views are both keys.
        temperature, adversary_temperature: τ, τ_adv.
        in_batch_negatives: whether other images' keys are negatives too.
        momentum: of the momentum encoder.
        groups: into how many groups a rank splits its batch for BatchNorm.
        shuffle: whether keys change ranks for BatchNorm.
        schedule: the encoder's learning rate.
        weight_decay: the encoder's.
        orthogonal: whether the encoder's matrices take the steps of `Muon`.
        adversary_learning_rate, adversary_weight_decay: the adversaries', constant.
        accumulate: batches to a step.
        seed: of the shuffled order of keys.
        method_arguments: `mean`, `std`, `channels_last` of `Method`.
    """

    def __init__(
        self,
        encoder: Encoder,
        adversaries: Adversaries,
        *,
        views: int = 2,
        symmetric: bool = False,
        temperature: float = 0.12,
        adversary_temperature: float = 0.02,
        in_batch_negatives: bool = True,
        momentum: float = 0.999,
        groups: int = 1,
        shuffle: bool = False,
        schedule: Schedule,
        weight_decay: float = 1e-4,
        orthogonal: bool = False,
        adversary_learning_rate: float = 3.0,
        adversary_weight_decay: float = 1e-4,
        accumulate: int = 1,
        seed: int = 0,
        **method_arguments: Any,
    ) -> None:
        super().__init__(encoder, **method_arguments)
        self.momentum_encoder = MomentumEncoder(encoder, momentum)
        self.adversaries = adversaries
        self.pairs = view_pairs(views, symmetric)
        self.keys = 1 + symmetric
        self.temperature, self.adversary_temperature = temperature, adversary_temperature
        self.in_batch_negatives = in_batch_negatives
        self.groups, self.shuffle, self.seed = groups, shuffle, seed
        self.schedule, self.weight_decay, self.orthogonal = schedule, weight_decay, orthogonal
        self.adversary_learning_rate, self.adversary_weight_decay = adversary_learning_rate, adversary_weight_decay
        self.accumulate = accumulate

    def players(self) -> list[Player]:
        return [
            Player(
                parameters=self.encoder.parameters(),
                learning_rate=self.schedule,
                weight_decay=self.weight_decay,
                orthogonal=self.orthogonal,
            ),
            Player(
                parameters=self.adversaries.parameters(),
                learning_rate=lambda step: self.adversary_learning_rate,
                weight_decay=self.adversary_weight_decay,
                maximize=True,
            ),
        ]

    def step(self, batch: Batch) -> Step:
        if batch.position % self.accumulate == 0:
            self.momentum_encoder.update(self.encoder)
        keys = [self.embed_keys(batch, view) for view in range(self.keys)]  # each [N, D]
        queries = {view: self.embed_queries(batch.views[view]) for view in sorted({query for query, _ in self.pairs})}
        first = rank() * len(batch.images)
        losses = [
            adversarial_info_nce(
                queries[query],
                keys[key],
                self.adversaries.weight,
                temperature=self.temperature,
                adversary_temperature=self.adversary_temperature,
                first_positive=first,
                in_batch_negatives=self.in_batch_negatives,
            )
            for query, key in self.pairs
        ]
        encoder, adversary = (torch.stack(player).sum() / self.keys for player in zip(*losses, strict=True))
        query, key = self.pairs[0]
        mine = keys[key][first : first + len(batch.images)]
        return Step({"loss": encoder, "loss_adversary": adversary}, queries[query].detach(), mine)

    def health(self, queries: Tensor, keys: Tensor) -> dict[str, float]:
        return adversary_hardness(
            queries,
            keys,
            self.adversaries.weight,
            temperature=self.temperature,
            adversary_temperature=self.adversary_temperature,
            in_batch_negatives=self.in_batch_negatives,
        )

    def embed_queries(self, view: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] → [n, D]."""
        return forward_groups(lambda x: self.encoder(self.prepare(x)), view, self.groups)

    def embed_keys(self, batch: Batch, view: int) -> Tensor:
        """The keys of all ranks for one view, [N, D]."""
        images = len(batch.images) * (world_size() if self.shuffle else 1)
        order = torch.from_numpy(permutation(self.seed, batch.position, view, length=images))
        return forward_shuffled(
            lambda x: self.momentum_encoder(self.prepare(x)),
            batch.views[view],
            self.groups,
            order.to(batch.images.device),
            across_ranks=self.shuffle,
        )

    def warm_start(self, batches: Iterable[Batch]) -> None:
        """Fill the adversaries with keys of these batches, on every rank the same; stops when no row is left.

        Raises:
            ValueError: if the batches end before: a row left random learns nothing of the images.
        """
        filled = 0
        for batch in batches:
            keys = self.embed_keys(batch, 0)
            self.adversaries.fill(keys, filled)
            filled += len(keys)
            if filled >= len(self.adversaries.weight):
                return
        raise ValueError(f"{filled} keys do not fill {len(self.adversaries.weight)} adversaries: give more batches")
