"""The verdict on a run, from its records: whether it is learning, collapsing or neither.

Pure functions of plain numbers. What to try after a bad verdict is in `advice.py`.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from adco.health.floor import accuracy_and_floor
from adco.health.trends import Curve, Record, Trend, curve, latest, levels, separation, trend
from adco.words import counted

Word = Literal[
    "too early to say",
    "learning",
    "plateau",
    "finished",
    "not learning",
    "diverging",
    "collapsing",
    "collapsed",
    "not a number",
]


class Verdict(NamedTuple):
    """A verdict: its name, and the numbers that justify it."""

    word: Word  # its name; "word" in the records
    reason: str


# Number of values a curve needs before its trend is judged. In simulations of noise without a trend, 38 of 1 000 runs
# are wrongly called "learning" with 8 values, 84 with 6 and 9 with 16.
ENOUGH = 8
# Collapse must show in this many consecutive records. One or two may be due to an unlucky batch.
ALARM_RECORDS = 3
# A collapse that has lasted for this part of the run is considered final. Of 81 runs that ended well, one had been at
# the alarm level for that long (benchmarks/results/verdicts.json).
FINAL_AFTER = 1 / 20
# Alarm level of the effective rank, for embeddings whose rank can reach 128. Five dimensions are enough to separate six
# classes (a simplex). One run that ended well dropped to 6.6 during training. If the batch size or the width of the
# embeddings limits the rank to less than 128, the level is scaled down, but not below 1, the rank of identical
# embeddings.
LOW_RANK = 5.0
# Alarm level of the spread (scaled standard deviation of the embeddings, see numbers.py). At 0.1, two different images
# have a mean cosine of 1 − 0.1² = 0.99. Projectors without BatchNorm start at 0.2 to 0.5.
LOW_SPREAD = 0.1
# Embeddings may start with a low rank or spread. A low value that has not dropped to less than half of its maximum
# counts as collapse only after this part of the run or, if the length of the run is unknown, after this many values.
PATIENCE, PATIENCE_VALUES = 1 / 5, 64
# A low value is recovering if it has grown by more than a tenth of itself plus a twentieth of the alarm level. Between
# batches, a low rank mostly varies by less.
RECOVERY, RECOVERY_OF_LEVEL = 0.1, 0.05
# A run is not collapsed if instance top-1 is this many percentage points above chance. In ten of eleven collapsed runs,
# its mean over three records was below that.
ABOVE_CHANCE = 2.0
# A loss diverges if it meets two conditions. First, its rise is obvious: more than six standard deviations of a single
# value. In simulations without a trend, this never happened with white noise or Student's t (3 degrees of freedom), and
# in 1 of 1 000 runs if neighbouring values have a correlation of 0.5.
CLEAR_RISE = 6.0
# Second, it has risen by more than a quarter of its total decrease so far. Harder adversaries, or a queue that is being
# filled, raise the loss by less.
REBOUND = 0.25
# In the last tenth of a cosine schedule, the learning rate is below 2.5 % of its peak, so flat curves are expected.
NEAR_END = 0.9


def verdict(history: Sequence[Record], steps: int | None = None) -> Verdict:
    """Return the verdict on a run from its records so far.

    The rules are tried in this order, and the first that applies gives the verdict. The comments on the constants above
    explain the thresholds. A curve rises or falls if its trend is larger than its noise (see trends.py). "Early" means
    the first fifth of the run.

    1. not a number: the latest value of some key is not finite.
    2. collapsing, or collapsed: in the last three records, the effective rank is at most 5 (of 128) or the spread is at
       most 0.1. In addition, the value is not recovering. Early in the run, it must also have dropped to less than half
       of its highest value. The verdict is "collapsed" if this has lasted for a twentieth of the run, instance top-1 is
       at chance level, and no kNN measured meanwhile is above its floor; otherwise it is "collapsing".
    3. too early to say: no curve has eight values, and the run is not over.
    4. diverging: the run is not early; the loss has risen by six times its noise and by a quarter of its total decrease
       so far; there is no sign (two standard errors) that kNN, instance top-1, effective rank or separation has risen.
       A rising loss alone is no
       alarm: it also rises when the adversaries get harder while the encoder learns.
    5. not learning: kNN is below its floor by more than noise, or the effective rank is at the level of rule 2. At the
       end of a run without labels, also if instance top-1 is not above its floor. Early in the run, the verdict is "too
       early to say" instead.
    6. learning: the run is not over, and kNN rises (without labels: instance top-1) or, measured once, is above its
       floor. Also if kNN does not fall while the loss falls, or while instance top-1, effective rank or separation
       rises.
    7. finished: the run is over or in its last tenth.
    8. plateau: none of the above. Early in the run, the verdict is "too early to say" instead.

    Terms: instance top-1 is the percentage of queries whose nearest key is their own. Separation is how much closer
    queries are to their own keys than to other images. The floor of kNN is the kNN of the network before training; that
    of instance top-1 is the larger of chance and its first value.

    Args:
        history: the records, oldest first. The keys read are step, loss, spread, effective_rank, max_rank,
            positive_cosine, instance_top1, instance_chance, knn_top1, knn_top1_random or knn_top1_start, and
            knn_queries. Any may be missing. Text is ignored.
        steps: number of steps of the whole run, if known.
    """
    for key, value in {key: x for record in history for key, x in record.items()}.items():
        if isinstance(value, int | float) and not math.isfinite(value):
            return Verdict("not a number", f"the latest {key} is {value}")
    if collapse := _collapse(history, steps):
        return collapse
    done, loss, knn = _done(history, steps), curve(history, "loss"), curve(history, "knn_top1")
    rank, spread = curve(history, "effective_rank"), curve(history, "spread")
    longest = max(map(len, (loss, knn, rank, spread)))
    if longest < ENOUGH and done < 1:
        return Verdict("too early to say", f"{counted(longest, 'record')} so far; a verdict needs at least {ENOUGH}")
    trends = _Trends(
        trend("loss", loss),
        trend("kNN top-1", knn),
        trend("instance top-1", curve(history, "instance_top1")),
        trend("effective rank", rank),
        trend("separation", separation(history)),
    )
    if done >= PATIENCE and _loss_diverges(loss, trends.loss) and not any(one.may_have_risen for one in trends[1:]):
        return Verdict("diverging", f"the loss rises and nothing improves: {trends}")
    if reason := _below_floor(history, at_end=done >= 1):
        return Verdict("not learning" if done >= PATIENCE else "too early to say", reason)
    first = accuracy_and_floor(history) if len(knn) == 1 else None
    if done < 1 and first and first.is_above_floor:
        return Verdict("learning", f"{first}, {trends}")
    if done < 1 and trends.learning:
        return Verdict("learning", str(trends))
    if done >= NEAR_END:
        return Verdict("finished", _accuracy(history) or str(trends))
    return Verdict("plateau" if done >= PATIENCE else "too early to say", f"no progress beyond noise: {trends}")


class _Trends(NamedTuple):
    loss: Trend
    knn: Trend
    instance: Trend
    rank: Trend
    separation: Trend

    @property
    def learning(self) -> bool:
        accuracy = self.knn if self.knn.known else self.instance
        others = self.loss.fell or self.instance.rose or self.rank.rose or self.separation.rose
        return accuracy.rose or (others and not accuracy.fell)

    def __str__(self) -> str:
        return ", ".join(str(one) for one in self if one.known)


def _done(history: Sequence[Record], steps: int | None) -> float:
    """Return the fraction of the run that is done. If its length is unknown, 0.5: neither early nor late."""
    return latest(history, "step") / steps if steps and history else 0.5


def _collapse(history: Sequence[Record], steps: int | None) -> Verdict | None:
    reason = collapse_reason(history, steps)
    if reason is None:
        return None
    if steps is None:
        return Verdict("collapsing", reason)
    measured = [record for record in history if "effective_rank" in record or "knn_top1" in record]
    since = latest(history, "step") - FINAL_AFTER * steps
    recent = [record for record in measured if float(record.get("step", 0)) > since]
    lasting = max(ALARM_RECORDS, len(curve(recent, "effective_rank")))
    if (
        collapse_reason(history, steps, lasting)
        and not _knn_above_floor(history, recent)
        and not _above_chance(history)
    ):
        return Verdict("collapsed", reason)
    return Verdict("collapsing", reason)


def looks_collapsed(history: Sequence[Record], steps: int | None = None) -> bool:
    """Return True if the latest record alone meets rule 2 of `verdict`, and instance top-1 is at chance level."""
    return collapse_reason(history, steps, lasting=1) is not None and not _above_chance(history)


def collapse_reason(history: Sequence[Record], steps: int | None = None, lasting: int = ALARM_RECORDS) -> str | None:
    """Return why the embeddings look collapsed in all of the last `lasting` records, or None if they do not."""
    alarm_levels = {"effective_rank": low_rank(latest(history, "max_rank")), "spread": LOW_SPREAD}
    for key, low in alarm_levels.items():
        values = curve(history, key)
        last = values[-lasting:]
        if len(last) < lasting or last.max() > low or _recovers(last, low):
            continue
        best, now, name = float(values.max()), float(np.median(last)), key.replace("_", " ")
        if best > 2 * now:
            return f"{name} dropped from {best:.2g} to {now:.2g} (alarm at {low:.2g})"
        had_time = _done(history, steps) >= PATIENCE if steps else len(values) >= PATIENCE_VALUES
        if had_time:
            return f"{name} is {now:.2g} and was never much higher (alarm at {low:.2g})"
    return None


def low_rank(max_rank: float) -> float:
    """Return the alarm level of the effective rank, given the highest rank that batch and width allow."""
    return LOW_RANK if math.isnan(max_rank) else 1 + (LOW_RANK - 1) * min(1.0, (max_rank - 1) / 127)


def _recovers(last: Curve, low: float) -> bool:
    """Return True if these low values have grown clearly from their first third to their last."""
    third = max(1, len(last) // 3)
    before, now = float(np.median(last[:third])), float(np.median(last[-third:]))
    return now - before > RECOVERY * before + RECOVERY_OF_LEVEL * low


def _knn_above_floor(history: Sequence[Record], recent: Sequence[Record]) -> bool:
    """Return True if a kNN was measured in the recent records and the latest kNN is above its floor."""
    accuracy = accuracy_and_floor(history)
    return accuracy is not None and len(curve(recent, "knn_top1")) > 0 and accuracy.is_above_floor


def _above_chance(history: Sequence[Record]) -> bool:
    hits = curve(history, "instance_top1")[-ALARM_RECORDS:]
    return len(hits) > 0 and float(hits.mean()) > latest(history, "instance_chance") + ABOVE_CHANCE


def _below_floor(history: Sequence[Record], at_end: bool) -> str | None:
    """Return why rule 5 (not learning) applies, or None."""
    rank, low = curve(history, "effective_rank")[-ALARM_RECORDS:], low_rank(latest(history, "max_rank"))
    if len(rank) == ALARM_RECORDS and rank.max() <= low:
        return f"effective rank is {np.median(rank):.2g} (alarm at {low:.2g})"
    accuracy = accuracy_and_floor(history)
    if accuracy is None or math.isnan(accuracy.floor):
        return None
    if accuracy.measure == "kNN" and accuracy.is_below_floor:
        return f"below {accuracy.source}: {accuracy}"
    if at_end and accuracy.measure != "kNN" and not accuracy.is_above_floor:
        return f"not significantly above {accuracy.source}: {accuracy}"
    return None


def _accuracy(history: Sequence[Record]) -> str | None:
    """Return the accuracy and its difference from the floor, or None if there is no accuracy yet."""
    accuracy = accuracy_and_floor(history)
    if accuracy is None:
        return None
    measured = f"{accuracy.measure} {accuracy.now:.1f} %"
    if math.isnan(accuracy.floor):
        return measured
    if not accuracy.is_above_floor:
        return f"{accuracy}: the difference is within noise (up to {accuracy.noise:.1f} points)"
    return f"{measured}, {accuracy.now - accuracy.floor:.1f} points above {accuracy.source}"


def _loss_diverges(loss: Curve, change: Trend) -> bool:
    if len(loss) < 2 * ENOUGH or not change.now - change.before > CLEAR_RISE * change.noise:
        return False
    medians = levels(loss)
    return change.now - float(medians.min()) > REBOUND * float(medians[0] - medians.min())
