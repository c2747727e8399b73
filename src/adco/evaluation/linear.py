"""Linear probe: multinomial logistic regression on frozen features, with the L2 strength chosen on training images.

Shapes: n training images, m images to classify, F feature width, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from adco.errors import InputError
from adco.evaluation.evaluation import Evaluation
from adco.evaluation.features import Features
from adco.evaluation.inputs import Inputs, sum_of

# L2 strengths from strong to weak, for standardised features and a mean loss. On 50 000 synthetic images with 256 and
# 512 features the best was between 1e-2 and 1e-4. Few images with many noisy features need the strong end.
L2_CANDIDATES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
L2_WITHOUT_VALIDATION = 1e-2  # used if no class has two images, so that none can be held out
VALIDATION_FRACTION = 0.1
SEARCH_PER_CLASS = 2000  # images per class used to choose L2: enough to distinguish factors of ten
AT_ONCE = 2**28  # values of the features of a block, or of its logits: 1.1 GB


@dataclass(frozen=True, kw_only=True)
class Linear(Evaluation):
    """Fit a linear classifier to the features, with an L2 penalty chosen on held-out training images."""

    NAME: ClassVar[str] = "linear"
    TITLE: ClassVar[str] = "linear"

    def classify(
        self, train: Features, test: torch.Tensor, classes: int, device: torch.device | str
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        probe = fit_linear_probe(train.features, train.labels, classes, device=device)
        validation = {f"{l2:g}": top1 for l2, top1 in probe.validation.items()}  # JSON keys are strings
        return probe.scores(test), {"l2": probe.l2, "validation_top1": validation}

    @classmethod
    def describe(cls, result: Mapping[str, Any]) -> str:
        l2 = result["protocol"]["l2"]
        return f"logistic regression on the features; its L2 of {l2:g} was chosen on held-out training images"


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear classifier of features.

    weight [C, F] and bias [C] apply to standardised features, (features − mean) / std, where mean and std [F] are those
    of the training images. `validation` maps each L2 candidate to its top-1 (%) on the held-out training images; it is
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
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    candidates: Sequence[float] = L2_CANDIDATES,
    device: torch.device | str | None = None,
    at_once: int = AT_ONCE,
) -> LinearProbe:
    """Choose the L2 strength on held-out training images, then fit the probe on all training images.

    The choice uses at most 2 000 images of each class: 90 % to fit, 10 % held out, stratified by class. If candidates
    have equal validation top-1, the strongest is chosen.

    Unlike the published linear evaluation (`linear_sgd`), the probe uses fixed, standardised features of the test
    views, without augmentation, and converges to a unique optimum instead of following a schedule.

    Args:
        features: [n, F].
        labels: [n], in 0..C−1. If a class has a single image, that is not held out; a class without images is never
            predicted.
        num_classes: C.
        candidates: L2 strengths to choose from, strongest first, so that each fit starts near its optimum.
        device: where to compute; None: where the features are.
        at_once: with more features n · F or logits n · C, blocks of so many pass through the device, one at a time.

    Raises:
        InputError: `candidates` is empty, not positive, or not in descending order.
    """
    if not candidates or list(candidates) != sorted(set(candidates), reverse=True) or candidates[-1] <= 0:
        raise InputError(f"candidates must be positive and in descending order; got {tuple(candidates)}")
    inputs = Inputs(features, at_once // max(features.shape[1], num_classes), device or features.device)
    mean, axes = inputs.mean, inputs.axes
    training, held_out = stratified_split(labels.cpu(), seed=0)
    labels = labels.to(mean.device)

    weight, bias = mean.new_zeros(num_classes, axes.shape[1]), mean.new_zeros(num_classes)
    fits, validation = {}, {}
    if len(held_out):
        fit_inputs, fit_labels = inputs.of(training), labels[training.to(mean.device)]
        asked, answers = inputs.of(held_out).to(mean.device), labels[held_out.to(mean.device)]
        for l2 in candidates:
            fits[l2] = weight, bias = fit_logistic(
                fit_inputs, fit_labels, weight, bias, l2, tolerance=1e-4, block=inputs.block
            )
            hits = F.linear(asked, weight, bias).argmax(dim=1) == answers
            validation[l2] = 100 * hits.double().mean().item()
        del fit_inputs  # before the inputs of all images take the same memory
        chosen = max(validation, key=validation.__getitem__)  # ties go to the first, strongest candidate
        weight, bias = fits[chosen]
    else:
        chosen = L2_WITHOUT_VALIDATION
    weight, bias = fit_logistic(inputs.all(), labels, weight, bias, chosen, block=inputs.block)
    return LinearProbe(weight @ axes.T, bias, mean, inputs.std, chosen, validation)


def fit_logistic(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    l2: float,
    *,
    tolerance: float = 1e-5,
    block: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight [C, F] and bias [C] that minimise  mean cross-entropy + l2/2 · ‖weight‖².

    The computation runs on the device of weight, bias and labels. `block` rows of the inputs are there at once; None:
    all.

    Runs full-batch L-BFGS from the given weight and bias until no component of the gradient exceeds `tolerance`, or a
    step changes the loss by no more than rounding. It optimises weight / scale, with a per-feature scale that makes the
    curvature about one if the features are uncorrelated.
    scikit-learn's LogisticRegression has the same optimum with C = 1 / (n · l2).
    """
    classes, images = len(weight), len(inputs)
    blocks = [*zip(*(torch.split(rows, block or images) for rows in (inputs, labels)), strict=True)]
    squares = sum_of(len(rows) / images * rows.to(weight.device).square().mean(dim=0) for rows, _ in blocks)
    curvature = (classes - 1) / classes**2 * squares + l2  # of the loss at zero weights
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
        total = scaled.new_zeros(())
        for number, (rows, classes_of_rows) in enumerate(blocks):
            weight = scaled * scale
            logits = F.linear(rows.to(weight.device), weight, bias)
            loss = len(rows) / images * F.cross_entropy(logits, classes_of_rows)
            if number == 0:
                loss = loss + l2 / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return (scaled * scale).detach(), bias.detach()


def stratified_split(labels: torch.Tensor, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of (training, held-out) images, int64 and ascending; the split depends only on `seed`.

    Up to 2 000 images of each class are used, and 10 % of them are held out: at least one image of each class, but none
    of a class with a single image.
    """
    generator = np.random.default_rng(seed)
    classes = labels.numpy()
    training, held_out = [], []
    for label in np.unique(classes):
        images = generator.permutation(np.flatnonzero(classes == label))[:SEARCH_PER_CLASS]
        count = max(1, round(VALIDATION_FRACTION * len(images))) if len(images) > 1 else 0
        held_out.append(images[:count])
        training.append(images[count:])
    first, second = (torch.from_numpy(np.sort(np.concatenate(part))) for part in (training, held_out))
    return first, second
