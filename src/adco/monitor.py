"""Is it learning or collapsing? Numbers for a curve, and a verdict in words for a human.

Embeddings are any method's; what concerns adversaries is a function of its own.

Shapes: N queries, D width, K adversaries.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@torch.no_grad()
def effective_rank(x: Tensor) -> float:
    """How many dimensions x uses, between 1 and min(N, D): RankMe. Compare values of equal N only.

    exp(−Σ p log p) with p = σ / Σσ + 1e-7, over the singular values σ of x as it is, neither centred nor normalised
    (Garrido et al. 2023, arXiv 2210.02885, eq. 1). NaN if x holds anything that is not finite.

    Args:
        x: [N, D] embeddings or backbone features.
    """
    if not x.isfinite().all():  # the decomposition itself would raise
        return math.nan
    singular = torch.linalg.svdvals(x.float())  # [min(N, D)]
    p = F.normalize(singular, p=1, dim=0) + 1e-7
    return float((-p * p.log()).sum().exp())


@torch.no_grad()
def embedding_health(queries: Tensor, keys: Tensor) -> dict[str, float]:
    """Five numbers about one batch of embeddings, normalised here to unit rows in float32. NaN in, NaN out.

    - positive_cosine: mean cosine of a query and its key.
    - alignment: mean squared distance of a query and its key, less is better (Wang & Isola 2020, arXiv 2005.10242,
      α = 2).
    - uniformity: log mean exp(−2 d²) over distinct pairs of queries: 0 where all are one point, near −4 where they
      fill a sphere of many dimensions (same paper, t = 2).
    - spread: the queries' standard deviation, mean over dimensions, times √D: 0 where all are one point, 1 where they
      fill the sphere, never more (SimSiam, arXiv 2011.10566, fig. 2). The only one of the five that a rotation changes.
    - effective_rank: of the queries.

    Args:
        queries: [N, D], N ≥ 2.
        keys: [N, D]; row i is the key of query i.

    Raises:
        ValueError: if the shapes differ or hold fewer than two rows.
    """
    if queries.ndim != 2 or queries.shape != keys.shape or len(queries) < 2:
        raise ValueError(f"queries and keys must both be [N ≥ 2, D], got {[*queries.shape]} and {[*keys.shape]}")
    q, k = F.normalize(queries.float()), F.normalize(keys.float())
    return {
        "positive_cosine": float((q * k).sum(1).mean()),
        "alignment": float((q - k).square().sum(1).mean()),
        "uniformity": float(F.pdist(q).square().mul(-2).exp().mean().log()),
        "spread": float(q.std(0, correction=0).mean()) * math.sqrt(q.shape[1]),
        "effective_rank": effective_rank(q),
    }


@torch.no_grad()
def adversary_hardness(
    queries: Tensor,
    keys: Tensor,
    adversaries: Tensor,
    *,
    temperature: float,
    adversary_temperature: float,
    in_batch_negatives: bool = True,
) -> dict[str, float]:
    """How hard the adversaries are for one batch, in float32 on rows normalised here.

    - adversary_share_in_loss, adversary_share_in_loss_adversary: the part of the softmax's mass that lies on
      adversaries, mean over queries, at the encoder's temperature and at theirs; the rest lies on keys.
    - hardest_adversary_cosine: cosine of a query and its nearest adversary, mean over queries.
    - adversary_norm_min, adversary_norm_mean, adversary_norm_max: of the raw rows.

    Args:
        queries: [N, D].
        keys: [N, D]; row i is the key of query i.
        adversaries: [K, D] raw weights.
        temperature: τ of the encoder's loss.
        adversary_temperature: τ_adv of the adversaries'.
        in_batch_negatives: whether the other images' keys are in the denominator too, as in the loss.

    Raises:
        ValueError: if a temperature is not positive.
    """
    for name, value in (("temperature", temperature), ("adversary_temperature", adversary_temperature)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    with torch.autocast(queries.device.type, enabled=False):  # bfloat16 cosines are too coarse for τ_adv = 0.02
        q, k, weight = F.normalize(queries.float()), F.normalize(keys.float()), adversaries.float()
        to_adversaries = q @ F.normalize(weight).T  # [N, K]
        to_keys = q @ k.T if in_batch_negatives else (q * k).sum(1, keepdim=True)  # [N, N] or [N, 1]

    def share(tau: float) -> float:
        return float(((to_adversaries / tau).logsumexp(1) - (to_keys / tau).logsumexp(1)).sigmoid().mean())

    norms = weight.norm(dim=1)  # [K]
    return {
        "adversary_share_in_loss": share(temperature),
        "adversary_share_in_loss_adversary": share(adversary_temperature),
        "hardest_adversary_cosine": float(to_adversaries.amax(1).mean()),
        "adversary_norm_min": float(norms.min()),
        "adversary_norm_mean": float(norms.mean()),
        "adversary_norm_max": float(norms.max()),
    }


class Verdict(NamedTuple):
    """One word, and a sentence with the numbers it rests on."""

    word: Literal["learning", "plateau", "collapsing", "diverging", "not a number", "too early to say"]
    reason: str


# A change is the median of a curve's last fifth against that of the fifth before: long enough to average noise away,
# short enough to see a turn after a tenth of the run. A fifth is at least WINDOW values, and a verdict needs two of
# them: with fewer, an estimate of the noise is itself mostly noise. Curves measured seldom (all but the loss) make do
# with less.
WINDOW, SHORT_WINDOW = 8, 3
ENOUGH = 2 * WINDOW
# A change is real beyond this many standard errors. Two would do for one look at one curve, but four are looked at
# again and again. Simulated on flat white noise: a false rise in 1 of 200 looks at 16 to 32 values, in none at 100.
STANDARD_ERRORS = 4.0
# Two do to silence an alarm, which is the lesser error.
HINT = 2.0
# Curves drift and are rounded, so noise counts as at least: a thousandth of the loss; half a dimension of rank; 0.01
# of a cosine; 0.4 points of kNN, the standard error of 80 % on 10 000 images.
LEAST_NOISE = {"loss": 0.001, "effective rank": 0.5, "spread": 0.01, "separation": 0.01, "kNN top-1": 0.4}
# A loss diverges if its rise is plain to the eye: six standard deviations of a single value. Simulated without change:
# never in white noise or Student's t with 3 degrees of freedom, 1 in 1 000 where neighbours correlate by 0.5 ...
VISIBLE = 6.0
# ... and if it gives back a quarter of what was won. Harder adversaries, or a queue that fills, raise it by less.
LOST_GROUND = 0.25
# At spread 0.2 two different images have a mean cosine of 1 − 0.2² = 0.96, if all dimensions spread alike. Networks may
# start there (a head without BatchNorm), so a spread never twice as high is an alarm only after this many values.
LOW_SPREAD, PATIENCE = 0.2, 4 * ENOUGH
# Four dimensions hold a simplex of five classes; a healthy run uses tens of its 128. A rank never twice as high may
# be bounded by a small batch: no alarm.
LOW_RANK = 4.0


def verdict(history: Sequence[Mapping[str, float | str]]) -> Verdict:
    """What a run's records so far say: the first rule that holds. The constants above give each threshold's reason.

    1. not a number: the latest value of some key is not finite.
    2. too early to say: no curve has 16 values.
    3. collapsing: spread is below 0.2 or effective rank below 4, it was twice as high before (or: spread was not, but
       has 64 values), and neither it nor kNN so much as hints at a rise.
    4. diverging: the loss rises by six times its noise and stands above its best by a quarter of all it had won, while
       nothing hints at a rise: not kNN, effective rank or separation. A rising loss alone is no alarm: when
       adversaries get harder it rises although the encoder learns.
    5. learning: the loss falls or one of those three rises, and kNN does not fall.
    6. plateau: none of these.

    Separation is positive_cosine − (1 − spread²): how much nearer a query is to its key than to other images.

    Args:
        history: oldest first, one mapping per logged step or epoch. Read are loss, spread, effective_rank,
            positive_cosine and knn_top1 (in %), and any may be missing. Text is passed over.
    """
    numbers = [{key: x for key, x in record.items() if isinstance(x, int | float)} for record in history]
    for key, latest in {key: x for record in numbers for key, x in record.items()}.items():
        if not math.isfinite(latest):
            return Verdict("not a number", f"The latest {key} is {latest}.")
    loss, spread, rank, knn = (_curve(numbers, key) for key in ("loss", "spread", "effective_rank", "knn_top1"))
    most = max(map(len, (loss, spread, rank, knn)))
    if most < ENOUGH:
        return Verdict("too early to say", f"{most} values so far, a verdict needs {ENOUGH}.")

    knn_trend = _trend("kNN top-1", knn)
    low = _collapse("spread", spread, LOW_SPREAD) or _collapse("effective rank", rank, LOW_RANK)
    if low and not knn_trend.hints:
        return Verdict("collapsing", low)

    loss_trend = _trend("loss", loss)
    health = (knn_trend, _trend("effective rank", rank), _trend("separation", _separation(numbers)))
    shown = (loss_trend, *health, _trend("spread", spread))
    evidence = ", ".join(str(trend) for trend in shown if trend.known)
    if _loss_climbs(loss, loss_trend) and not any(trend.hints for trend in health):
        return Verdict("diverging", f"Nothing improves while the loss climbs: {evidence}.")
    if (loss_trend.fell or any(trend.rose for trend in health)) and not knn_trend.fell:
        return Verdict("learning", f"Better than before: {evidence}.")
    return Verdict("plateau", f"No progress beyond noise: {evidence}.")


Curve = NDArray[np.float64]


def _curve(numbers: Sequence[Mapping[str, float]], key: str) -> Curve:
    return np.array([record[key] for record in numbers if math.isfinite(record.get(key, math.nan))], np.float64)


def _separation(numbers: Sequence[Mapping[str, float]]) -> Curve:
    both = [
        record
        for record in numbers
        if math.isfinite(sum(record.get(key, math.nan) for key in ("spread", "positive_cosine")))
    ]
    return _curve(both, "positive_cosine") - 1 + _curve(both, "spread") ** 2


class _Trend(NamedTuple):
    """A curve's median before and now, the noise of one value, the standard error of the change; NaN if unknown."""

    name: str
    before: float = math.nan
    now: float = math.nan
    noise: float = math.nan
    error: float = math.nan

    @property
    def known(self) -> bool:
        return not math.isnan(self.now)

    @property
    def rose(self) -> bool:
        return self.now - self.before > STANDARD_ERRORS * self.error

    @property
    def hints(self) -> bool:
        return self.now - self.before > HINT * self.error

    @property
    def fell(self) -> bool:
        return self.before - self.now > STANDARD_ERRORS * self.error

    def __str__(self) -> str:
        verb = "rose" if self.rose else "fell" if self.fell else "stays"
        return f"{self.name} {verb} ({self.before:.3g} → {self.now:.3g})"


