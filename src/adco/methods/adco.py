"""AdCo: Adversarial Contrast (Hu, Wang, Hu & Qi, CVPR 2021, arXiv 2011.08435).

    L(q, k, A; τ) = −1/N Σ_i log  exp(q_i·k_i/τ) / ( Σ_j exp(q_i·k_j/τ) + Σ_m exp(q_i·â_m/τ) )

The encoder descends L at τ and the adversaries A ascend L at τ_adv, both in one pass. The plain, symmetric and
multi-crop losses differ only in their list of (query view, key view) pairs:

    plain                    (v₁, k₀)
    symmetric                (v₁, k₀) (v₀, k₁), averaged over the two keys
    multi-crop               (u, k₀) for every query view u, summed
    multi-crop, symmetric    (u, k_v) for every view u ≠ v, summed over u, averaged over the two keys v

The warm start is the published one. In the first K/N steps of the run, the encoder trains against adversaries that are
still random, and the keys of each step replace the next N of them. Then the momentum encoder is reset to a copy of the
encoder. If the encoder were not trained meanwhile, the adversaries would be keys of an untrained encoder. Those lie in
a narrow cone, which the encoder soon leaves.

Departures from the published code: the adversaries' gradient is exact, that is, it includes the derivative of their
normalisation; the warm start fills every row, with new views if there are fewer images than rows; and
`warm_start_trains: false` fills the rows without training the encoder.

Shapes: n images of a rank, N of all ranks, D the width of the embeddings, K adversaries, c of them on a rank.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adco.adversaries import Adversaries, adversarial_info_nce
from adco.config import defaults
from adco.config.checks import check_crop_scale, require
from adco.config.pretrain import Crop, RunLength
from adco.config.topics import MOST, TO_BE_CHOSEN, Unset
from adco.data.batch import Batch
from adco.distributed import rank
from adco.errors import InputError
from adco.health.adversary_note import Note, adversary_note
from adco.health.numbers import adversary_hardness
from adco.health.trends import Record
from adco.methods.method import MethodArguments, StepOutput
from adco.methods.query_key import QueryKeyMethod, QueryKeySettings
from adco.models.encoder import Encoder, mlp
from adco.optim.players import Player
from adco.shards import Rows

LOWEST_TEMPERATURE = 0.0016  # below it, not even float64 holds exp(cosine / temperature)


@dataclass(frozen=True, kw_only=True)
class AdCoSettings(QueryKeySettings[Unset], Generic[Unset]):
    """Contrast with adversaries: negatives that are trained against the encoder. The default method.

    Args:
        adversaries: K, the number of trained negatives (paper: 65536, 16384 or 8192). Chosen: 8192, or 1024 for a short
            run; fewer if there are not as many images, or if filling them would take more than a quarter of the run.
        temperature: temperature of the encoder's loss (paper: 0.12; 0.14 for K = 8192 and symmetric). Chosen: 0.07 for
            a short run, which learns more from a sharper softmax; else 0.12.
        adversary_temperature: temperature of the adversaries' loss (paper: 0.02; 0.03 for K = 8192 and symmetric).
            Chosen: 0.2 for a short run, where only few adversaries would get a gradient at 0.02; else 0.02.
        adversary_learning_rate: learning rate of the adversaries, constant during the run (paper: 3). With 0, they are
            not trained, which shows how much training them helps. Chosen: 3 for 8192 adversaries or more; for fewer,
            proportionally less, because each gets a larger share of the gradient; for a short run, a fortieth of that
            from 800 steps on, and up to a quarter with fewer.
        adversary_weight_decay: weight decay of the adversaries (paper). It makes adversaries that get no gradient
            shorter; the shorter an adversary is, the more a gradient changes its direction.
        small_crops: multi-crop: for each further query view, its [size in pixels, smallest share, largest share of the
            image's area]; the paper's at 224 px are [[192, 0.172, 0.86], [160, 0.143, 0.715], [128, 0.114, 0.571],
            [96, 0.086, 0.429]].
        in_batch_negatives: whether the keys of other images in the batch are negatives too (published code).
        warm_start: whether adversaries start as keys of training images (paper); if not, they start at random.
        warm_start_trains: whether the encoder is trained during the warm start. true: the first steps of the run fill
            the adversaries, and then the momentum encoder is reset to a copy of the encoder (published code). false:
            they are filled before the first step, with keys of the untrained encoder.
    """

    TOPIC: ClassVar[str] = "adco"
    FINAL_LEARNING_RATE_FACTOR: ClassVar[float] = 1 / 50
    MUON_LEARNING_RATE: ClassVar[float] = 0.1
    MARKER: ClassVar[str] = "o"

    method: Literal["adco"] = "adco"
    adversaries: int | Unset = TO_BE_CHOSEN
    temperature: float | Unset = TO_BE_CHOSEN
    adversary_temperature: float | Unset = TO_BE_CHOSEN
    adversary_learning_rate: float | Unset = TO_BE_CHOSEN
    adversary_weight_decay: float = 1e-4
    small_crops: list[Crop] = field(default_factory=list)
    in_batch_negatives: bool = True
    warm_start: bool = True
    warm_start_trains: bool = True

    def check(self) -> None:
        super().check()
        require(self, "adversaries", at_least=1, at_most=MOST)
        for name in ("temperature", "adversary_temperature"):
            require(self, name, at_least=LOWEST_TEMPERATURE)
        for name in ("adversary_learning_rate", "adversary_weight_decay"):
            require(self, name, at_least=0)
        if self.optimizer == "lars":
            raise InputError(
                "optimizer lars cannot be used with adco, choose sgd, muon or adamw: timm's LARS cannot maximise a "
                "loss, as the adversaries do"
            )
        for size, *scale in self.small_crops:
            check_crop_scale("small_crops", (scale[0], scale[1]))
            if size < 1:
                raise InputError(f"small_crops has a size of {size}: a size is at least 1 pixel")

    def choose(self, run: RunLength) -> dict[str, Any]:
        count: int | None = self.adversaries
        if count is None:
            count = defaults.adversaries(run.images, run.batch_size, run.images_seen)
        return super().choose(run) | {
            "adversaries": count,
            "temperature": defaults.temperature(run.images_seen),
            "adversary_temperature": defaults.adversary_temperature(run.images_seen),
            "adversary_learning_rate": defaults.adversary_learning_rate(count, run.images_seen, run.steps),
        }

    def build(self: "AdCoSettings[Never]", backbone: nn.Module, width: int, common: MethodArguments) -> "AdCo":
        norm = self.projector_norm
        return AdCo(
            Encoder(backbone, mlp(width, self.hidden, self.dim, batch_norm=norm, output_norm=norm)),
            Adversaries(self.adversaries, self.dim),
            common,
            symmetric=self.symmetric,
            ema_decay=self.ema_decay,
            groups=self.split_groups,
            shuffle=self.batch_norm == "shuffle",
            views=2 + len(self.small_crops),
            temperature=self.temperature,
            adversary_temperature=self.adversary_temperature,
            in_batch_negatives=self.in_batch_negatives,
            warm_steps=self.warm_steps(),
            adversary_learning_rate=self.adversary_learning_rate,
            adversary_weight_decay=self.adversary_weight_decay,
        )

    def warm_steps(self: "AdCoSettings[Never]") -> int:
        """Return how many steps the warm start trains the encoder: K/N, rounded up; 0 if it does not."""
        trains = self.warm_start and self.warm_start_trains and not self.continue_method
        return -(-self.adversaries // self.batch_size) if trains else 0

    def warnings(self: "AdCoSettings[Never]", steps: int) -> Iterator[str]:
        warm_steps = self.warm_steps()
        if warm_steps >= steps:
            yield (
                f"the warm start fills {self.adversaries} adversaries in {warm_steps} steps, and the run has {steps}: "
                "they are never trained; take fewer --adversaries or more --epochs"
            )

    def note(self, history: Sequence[Record]) -> Note | None:
        return adversary_note(history, self.adversary_learning_rate)

    @property
    def images_before_first_step(self) -> int:
        fills_before = self.warm_start and not self.warm_start_trains and not self.continue_method
        return self.adversaries if fills_before and self.adversaries is not None else 0

    @property
    def further_crops(self) -> list[Crop]:
        return self.small_crops

    @property
    def negatives(self) -> int | None:
        return self.adversaries

    @property
    def trains_negatives(self) -> bool:
        return self.adversary_learning_rate != 0


def view_pairs(views: int, keys: int) -> list[tuple[int, int]]:
    """Return the (query view, key view) pairs of views 0, 1, …, the first `keys` of which are keys."""
    return [(query, key) for key in range(keys) for query in range(views) if query != key]


class AdCo(QueryKeyMethod):
    """Adversarial contrast.

    Args:
        encoder: images → unit-norm embeddings [n, D].
        adversaries: the adversaries A.
        common, symmetric, ema_decay, groups, shuffle: see `QueryKeyMethod`.
        views: number of views per image. Views beyond the first two are queries only.
        temperature, adversary_temperature: τ and τ_adv.
        in_batch_negatives: whether the keys of other images are negatives too.
        warm_steps: number of steps at the start of the run in which keys replace the adversaries, which are not trained
            yet. 0 if they are filled before the first step, or start at random.
        adversary_learning_rate, adversary_weight_decay: learning rate (constant) and weight decay of the adversaries.
    """

    def __init__(
        self,
        encoder: Encoder,
        adversaries: Adversaries,
        common: MethodArguments,
        *,
        symmetric: bool = False,
        ema_decay: float = 0.999,
        groups: int = 1,
        shuffle: bool = False,
        views: int = 2,
        temperature: float = 0.12,
        adversary_temperature: float = 0.02,
        in_batch_negatives: bool = True,
        warm_steps: int = 0,
        adversary_learning_rate: float = 3.0,
        adversary_weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(encoder, common, symmetric=symmetric, ema_decay=ema_decay, groups=groups, shuffle=shuffle)
        self.adversaries = adversaries.requires_grad_(adversary_learning_rate > 0)
        self.pairs = view_pairs(views, self.num_key_views)
        self.temperature, self.adversary_temperature = temperature, adversary_temperature
        self.in_batch_negatives, self.warm_steps = in_batch_negatives, warm_steps
        self.adversary_learning_rate, self.adversary_weight_decay = adversary_learning_rate, adversary_weight_decay

    def players(self) -> list[Player]:
        adversaries = Player(
            parameters=self.adversaries.parameters(),
            learning_rate=lambda step: 0.0 if step < self.warm_steps else self.adversary_learning_rate,
            weight_decay=self.adversary_weight_decay,
            maximize=True,
        )
        return [*super().players(), adversaries]

    def step(self, batch: Batch) -> StepOutput:
        in_warm_start = batch.position < self.warm_steps * self.accumulate
        if self.warm_steps and batch.position == self.warm_steps * self.accumulate:
            self.momentum_encoder.update(self.encoder, 0.0)  # reset to a copy
        self.update_momentum_encoder(batch)
        keys = [self.embed_keys(batch, view) for view in range(self.num_key_views)]  # each [N, D]
        queries = {view: self.embed_queries(batch.views[view]) for view in sorted({query for query, _ in self.pairs})}
        first_own = rank() * len(batch.indices)  # row of this rank's first image in the keys
        # The rows are filled in place below, and the backward pass, which comes later, needs them as they were.
        weight = self.adversaries.weight.clone() if in_warm_start else self.adversaries.weight  # [c, D]
        losses = [
            adversarial_info_nce(
                queries[query],
                keys[key],
                weight,
                temperature=self.temperature,
                adversary_temperature=self.adversary_temperature,
                first_positive=first_own,
                in_batch_negatives=self.in_batch_negatives,
                shards=self.adversaries.rows.shards,
            )
            for query, key in self.pairs
        ]
        loss, loss_adversary = (torch.stack(terms).sum() / self.num_key_views for terms in zip(*losses, strict=True))
        if in_warm_start:
            loss_adversary = 0 * loss_adversary  # no gradient: SGD's momentum would still apply it after the warm start
            self.adversaries.fill(keys[0], batch.position * len(keys[0]))
        query, key = self.pairs[0]
        own_keys = keys[key][first_own : first_own + len(batch.indices)]
        return StepOutput({"loss": loss, "loss_adversary": loss_adversary}, queries[query].detach(), own_keys)

    def metrics(self, queries: Tensor, keys: Tensor) -> dict[str, float]:
        return adversary_hardness(
            queries,
            keys,
            self.adversaries.rows.of_all_ranks(),
            temperature=self.temperature,
            adversary_temperature=self.adversary_temperature,
            in_batch_negatives=self.in_batch_negatives,
        )

    def banks(self) -> list[Rows]:
        return [self.adversaries.rows]

    def adversary_directions(self) -> Tensor:
        return F.normalize(self.adversaries.rows.of_all_ranks())

    def warm_start(self, batches: Iterable[Batch]) -> None:
        """Fill all adversaries with keys of these batches, see `fill`."""
        self.fill(self.adversaries, batches)
