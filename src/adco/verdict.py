"""Is it learning or collapsing? A verdict in words, from the numbers in a run's records.

Pure functions: plain numbers in, words out. What to try after a bad word is in `advice.py`.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from adco.floor import floor_of
from adco.trends import Curve, Record, Trend, curve, latest, levels, separation, trend
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
    """A word, and a sentence with the numbers it rests on."""

    word: Word
    reason: str


# Values of a curve before a trend is judged. Simulated on flat noise: with 8 values 38 of 1 000 runs are called
# "learning" by mistake, with 6 it is 84, with 16 it is 9.
ENOUGH = 8
# An alarm for collapse needs this many records in a row. One or two may be an unlucky batch.
ALARM = 3
# A collapse that has lasted this part of the run is final. Of 81 runs that ended well, one had been so low for so long
# (benchmarks/results/verdicts.json).
LASTS = 1 / 20
# Five of 128 dimensions hold a simplex of six classes; of the runs that ended well, one was down at 6.6 on its way. In
# proportion where the batch or the width allows fewer, but never below 1, the rank of a point.
LOW_RANK = 5.0
# At spread 0.1 two different images have a mean cosine of 1 − 0.1² = 0.99. Heads without BatchNorm start at 0.2 to 0.5.
LOW_SPREAD = 0.1
# A network may start low, so a value that was never twice as high is an alarm only after this part of the run, or this
# many values where the run's length is unknown.
PATIENCE, PATIENT_VALUES = 1 / 5, 64
# A value that grows by a tenth, and by a twentieth of the alarm's level, while it is low is recovering; from batch to
# batch a low rank mostly varies by less.
GROWS, GROWS_OF_LOW = 0.1, 0.05
# Queries that find their own key this much more often than by chance, in % points: not collapsed. The mean of three
# records was below in ten of eleven collapsed runs.
FINDS_ITS_OWN = 2.0
# A loss diverges if its rise is plain to the eye: six standard deviations of a single value. Simulated without change:
# never in white noise or Student's t with 3 degrees of freedom, 1 in 1 000 where neighbours correlate by 0.5 ...
VISIBLE = 6.0
# ... and if it gives back a quarter of what was won. Harder adversaries, or a queue that fills, raise it by less.
LOST_GROUND = 0.25
# In the last tenth of a cosine the rate is below 2.5 % of its peak: a curve that has become flat is at its end.
ENDS = 0.9


def verdict(history: Sequence[Record], steps: int | None = None) -> Verdict:
    """What a run's records so far say: the first rule that holds. The constants above give each threshold's reason.

    1. not a number: the latest value of some key is not finite.
    2. collapsing: effective rank is at most 5 of 128 or spread at most 0.1 in three records in a row, it was twice as
       high before (or a fifth of the run is over), and it does not recover. collapsed: so for a twentieth of the run,
       kNN is not above random weights, and queries find their own key no more often than by chance.
    3. too early to say: no curve has 8 values, or what would be "not learning" in the first fifth of the run.
    4. diverging: the loss rises by six times its noise and stands above its best by a quarter of all it had won, while
       nothing hints at a rise: not kNN, instance top-1, effective rank or separation. A rising loss alone is no
       alarm: when adversaries get harder it rises although the encoder learns.
    5. not learning: kNN is below that of random weights by more than noise, or the effective rank is low; without
       labels, at the end of the run, also if instance top-1 is not above that of the first step.
    6. learning: the tracker (kNN, without labels instance top-1) rose; or the loss fell, or rank or separation rose,
       while the tracker did not fall.
    7. finished: the run is over, or in its last tenth and flat.
    8. plateau: none of these.

    Args:
        history: oldest first, one mapping per record. Read are step, loss, spread, effective_rank, max_rank,
            positive_cosine, instance_top1, instance_chance, knn_top1, knn_top1_random (all in %) and knn_queries;
            any may be missing. Text is ignored.
        steps: of the whole run, if known.
    """
    for key, value in {key: x for record in history for key, x in record.items()}.items():
        if isinstance(value, int | float) and not math.isfinite(value):
            return Verdict("not a number", f"the latest {key} is {value}")
    if collapse := _collapse(history, steps):
        return collapse
    done, loss, knn = _done(history, steps), curve(history, "loss"), curve(history, "knn_top1")
    rank, spread = curve(history, "effective_rank"), curve(history, "spread")
    most = max(map(len, (loss, knn, rank, spread)))
    if most < ENOUGH and done < 1:
        return Verdict("too early to say", f"{counted(most, 'record')} so far, a verdict needs {ENOUGH}")
    trends = _Trends(
        trend("loss", loss),
        trend("kNN top-1", knn),
        trend("instance top-1", curve(history, "instance_top1")),
        trend("effective rank", rank),
        trend("separation", separation(history)),
    )
    if done >= PATIENCE and _loss_climbs(loss, trends.loss) and not any(one.hints for one in trends[1:]):
        return Verdict("diverging", f"nothing improves while the loss climbs: {trends}")
    if reason := _below_floor(history, at_end=done >= 1):
        return Verdict("not learning" if done >= PATIENCE else "too early to say", reason)
    if done < 1 and trends.learning:
        return Verdict("learning", str(trends))
    if done >= ENDS:
        return Verdict("finished", _gain(history) or str(trends))
    return Verdict("plateau", f"no progress beyond noise: {trends}")


class _Trends(NamedTuple):
    loss: Trend
    knn: Trend
    instance: Trend
    rank: Trend
    separation: Trend

    @property
    def learning(self) -> bool:
        tracker = self.knn if self.knn.known else self.instance
        others = self.loss.fell or self.instance.rose or self.rank.rose or self.separation.rose
        return tracker.rose or (others and not tracker.fell)

    def __str__(self) -> str:
        return ", ".join(str(one) for one in self if one.known)


def _done(history: Sequence[Record], steps: int | None) -> float:
    """The part of the run that is over; without the number of steps, a half: neither early nor late."""
    return latest(history, "step") / steps if steps and history else 0.5


def _collapse(history: Sequence[Record], steps: int | None) -> Verdict | None:
    reason = collapse_reason(history, steps)
    if reason is None:
        return None
    if steps is None:
        return Verdict("collapsing", reason)
    measured = [record for record in history if "effective_rank" in record or "knn_top1" in record]
    begin = latest(history, "step") - LASTS * steps
    recent = [record for record in measured if float(record.get("step", 0)) > begin]
    lasting = max(ALARM, len(curve(recent, "effective_rank")))
    if collapse_reason(history, steps, lasting) and not _knn_lives(history, recent) and not _finds_its_own(history):
        return Verdict("collapsed", reason)
    return Verdict("collapsing", reason)


def looks_collapsed(history: Sequence[Record], steps: int | None = None) -> bool:
    """Whether the latest record looks collapsed: low, and queries do not find their own keys."""
    return collapse_reason(history, steps, lasting=1) is not None and not _finds_its_own(history)


def collapse_reason(history: Sequence[Record], steps: int | None = None, lasting: int = ALARM) -> str | None:
    """Why the embeddings look collapsed in each of the last `lasting` records, or None."""
    lows = {"effective_rank": low_rank(latest(history, "max_rank")), "spread": LOW_SPREAD}
    for key, low in lows.items():
        values = curve(history, key)
        last = values[-lasting:]
        if len(last) < lasting or last.max() > low or _recovers(last, low):
            continue
        best, now, name = float(values.max()), float(np.median(last)), key.replace("_", " ")
        if best > 2 * now:
            return f"{name} is down to {now:.2g} from {best:.2g} (alarm at {low:.2g})"
        if _done(history, steps) >= PATIENCE if steps else len(values) >= PATIENT_VALUES:
            return f"{name} is {now:.2g} and never left that level (alarm at {low:.2g})"
    return None


def low_rank(max_rank: float) -> float:
    """The effective rank at which embeddings count as collapsed, of the most that batch and width allow."""
    return LOW_RANK if math.isnan(max_rank) else 1 + (LOW_RANK - 1) * min(1.0, (max_rank - 1) / 127)


def _recovers(last: Curve, low: float) -> bool:
    third = max(1, len(last) // 3)
    before, now = float(np.median(last[:third])), float(np.median(last[-third:]))
    return now - before > GROWS * before + GROWS_OF_LOW * low


def _knn_lives(history: Sequence[Record], recent: Sequence[Record]) -> bool:
    """True if a kNN measured since the collapse is above random weights; an older one says nothing."""
    floor = floor_of(history)
    return floor is not None and len(curve(recent, "knn_top1")) > 0 and floor.is_above


def _finds_its_own(history: Sequence[Record]) -> bool:
    hits = curve(history, "instance_top1")[-ALARM:]
    return len(hits) > 0 and float(hits.mean()) > latest(history, "instance_chance") + FINDS_ITS_OWN


def _below_floor(history: Sequence[Record], at_end: bool) -> str | None:
    """Why the run cannot be called learning, or None."""
    rank, low = curve(history, "effective_rank")[-ALARM:], low_rank(latest(history, "max_rank"))
    if len(rank) == ALARM and rank.max() <= low:
        return f"effective rank is {np.median(rank):.2g} (alarm at {low:.2g})"
    floor = floor_of(history)
    if floor is None or math.isnan(floor.random):
        return None
    if floor.name == "kNN" and floor.is_below:
        return f"below random weights: {floor}"
    if at_end and floor.name != "kNN" and not floor.is_above:
        return f"not above {floor.source} by more than chance: {floor}"
    return None


def _gain(history: Sequence[Record]) -> str | None:
    floor = floor_of(history)
    if floor is None:
        return None
    if math.isnan(floor.random):
        return f"{floor.name} {floor.now:.1f} %"
    if not floor.is_above:
        return f"{floor}: no difference beyond chance, which explains up to {floor.noise:.1f} points"
    return f"{floor.name} {floor.now:.1f} %, {floor.now - floor.random:.1f} points above {floor.source}"


def _loss_climbs(loss: Curve, now: Trend) -> bool:
    if len(loss) < 2 * ENOUGH or not now.now - now.before > VISIBLE * now.noise:
        return False
    known = levels(loss)
    return now.now - float(known.min()) > LOST_GROUND * float(known[0] - known.min())
