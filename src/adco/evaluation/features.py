"""Features of labelled images: what most evaluations are computed from."""

from dataclasses import dataclass

import torch

from adco.errors import InputError

AT_ONCE = 4096  # images whose features are checked at once: 34 MB with F = 2 048


@dataclass(frozen=True)
class Features:
    """Features [n, F] float32 and labels [n] int64 of the same n images, both on the CPU.

    Where several processes extract features together, the first one has all n, and the others have none.

    Raises InputError if the shapes disagree, or a feature is not finite.
    """

    features: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1]:
            raise InputError(
                f"features must be [n, F] and labels [n]; got {list(self.features.shape)} and {list(self.labels.shape)}"
            )
        parts = torch.split(self.features, AT_ONCE)
        finite = torch.cat([part.isfinite().all(dim=1) for part in parts])
        if not finite.all():
            raise InputError(
                f"features of {int((~finite).sum())} of {len(finite)} images are NaN or infinite: "
                "the backbone has diverged, or the normalisation mean and std are wrong"
            )
