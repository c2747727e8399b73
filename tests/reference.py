"""AdCo a second time: NumPy float64, loops, gradients by hand, written from the formulas and from nothing in `adco`.

The encoder is linear, q = W x / ‖W x‖, so that its gradient fits on a line.

Shapes: N images, P pixels of an image, D width, K adversaries; x [N, P], W [D, P], A [K, D].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit(rows: Array) -> Array:
    return np.stack([row / np.sqrt(row @ row) for row in rows])


def probabilities(
    queries: Array, keys: Array, adversaries: Array, i: int, temperature: float, in_batch: bool
) -> tuple[Array, Array, float]:
    """Softmax of query i over all keys, zero for those left out; over the adversaries; and of its positive."""
    counted = [j == i or in_batch for j in range(len(keys))]
    key_logits = np.array([queries[i] @ key / temperature for key in keys])
    adversary_logits = np.array([queries[i] @ row / temperature for row in unit(adversaries)])
    highest = max(key_logits.max(), adversary_logits.max())
    over_keys = np.exp(key_logits - highest) * counted
    over_adversaries = np.exp(adversary_logits - highest)
    total = over_keys.sum() + over_adversaries.sum()
    return over_keys / total, over_adversaries / total, over_keys[i] / total


def loss(queries: Array, keys: Array, adversaries: Array, temperature: float, in_batch: bool) -> float:
    """−1/N Σ_i log p_i,positive."""
    each = [probabilities(queries, keys, adversaries, i, temperature, in_batch)[2] for i in range(len(queries))]
    return float(-np.log(each).sum() / len(queries))


def query_gradient(queries: Array, keys: Array, adversaries: Array, temperature: float, in_batch: bool) -> Array:
    """∂L/∂q_i = 1/(Nτ) (Σ_j p_ij k_j + Σ_m p_im â_m − k_i)."""
    gradient = np.zeros_like(queries)
    for i in range(len(queries)):
        over_keys, over_adversaries, _ = probabilities(queries, keys, adversaries, i, temperature, in_batch)
        gradient[i] -= keys[i]
        for p, key in zip(over_keys, keys, strict=True):
            gradient[i] += p * key
        for p, row in zip(over_adversaries, unit(adversaries), strict=True):
            gradient[i] += p * row
    return gradient / (len(queries) * temperature)


def adversary_gradient(queries: Array, keys: Array, adversaries: Array, temperature: float, in_batch: bool) -> Array:
    """∂L/∂A_m = 1/(N τ_adv ‖A_m‖) Σ_i p_im (q_i − (q_i·â_m) â_m)."""
    gradient = np.zeros_like(adversaries)
    for i, query in enumerate(queries):
        _, over_adversaries, _ = probabilities(queries, keys, adversaries, i, temperature, in_batch)
        for m, direction in enumerate(unit(adversaries)):
            norm = np.sqrt(adversaries[m] @ adversaries[m])
            tangent = query - (query @ direction) * direction
            gradient[m] += over_adversaries[m] * tangent / (len(queries) * temperature * norm)
    return gradient


def weight_gradient(weight: Array, images: Array, gradient: Array) -> Array:
    """∂L/∂W from ∂L/∂q, through q = z/‖z‖, z = W x: ∂L/∂z = (g − (g·q) q)/‖z‖."""
    total = np.zeros_like(weight)
    for x, g in zip(images, gradient, strict=True):
        z = weight @ x
        norm = np.sqrt(z @ z)
        q = z / norm
        total += np.outer((g - (g @ q) * q) / norm, x)
    return total


@dataclass
class Descent:
    """SGD with momentum 0.9. Weight decay shrinks the weights whether the loss is descended or ascended."""

    weight: Array
    decay: float
    ascend: bool = False
    velocity: Array = field(init=False)

    def __post_init__(self) -> None:
        self.velocity = np.zeros_like(self.weight)

    def step(self, gradient: Array, rate: float) -> None:
        downhill = -gradient if self.ascend else gradient
        self.velocity = 0.9 * self.velocity + downhill + self.decay * self.weight
        self.weight = self.weight - rate * self.velocity


@dataclass
class Game:
    """Both players and the momentum encoder. `play` takes a step, and returns both losses before it."""

    weight: Array
    adversaries: Array
    symmetric: bool
    in_batch: bool
    temperature: float
    adversary_temperature: float
    ema_decay: float
    learning_rate: float
    final_learning_rate: float
    weight_decay: float
    adversary_learning_rate: float
    adversary_weight_decay: float
    steps: int

    def __post_init__(self) -> None:
        self.encoder = Descent(self.weight, self.weight_decay)
        self.bank = Descent(self.adversaries, self.adversary_weight_decay, ascend=True)
        self.slow = self.weight.copy()
        self.done = 0

    def play(self, views: Sequence[Array]) -> tuple[float, float]:
        """1/V Σ_v Σ_{u≠v} L(q_u, k_v) over V = 1 or 2 key views v, the first of all views u. Views are [N, P]."""
        self.slow = self.ema_decay * self.slow + (1 - self.ema_decay) * self.encoder.weight
        num_key_views = (0, 1) if self.symmetric else (0,)
        losses = np.zeros(2)
        encoder_gradient, bank_gradient = np.zeros_like(self.weight), np.zeros_like(self.adversaries)
        for v in num_key_views:
            keys = unit(np.stack([self.slow @ x for x in views[v]]))
            for u, images in enumerate(views):
                if u == v:
                    continue
                queries = unit(np.stack([self.encoder.weight @ x for x in images]))
                point = queries, keys, self.bank.weight
                losses += (
                    loss(*point, self.temperature, self.in_batch),
                    loss(*point, self.adversary_temperature, self.in_batch),
                )
                by_query = query_gradient(*point, self.temperature, self.in_batch)
                encoder_gradient += weight_gradient(self.encoder.weight, images, by_query)
                bank_gradient += adversary_gradient(*point, self.adversary_temperature, self.in_batch)
        cosine = 0.5 * (1 + np.cos(np.pi * self.done / self.steps))
        rate = self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine
        self.encoder.step(encoder_gradient / len(num_key_views), rate)
        self.bank.step(bank_gradient / len(num_key_views), self.adversary_learning_rate)
        self.done += 1
        encoder_loss, adversary_loss = losses / len(num_key_views)
        return float(encoder_loss), float(adversary_loss)
