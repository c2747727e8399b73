"""CaCo: cooperative-adversarial contrast (Wang et al. 2022, arXiv 2203.14370), by the authors of AdCo.

    L(q, k, B; τ) = −1/N Σ_i log  exp(q_i·b_p(i)/τ) / Σ_m exp(q_i·b_m/τ),   b = B / ‖B‖,   p(i) = argmax_m k_i·b_m

All samples, positives too, are rows of a bank that is trained. The positive of a query is the row that is nearest to
its key, the momentum encoder's embedding of the image's other view. The encoder minimises the loss. So do the positives
(they cooperate), while all other rows maximise it (they are adversaries).

Departures from the published code: the bank starts as keys of training images, and its rate is warmed up over the steps
of the encoder's warm-up instead of epoch by epoch.

Shapes: n images of a rank, D width, K rows of the bank.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adco.adversaries import Adversaries
from adco.config import defaults
from adco.config.checks import require
from adco.config.pretrain import Devices, RunLength
from adco.config.topics import MOST, TO_BE_CHOSEN, Unset
from adco.data.batch import Batch
from adco.errors import InputError
from adco.losses.contrastive import cooperative_info_nce
from adco.methods.method import MethodArguments, StepOutput
from adco.methods.query_key import QueryKeyMethod, QueryKeySettings
from adco.models.encoder import Encoder, mlp
from adco.models.momentum import rising_decay
from adco.optim.players import Player, Schedule
from adco.shards import Rows

PAPER_BANK = 65_536


@dataclass(frozen=True, kw_only=True)
class CaCoSettings(QueryKeySettings[Unset], Generic[Unset]):
    """Contrast with a bank whose rows are trained, the positives too; the successor of AdCo.

    Args:
        symmetric: whether both views are queries and both are keys (CaCo).
        ema_decay: decay of the momentum encoder at the start; it rises to 1 along a cosine (CaCo: 0.99). Chosen: such
            that it averages over a two-hundredth of the run at the start, between 0.9 and 0.99.
        bank: K, the number of rows. Chosen: 65536 (CaCo), or the largest power of two that the images fill.
        temperature: temperature of the loss, for encoder and bank (CaCo).
        bank_learning_rate: learning rate of the bank, constant after the warm-up of the encoder's (CaCo).
    """

    TOPIC: ClassVar[str] = "caco"
    MARKER: ClassVar[str] = "P"
    FINAL_LEARNING_RATE_FACTOR: ClassVar[float] = 1 / 50

    method: Literal["caco"] = "caco"
    symmetric: bool = True
    bank: int | Unset = TO_BE_CHOSEN
    temperature: float = 0.08
    bank_learning_rate: float = 3.0

    def check(self) -> None:
        super().check()
        require(self, "bank", at_least=1, at_most=MOST)
        require(self, "temperature", above=0)
        require(self, "bank_learning_rate", at_least=0)

    def choose(self, run: RunLength) -> dict[str, Any]:
        return super().choose(run) | {
            "bank": min(PAPER_BANK, defaults.power_of_two(run.images)),
            "ema_decay": defaults.ema_decay(run.steps, published=0.99),
        }

    def choose_for_devices(self, devices: Devices) -> dict[str, Any]:
        if self.bank is not None and self.bank < devices.processes:
            raise InputError(f"bank {self.bank} must be at least {devices.processes}, a row for each process")
        return super().choose_for_devices(devices)

    def build(self: "CaCoSettings[Never]", backbone: nn.Module, width: int, common: MethodArguments) -> "CaCo":
        norm = self.projector_norm
        return CaCo(
            Encoder(backbone, mlp(width, self.hidden, self.dim, batch_norm=norm, output_norm=norm)),
            Adversaries(self.bank, self.dim),
            common,
            symmetric=self.symmetric,
            ema_decay=self.ema_decay,
            groups=self.split_groups,
            shuffle=self.batch_norm == "shuffle",
            temperature=self.temperature,
            bank_learning_rate=self.bank_learning_rate,
        )

    @property
    def images_before_first_step(self) -> int:
        return 0 if self.continue_method or self.bank is None else self.bank

    @property
    def negatives(self) -> int | None:
        return self.bank

    @property
    def trains_negatives(self) -> bool:
        return self.bank_learning_rate != 0


class CaCo(QueryKeyMethod):
    """Cooperative-adversarial contrast.

    Args:
        encoder: images → unit-norm embeddings [n, D].
        bank: the rows B.
        common, symmetric, ema_decay, groups, shuffle: see `QueryKeyMethod`; `ema_decay` is that at the start.
        temperature: τ.
        bank_learning_rate: learning rate of the bank after the warm-up.
    """

    def __init__(
        self,
        encoder: Encoder,
        bank: Adversaries,
        common: MethodArguments,
        *,
        symmetric: bool = True,
        ema_decay: float = 0.99,
        groups: int = 1,
        shuffle: bool = False,
        temperature: float = 0.08,
        bank_learning_rate: float = 3.0,
    ) -> None:
        super().__init__(encoder, common, symmetric=symmetric, ema_decay=ema_decay, groups=groups, shuffle=shuffle)
        self.bank = bank.requires_grad_(bank_learning_rate > 0)
        self.temperature, self.bank_learning_rate = temperature, bank_learning_rate

    def players(self) -> list[Player]:
        rate = self.bank_learning_rate
        warmed_up = Schedule(peak=rate, final=rate, warmup_steps=self.schedule.warmup_steps, steps=self.schedule.steps)
        bank = Player(parameters=self.bank.parameters(), learning_rate=warmed_up, weight_decay=0.0, maximize=True)
        return [*super().players(), bank]

    def step(self, batch: Batch) -> StepOutput:
        self.update_momentum_encoder(batch)
        queries, keys, own = self.embed_both(batch)
        losses = [
            cooperative_info_nce(
                query, key[own], self.bank.weight, temperature=self.temperature, shards=self.bank.rows.shards
            )
            for query, key in zip(queries, keys, strict=True)
        ]
        of_encoder, of_bank = (torch.stack(terms) for terms in zip(*losses, strict=True))
        # The published code adds up the two gradients of the bank.
        return StepOutput({"loss": of_encoder.mean(), "loss_bank": of_bank.sum()}, queries[0].detach(), keys[0][own])

    def decay_of(self, step: int) -> float:
        return rising_decay(self.ema_decay, step, self.schedule.steps)

    def banks(self) -> list[Rows]:
        return [self.bank.rows]

    def adversary_directions(self) -> Tensor:
        return F.normalize(self.bank.rows.of_all_ranks())

    def warm_start(self, batches: Iterable[Batch]) -> None:
        """Fill the bank with keys of these batches, see `fill`."""
        self.fill(self.bank, batches)
