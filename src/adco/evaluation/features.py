"""Features of labelled images: what most evaluations are computed from."""

from dataclasses import dataclass

import torch

from adco.errors import InputError


@dataclass(frozen=True)
class Features:
    """Features [n, F] float32 and labels [n] int64 of the same n images, both on the CPU.

    Raises InputError if the shapes disagree, there are no images, or a feature is not finite.
    """

    features: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1]:
            raise InputError(
                f"features must be [n, F] and labels [n]; got {list(self.features.shape)} and {list(self.labels.shape)}"
            )
        if len(self.labels) == 0:
            raise InputError("features of 0 images: the source is empty")
        finite = self.features.isfinite().all(dim=1)
        if not finite.all():
            raise InputError(
                f"features of {int((~finite).sum())} of {len(finite)} images are NaN or infinite: "
                "the backbone has diverged, or the normalisation mean and std are wrong"
            )
