"""AdCo: Adversarial Contrast (Hu, Wang, Hu & Qi, CVPR 2021, arXiv 2011.08435).

    L(q, k, A; τ) = −1/N Σ_i log  exp(q_i·k_i/τ) / ( Σ_j exp(q_i·k_j/τ) + Σ_m exp(q_i·â_m/τ) )

The encoder descends L at τ, the adversaries A ascend it at τ_adv, both from one forward. Plain, symmetric and
multi-crop differ in their list of (query view, key view) pairs alone:

    plain                    (v₁, k₀)
    symmetric                (v₁, k₀) (v₀, k₁), averaged over the two keys
    multi-crop               (u, k₀) for every query view u, summed
    multi-crop, symmetric    (u, k_v) for every view u ≠ v, summed, averaged over the two keys v

The warm start is the published one, as the first K/N steps of the run: the encoder trains against adversaries that are
still random, each step's keys replace the next N of these, and then the momentum encoder starts anew as a copy of the
encoder. Keys of an untrained encoder lie in a narrow cone, from which an encoder among such adversaries flees.

Departures from the published code: the adversaries' gradient is autograd's, with the derivative of their normalisation;
the warm start fills every row, with fresh views where the images are fewer, and can leave the encoder untrained.

Shapes: n images of a rank, N of all ranks, D width, K adversaries.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from adco.adversaries import Adversaries, adversarial_info_nce
from adco.data.loader import Batch
from adco.distributed import rank
from adco.encoder import Encoder, mlp
from adco.health import adversary_hardness
from adco.methods.method import QueryKeyMethod, Step
from adco.optimizers import Player
from adco.settings import AdCoSettings, known


def view_pairs(views: int, keys: int) -> list[tuple[int, int]]:
    """(query view, key view) of views 0, 1, …, the first of which are keys."""
    return [(query, key) for key in range(keys) for query in range(views) if query != key]


class AdCo(QueryKeyMethod):
    """Adversarial contrast.

    Args:
        encoder: images → unit-norm embeddings [n, D].
        adversaries: the bank A.
        views: how many views an image has: one more than the plain method's queries.
        temperature, adversary_temperature: τ, τ_adv.
        in_batch_negatives: whether other images' keys are negatives too.
        warm_steps: the first steps, in which keys replace the adversaries and these do not train; 0 where they are
            filled beforehand, or start at random.
        adversary_learning_rate, adversary_weight_decay: the adversaries', constant.
        method_arguments: the others of `QueryKeyMethod`.
    """

    def __init__(
        self,
        encoder: Encoder,
        adversaries: Adversaries,
        *,
        views: int = 2,
        temperature: float = 0.12,
        adversary_temperature: float = 0.02,
        in_batch_negatives: bool = True,
        warm_steps: int = 0,
        adversary_learning_rate: float = 3.0,
        adversary_weight_decay: float = 1e-4,
        **method_arguments: Any,
    ) -> None:
        super().__init__(encoder, **method_arguments)
        self.adversaries = adversaries.requires_grad_(adversary_learning_rate > 0)
        self.pairs = view_pairs(views, self.key_views)
        self.temperature, self.adversary_temperature = temperature, adversary_temperature
        self.in_batch_negatives, self.warm_steps = in_batch_negatives, warm_steps
        self.adversary_learning_rate, self.adversary_weight_decay = adversary_learning_rate, adversary_weight_decay

    @classmethod
    def build(cls, settings: AdCoSettings, backbone: nn.Module, width: int, **method_arguments: Any) -> "AdCo":
        """From settings, for a backbone with features of this width."""
        norm, count = bool(settings.projector_norm), known(settings.adversaries)
        trains = settings.warm_start and settings.warm_start_trains
        return cls(
            Encoder(backbone, mlp(width, settings.hidden, settings.dim, batch_norm=norm, output_norm=norm)),
            Adversaries(count, settings.dim),
            views=2 + len(settings.small_crops),
            temperature=known(settings.temperature),
            adversary_temperature=known(settings.adversary_temperature),
            in_batch_negatives=settings.in_batch_negatives,
            warm_steps=-(-count // known(settings.batch_size)) if trains else 0,
            adversary_learning_rate=known(settings.adversary_learning_rate),
            adversary_weight_decay=settings.adversary_weight_decay,
            **method_arguments,
        )

    def players(self) -> list[Player]:
        adversaries = Player(
            parameters=self.adversaries.parameters(),
            learning_rate=lambda step: 0.0 if step < self.warm_steps else self.adversary_learning_rate,
            weight_decay=self.adversary_weight_decay,
            maximize=True,
        )
        return [*super().players(), adversaries]

    def step(self, batch: Batch) -> Step:
        warms = batch.position < self.warm_steps * self.accumulate
        if self.warm_steps and batch.position == self.warm_steps * self.accumulate:
            self.momentum_encoder.update(self.encoder, 0.0)  # starts anew as a copy
        self.follow(batch)
        keys = [self.embed_keys(batch, view) for view in range(self.key_views)]  # each [N, D]
        queries = {view: self.embed_queries(batch.views[view]) for view in sorted({query for query, _ in self.pairs})}
        first = rank() * len(batch.indices)
        # Filling below is in place, and the backward, still to come, needs the rows as they were.
        weight = self.adversaries.weight.clone() if warms else self.adversaries.weight  # [K, D]
        losses = [
            adversarial_info_nce(
                queries[query],
                keys[key],
                weight,
                temperature=self.temperature,
                adversary_temperature=self.adversary_temperature,
                first_positive=first,
                in_batch_negatives=self.in_batch_negatives,
            )
            for query, key in self.pairs
        ]
        encoder, adversary = (torch.stack(player).sum() / self.key_views for player in zip(*losses, strict=True))
        if warms:
            adversary = 0 * adversary  # no gradient, which SGD's momentum would keep for later
            self.adversaries.fill(keys[0], batch.position * len(keys[0]))
        query, key = self.pairs[0]
        mine = keys[key][first : first + len(batch.indices)]
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
