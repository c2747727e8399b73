"""The inputs of the linear probe: standardised features along their principal axes.

A rotation leaves the L2 penalty unchanged, and fits along these axes are faster.

Shapes: n images, F feature width, R = min(n, F) axes.
"""

from collections.abc import Iterator

import torch


class Inputs:
    """Standardised features along their principal axes, in blocks if they are many.

    Args:
        features: [n, F].
        rows: of a block. With fewer images, the inputs are computed once and stay on the device; with more, they are
            where the features are, and pass through the device block by block.
        device: where to compute.

    Attributes:
        mean, std: [F], of the features over images, on the device.
        axes: orthonormal columns [F, R] along which standardised features are uncorrelated, on the device.
        block: rows of a block, at least F.
    """

    def __init__(self, features: torch.Tensor, rows: int, device: torch.device | str) -> None:
        self.features, self.block, self.device = features, max(rows, features.shape[1]), device
        self._blocks = torch.split(features, self.block)
        self.mean, self.std = self._mean_and_std()
        self.axes = self._principal_axes()
        self._kept = self._rotated(features) if len(features) <= self.block else None

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """Return the inputs [m, R] of some images, given by their indices [m]."""
        if self._kept is not None:
            return self._kept[images.to(self.device)]
        inputs = self.features.new_empty(len(images), self.axes.shape[1])
        for start in range(0, len(images), self.block):
            part = slice(start, start + self.block)
            inputs[part] = self._rotated(self.features[images[part]])
        return inputs

    def all(self) -> torch.Tensor:
        """Return the inputs [n, R] of all images."""
        return self.of(torch.arange(len(self.features))) if self._kept is None else self._kept

    def _rotated(self, block: torch.Tensor) -> torch.Tensor:
        return self._standardised(block) @ self.axes

    def _standardised(self, block: torch.Tensor) -> torch.Tensor:
        return (block.to(self.device) - self.mean) / self.std

    def _mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and standard deviation [F] over images.

        The standard deviation of a constant feature is set to 1, so that dividing by it does not amplify rounding
        errors.
        """
        moments = [torch.var_mean(block.to(self.device), dim=0, correction=0) for block in self._blocks]
        shares = [len(block) / len(self.features) for block in self._blocks]
        mean = sum_of(share * mean for share, (_, mean) in zip(shares, moments, strict=True))
        between = [(of_block - mean).square() for _, of_block in moments]
        variance = sum_of(
            share * (within + more) for share, (within, _), more in zip(shares, moments, between, strict=True)
        )
        rounding = 10 * torch.finfo(variance.dtype).eps * mean.abs()
        std = variance.sqrt()
        return mean, torch.where(std > rounding, std, 1.0)

    def _principal_axes(self) -> torch.Tensor:
        if len(self.features) < self.features.shape[1]:  # one block
            axes: torch.Tensor = torch.linalg.svd(self._standardised(self.features), full_matrices=False).Vh.T
            return axes
        inputs = map(self._standardised, self._blocks)
        axes = torch.linalg.eigh(sum_of(block.T @ block for block in inputs)).eigenvectors
        return axes


def sum_of(terms: Iterator[torch.Tensor]) -> torch.Tensor:
    """Return the sum of terms, of which only one is in memory at a time. One term is returned as it is."""
    total = next(terms)
    for term in terms:
        total = total + term
    return total
