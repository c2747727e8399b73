"""Defaults that depend on the images and on the length of the run. At the paper's scale they are the paper's.

The published constants belong to a million steps on a million images. A run on a folder has a few hundred to a few ten
thousand steps, and three things change with that: how fast weights have to move (optimizer, learning rate), over how
many steps the momentum encoder may average, and how many adversaries there are to share the gradient.
docs/decisions.md has what was measured for them, docs/results.md what runs with them reached.

Shapes: n images, N batch, K adversaries, T steps of the run.
"""

from adco.settings import Optimizer

# A run that sees fewer images is short: Muon and a projector with BatchNorm learn more there. That was measured for up
# to half a million images; the paper's 200 epochs of ImageNet see 256 million; what is in between was not measured.
LONG = 25_600_000
LARGEST_BATCH, SMALLEST_BATCH, STEPS_PER_EPOCH = 256, 32, 8
MOST_ADVERSARIES = 8192  # the paper loses at most 0.2 points by an eighth of its 65 536
MOST_IN_SHORT_RUNS = 1024  # awake, more of them displace the other images' keys as negatives
PAPER_RATE = 3.0  # of the adversaries
SHORT_RATE = 1 / 4  # of that in a short run: at its τ_adv all adversaries move at once, and faster ones cost accuracy


def power_of_two(limit: float) -> int:
    """The largest power of two up to a limit; 1 at least."""
    return 1 << max(0, int(limit).bit_length() - 1)


def batch_size(images: int) -> int:
    """256 (paper); fewer where an epoch would have less than eight steps, but at least 32 for their negatives."""
    wanted = max(SMALLEST_BATCH, min(LARGEST_BATCH, power_of_two(images / STEPS_PER_EPOCH)))
    return min(wanted, power_of_two(images))


def is_short(images_seen: int) -> bool:
    """Whether a run sees too few images, over all epochs, for the published optimizer and projector."""
    return images_seen < LONG


def optimizer(published: Optimizer, images_seen: int) -> Optimizer:
    """Muon for a short run."""
    return "muon" if is_short(images_seen) else published


def ema_decay(steps: int, published: float) -> float:
    """1 − 200/T between 0.9 and the published value: the momentum encoder averages over a two-hundredth of the run."""
    return min(published, max(0.9, 1 - 200 / steps))


def split_groups(images: int) -> int:
    """Groups of 32 images of a batch, as in MoCo (8 for 256), but two at least: with one, keys and queries would share
    their statistics."""
    return max(2, min(8, images // 32))


def adversaries(images: int, batch: int, images_seen: int) -> int:
    """K: 8 192, in a short run 1 024; fewer where the images, or a quarter of the run, do not fill so many."""
    most = MOST_IN_SHORT_RUNS if is_short(images_seen) else MOST_ADVERSARIES
    return min(most, power_of_two(images), power_of_two(max(batch, images_seen / 4)))


def temperature(images_seen: int) -> float:
    """0.12 (paper); 0.07 (Wu et al. 2018, MoCo v1) for a short run, in which a sharper softmax teaches more."""
    return 0.07 if is_short(images_seen) else 0.12


def adversary_temperature(images_seen: int) -> float:
    """0.02 (paper); 0.2 for a short run, in which the encoder outruns rows that only the nearest queries move."""
    return 0.2 if is_short(images_seen) else 0.02


def adversary_learning_rate(count: int, images_seen: int) -> float:
    """3.0 for K ≥ 8 192 (paper). The shares of all rows sum to at most one per query, so that the same rate would turn
    each of K rows 8 192 / K times as far. A quarter of that for a short run."""
    return PAPER_RATE * min(1.0, count / MOST_ADVERSARIES) * (SHORT_RATE if is_short(images_seen) else 1)