def _trend(name: str, curve: Curve) -> _Trend:
    if len(curve) < 2:
        return _Trend(name)
    width = max(len(curve) // 5, min(len(curve) // 2, WINDOW if name == "loss" else SHORT_WINDOW))
    recent = curve[-2 * width :]
    before, now = float(np.median(recent[:width])), float(np.median(recent[width:]))
    # Noise is what a jump between the two medians, or a line through them, leaves: a change must not count as noise.
    jump = np.repeat([before, now], width)
    line = (before + now) / 2 + (now - before) / width * (np.arange(2 * width) - width + 0.5)
    steps = np.diff(recent) / math.sqrt(2)  # what changes steadily, straight or not, hardly shows from one to the next
    left = min(float(np.median(np.abs(rest))) for rest in (recent - jump, recent - line, steps))
    least = LEAST_NOISE[name] * (abs(before) if name == "loss" else 1)
    noise = max(1.4826 * left, least)  # a normal distribution's standard deviation is 1.4826 median deviations
    # ... and the standard error of its median is 1.2533 σ/√n, of a difference of two √2 times that
    return _Trend(name, before, now, noise, 1.2533 * math.sqrt(2 / width) * noise)


def _levels(curve: Curve) -> Curve:
    """Medians of successive windows from the start, whole windows only."""
    whole = len(curve) // WINDOW * WINDOW
    return np.median(curve[:whole].reshape(-1, WINDOW), axis=1)


def _collapse(name: str, curve: Curve, low: float) -> str | None:
    if len(curve) < ENOUGH or (now := float(np.median(curve[-WINDOW:]))) >= low or _trend(name, curve).hints:
        return None
    if (best := float(_levels(curve).max())) > 2 * now:
        return f"The {name} is down to {now:.2g} from {best:.2g} and does not recover (alarm below {low:g})."
    if name == "spread" and len(curve) >= PATIENCE:
        return f"The spread is {now:.2g} and never left that level (alarm below {low:g})."
    return None


def _loss_climbs(loss: Curve, trend: _Trend) -> bool:
    if len(loss) < ENOUGH or not trend.now - trend.before > VISIBLE * trend.noise:
        return False
    levels = _levels(loss)
    return trend.now - float(levels.min()) > LOST_GROUND * float(levels[0] - levels.min())
