"""What AdCo, CaCo and MoCo have in common: queries from the encoder, keys from a momentum encoder, and ways to keep a
query and its key from sharing BatchNorm statistics.

Shapes: n images of a rank, N of all ranks, S side of a view in pixels, D width of the embeddings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, Self

import torch
from torch import Tensor

from adco.adversaries import Adversaries
from adco.config import defaults
from adco.config.checks import require
from adco.config.pretrain import Devices, PretrainSettings, RunLength
from adco.config.topics import TO_BE_CHOSEN, Unset
from adco.data.batch import Batch
from adco.data.draws import permutation
from adco.distributed import rank, world_size
from adco.errors import InputError
from adco.methods.method import Method, MethodArguments
from adco.models.batchnorm import (
    Forward,
    forward_groups,
    forward_shuffled,
    has_batch_norm,
    named_has_batch_norm,
)
from adco.models.encoder import Encoder
from adco.models.momentum import MomentumEncoder

BatchNorm = Literal["auto", "shuffle", "split", "sync", "none"]


@dataclass(frozen=True, kw_only=True)
class QueryKeySettings(PretrainSettings[Unset], Generic[Unset]):
    """Settings of methods with queries, and keys from a momentum encoder.

    Args:
        symmetric: whether both views are queries and both are keys (paper: 1.5 times the cost and 2 points more top-1
            if true).
        ema_decay: decay of the momentum encoder, an exponential moving average of the encoder (paper, MoCo v2: 0.999).
            Chosen: such that it averages over a two-hundredth of the run, between 0.9 and 0.999.
        projector_norm: whether BatchNorm follows each layer of the projector, as in SimCLR. Chosen: true for a short
            run, because without it embeddings start in a narrow cone; else false (paper, MoCo).
        batch_norm: which images share BatchNorm statistics. If a query and its key are normalised together with the
            same few images, the statistics reveal which belong together. shuffle: the images are shuffled across
            devices before the keys are computed; split: each device divides its batch into groups, with other groups
            for the keys than for the queries; sync: the statistics are those of all devices; none: those of each
            device's batch, for queries and keys alike; auto: shuffle on several devices, split on one, and none for a
            network without BatchNorm. If only the projector has BatchNorm, only its input is shuffled or split.
        split_groups: number of groups for split. Chosen: groups of 32 images, 2 to 8 of them (MoCo's code for one GPU:
            8 for 256 images).
    """

    TOPIC: ClassVar[str] = "queries and keys"

    symmetric: bool = False
    ema_decay: float | Unset = TO_BE_CHOSEN
    projector_norm: bool | Unset = TO_BE_CHOSEN
    batch_norm: BatchNorm = "auto"
    split_groups: int | Unset = TO_BE_CHOSEN

    def check(self) -> None:
        super().check()
        require(self, "split_groups", at_least=1)
        require(self, "ema_decay", at_least=0, at_most=1)

    def choose(self, run: RunLength) -> dict[str, Any]:
        return {
            "ema_decay": defaults.ema_decay(run.steps, published=0.999),
            "projector_norm": defaults.is_short(run.images_seen),
        }

    def choose_for_devices(self, devices: Devices) -> dict[str, Any]:
        one_device = devices.processes == 1
        if self.batch_norm == "shuffle" and one_device:
            raise InputError("batch_norm shuffle needs more than one device: take split, or leave it auto")
        if self.batch_norm == "sync" and not one_device and not devices.can_sync_batch_norm:
            raise InputError("batch_norm sync over several devices needs GPUs: take shuffle, or leave it auto")
        batch_norm = self.batch_norm
        if batch_norm == "auto" and not self._has_batch_norm():
            batch_norm = "none"
        elif batch_norm == "auto":
            batch_norm = "split" if one_device else "shuffle"
        wanted = self.split_groups or defaults.split_groups(devices.images_per_forward)
        # A group of one image has no variance.
        groups = max(1, min(wanted, devices.images_per_forward // 2)) if batch_norm == "split" else 1
        return {"batch_norm": batch_norm, "split_groups": groups}

    def _has_batch_norm(self) -> bool:
        backbone: str | None = self.backbone
        arguments: dict[str, Any] | None = self.backbone_args
        return bool(self.projector_norm) or named_has_batch_norm(backbone or defaults.BACKBONE, arguments or {})

    def limited_by_devices(self, used: Mapping[str, Any]) -> set[str]:
        limited = used["split_groups"] < (self.split_groups or 0)  # too few images on a device
        return {"split_groups"} if used["batch_norm"] != "split" or limited else set()

    def for_one_device(self, processes: int) -> Self:
        if self.batch_norm == "shuffle" or (self.batch_norm == "auto" and processes > 1):
            return replace(self, batch_norm="split", split_groups=1)  # each device embeds its share as one group
        return self

    @property
    def syncs_batch_norm(self) -> bool:
        return self.batch_norm == "sync"

    @property
    def is_symmetric(self) -> bool:
        return self.symmetric


class QueryKeyMethod(Method):
    """A method with queries from the encoder and keys from a momentum encoder.

    Args:
        encoder, common: see `Method`.
        symmetric: whether both of the first two views become keys; otherwise, only the first does.
        ema_decay: decay of the momentum encoder.
        groups: number of groups into which a rank divides its batch. Each group has its own BatchNorm statistics.
        shuffle: whether images are shuffled across ranks before the momentum encoder embeds them.
    """

    def __init__(
        self,
        encoder: Encoder,
        common: MethodArguments,
        *,
        symmetric: bool = False,
        ema_decay: float = 0.999,
        groups: int = 1,
        shuffle: bool = False,
    ) -> None:
        super().__init__(encoder, common)
        self.momentum_encoder = MomentumEncoder(self.encoder)
        self.ema_decay, self.num_key_views = ema_decay, 1 + symmetric
        self.groups, self.shuffle = groups, shuffle
        self.shuffles_images = has_batch_norm(encoder.backbone)

    def update_momentum_encoder(self, batch: Batch) -> None:
        """Update the momentum encoder if this batch is the first of an optimizer step."""
        if batch.position % self.accumulate == 0:
            self.momentum_encoder.update(self.encoder, self.decay_of(batch.position // self.accumulate))

    def decay_of(self, step: int) -> float:
        """Return the decay of the momentum encoder in a step: `ema_decay` in all."""
        return self.ema_decay

    def embed_queries(self, images: Tensor) -> Tensor:
        """Embed one view of this rank's images as queries, uint8 [n, 3, S, S] → [n, D]."""
        return forward_groups(self.encoder, self.prepare(images), self.groups)

    @torch.no_grad()
    def embed_keys(self, batch: Batch, view: int) -> Tensor:
        """Embed view number `view` of the images of all ranks as keys, [N, D]."""
        count = len(batch.indices) * (world_size() if self.shuffle else 1)
        order = torch.from_numpy(permutation(self.seed, batch.position, view, length=count))
        assert isinstance(self.momentum_encoder.encoder, Encoder)
        unshuffled, shuffled = self._parts(self.momentum_encoder.encoder)
        return forward_shuffled(
            shuffled,
            unshuffled(batch.views[view]),
            self.groups,
            order,
            across_ranks=self.shuffle,
        )

    def embed_both(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], slice]:
        """Embed the first two views of a batch, of which the first is the key, and both in turn if symmetric.

        Returns:
            The queries of this rank's images, each [n, D]; the keys of the other view of all ranks' images, each
            [N, D]; and the rows of this rank's images in the keys.
        """
        keys = [self.embed_keys(batch, view) for view in range(self.num_key_views)]
        queries = [self.embed_queries(batch.views[1 - view]) for view in range(self.num_key_views)]
        return queries, keys, slice(rank() * len(batch.indices), (rank() + 1) * len(batch.indices))

    def fill(self, bank: Adversaries, batches: Iterable[Batch]) -> None:
        """Fill all rows of a bank with keys of these batches. They are those of all ranks, the same on every rank.

        Raises:
            ValueError: if the batches are too few: rows that stay random would be unrelated to the images.
        """
        filled = 0
        for batch in batches:
            keys = self.embed_keys(batch, 0)
            bank.fill(keys, filled)
            filled += len(keys)
            if filled >= bank.rows.shards.rows:
                return
        raise ValueError(f"{filled} keys do not fill {bank.rows.shards.rows} rows: give more batches")

    def _parts(self, encoder: Encoder) -> tuple[Forward, Forward]:
        """Return the part of an encoder that takes images in their order, and the part that takes them shuffled.

        A backbone without BatchNorm embeds each image by itself. Ranks then exchange features, not images.
        """
        if self.shuffles_images:
            return (lambda images: images), (lambda images: encoder(self.prepare(images)))
        return (lambda images: encoder.backbone(self.prepare(images))), encoder.embed
