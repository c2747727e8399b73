"""Linear probe: multinomial logistic regression on frozen features, its one setting chosen on training images.

n training images, m images to classify, F feature width, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

# L2 strengths from strong to weak, for standardised features and a mean loss. On 50 000 made images of 256 and 512
# features the best was between 1e-2 and 1e-4; few images with many features that are noise want the strong end.
L2_CANDIDATES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
L2_WITHOUT_VALIDATION = 1e-2  # when no class has two images, nothing can be held out to choose by
VALIDATION_FRACTION = 0.1
SEARCH_PER_CLASS = 2000  # images of a class that take part in the choice: enough to tell decades of L2 apart


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear classifier of features.

    weight [C, F] and bias [C] act on standardised features, (features − mean) / std with mean and std [F] of the
    training images. `validation` gives the top-1 (%) on the held-out training images for each L2 candidate; it is
    empty if none could be held out.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    l2: float
    validation: dict[float, float]

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits [m, C] of features [m, F], on the probe's device."""
        return F.linear((features.to(self.mean.device) - self.mean) / self.std, self.weight, self.bias)


def fit_linear_probe(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, *, candidates: Sequence[float] = L2_CANDIDATES
) -> LinearProbe:
    """Choose the L2 strength on a stratified tenth of the training images, then fit all of them with it.

    The choice is made among at most 2 000 images of each class: nine tenths fitted, a tenth held out.

    Features are standardised and fixed: the images are seen at their test view only, without the augmentation of the
    published linear evaluation, and the optimum is unique rather than the end of a schedule. Equal validation
    top-1 goes to the stronger candidate.

    Args:
        features: [n, F], on the device that is to do the work.
        labels: [n], in 0..C−1. A class with one image stays in training, one without an image is never predicted.
        candidates: L2 strengths to choose from, strongest first, so that each fit starts near its optimum.

    Raises:
        ValueError: candidates is empty, not descending, or not positive.
    """
    if not candidates or list(candidates) != sorted(set(candidates), reverse=True) or candidates[-1] <= 0:
        raise ValueError(f"candidates must be positive and descend; got {tuple(candidates)}")
    labels = labels.to(features.device)
    mean, std = _mean_and_std(features)
    inputs = (features - mean) / std
    axes = principal_axes(inputs)  # the penalty does not mind a rotation, and the fits are much faster along these
    inputs = inputs @ axes
    training, held_out = (indices.to(features.device) for indices in stratified_split(labels.cpu(), seed=0))

    weight, bias = features.new_zeros(num_classes, axes.shape[1]), features.new_zeros(num_classes)
    path, validation = {}, {}
    if len(held_out):
        part, part_labels = inputs[training], labels[training]
        for l2 in candidates:
            path[l2] = weight, bias = fit_logistic(part, part_labels, weight, bias, l2, tolerance=1e-4)
            hits = F.linear(inputs[held_out], weight, bias).argmax(dim=1) == labels[held_out]
            validation[l2] = 100 * hits.double().mean().item()
        chosen = max(validation, key=validation.__getitem__)  # the first of equals, so the strongest
        weight, bias = path[chosen]
    else:
        chosen = L2_WITHOUT_VALIDATION
    weight, bias = fit_logistic(inputs, labels, weight, bias, chosen)
    return LinearProbe(weight @ axes.T, bias, mean, std, chosen, validation)


def principal_axes(inputs: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns [F, min(n, F)] along which inputs [n, F] of mean zero are uncorrelated."""
    axes: torch.Tensor
    if len(inputs) < inputs.shape[1]:
        axes = torch.linalg.svd(inputs, full_matrices=False).Vh.T
    else:
        axes = torch.linalg.eigh(inputs.T @ inputs).eigenvectors
    return axes


def fit_logistic(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    l2: float,
    *,
    tolerance: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight [C, F] and bias [C] that minimise  mean cross-entropy + l2/2 · ‖weight‖².

    Full-batch L-BFGS from the given weight and bias, until no component of the gradient exceeds `tolerance` or a step
    changes the loss by no more than rounding. It works on weight / scale, with a scale for each feature that makes the
    curvature about one, where features are uncorrelated.
    scikit-learn's LogisticRegression has the same optimum at C = 1 / (n · l2).
    """
    classes = len(weight)
    curvature = (classes - 1) / classes**2 * inputs.square().mean(dim=0) + l2  # of a probe that knows nothing yet
    scale = curvature.rsqrt()
    scaled = (weight / scale).requires_grad_()
    bias = bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scaled, bias],
        max_iter=200,
        tolerance_grad=tolerance,
        tolerance_change=torch.finfo(inputs.dtype).eps,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        weight = scaled * scale
        loss = F.cross_entropy(F.linear(inputs, weight, bias), labels) + l2 / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return (scaled * scale).detach(), bias.detach()


def stratified_split(labels: torch.Tensor, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split images into (training, held out): their indices, int64 and ascending, drawn from `seed` alone.

    Of up to 2 000 images of each class a tenth is held out, at least one where there are two, none where there is one.
    """
    generator = np.random.default_rng(seed)
    classes = labels.numpy()
    training, held_out = [], []
    for label in np.unique(classes):
        images = generator.permutation(np.flatnonzero(classes == label))[:SEARCH_PER_CLASS]
        held = max(1, round(VALIDATION_FRACTION * len(images))) if len(images) > 1 else 0
        held_out.append(images[:held])
        training.append(images[held:])
    first, second = (torch.from_numpy(np.sort(np.concatenate(part))) for part in (training, held_out))
    return first, second


def _mean_and_std(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std [F] over images; std is 1 where a feature is constant but for rounding, not to blow that up."""
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    rounding = 10 * torch.finfo(features.dtype).eps * mean.abs()
    std = variance.sqrt()
    return mean, torch.where(std > rounding, std, 1.0)
