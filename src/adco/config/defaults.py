"""Defaults that depend on the images and the length of the run. At the paper's scale they equal the paper's.

The published constants are for a million steps on a million images. A run on a folder has a few hundred to a few ten
thousand steps. Three things change with that: how fast the weights have to move (optimizer, learning rate), over how
many steps the momentum encoder may average, and how many adversaries share the gradient.
docs/decisions.md has the measurements behind them, docs/results.md the accuracy of runs that use them.

Shapes: n images, N batch, K adversaries, T steps of the run.
"""

from adco.config.topics import Optimizer, Stem

# A run that sees fewer images is short: Muon and a projector with BatchNorm learn more there. This was measured for up
# to half a million images; the paper's 200 epochs of ImageNet see 256 million. Nothing was measured in between.
LONG = 25_600_000
LARGEST_BATCH, SMALLEST_BATCH, STEPS_PER_EPOCH = 256, 32, 8
MOST_ADVERSARIES = 8192  # the paper loses at most 0.2 points with an eighth of its 65 536
MOST_IN_SHORT_RUNS = 1024  # more of them, with gradient, displace the other images' keys as negatives
SMALL_IMAGE = 64  # pixels; images up to this size get the CIFAR stem
PAPER_RATE = 3.0  # learning rate of the adversaries
SHORT_RATE = 1 / 4  # factor for short runs: at their τ_adv all adversaries move at once, and faster ones cost accuracy


def power_of_two(limit: float) -> int:
    """Return the largest power of two up to a limit, at least 1."""
    return 1 << max(0, int(limit).bit_length() - 1)


def batch_size(images: int) -> int:
    """Return 256 (paper); fewer if an epoch would have less than eight steps, but at least 32 for enough negatives."""
    wanted = max(SMALLEST_BATCH, min(LARGEST_BATCH, power_of_two(images / STEPS_PER_EPOCH)))
    return min(wanted, power_of_two(images))


def is_short(images_seen: int) -> bool:
    """Return whether a run sees too few images, over all epochs, for the published optimizer and projector."""
    return images_seen < LONG


def optimizer(published: Optimizer, images_seen: int) -> Optimizer:
    """Return muon for a short run, else the published optimizer."""
    return "muon" if is_short(images_seen) else published


def choose_stem(stem: Stem, image_size: int) -> Stem:
    """Resolve stem "auto" by image size: "cifar" up to 64 px, else "standard"."""
    if stem != "auto":
        return stem
    return "cifar" if image_size <= SMALL_IMAGE else "standard"


def log_every(steps: int) -> int:
    """Return the steps between records: 200 records per run, ten of them in its first twentieth; at most 20 steps."""
    return min(20, max(1, steps // 200))


def ema_decay(steps: int, published: float) -> float:
    """Return 1 − 200/T between 0.9 and the published value: the momentum encoder averages over a 200th of the run."""
    return min(published, max(0.9, 1 - 200 / steps))


def split_groups(images: int) -> int:
    """Return how many groups of 32 images a batch has, as in MoCo (8 for 256); at least 2, as in a single group keys
    and queries would share their batch statistics."""
    return max(2, min(8, images // 32))


def adversaries(images: int, batch: int, images_seen: int) -> int:
    """Return K: 8 192, or 1 024 in a short run; fewer if the images, or a quarter of the run, do not fill as many."""
    most = MOST_IN_SHORT_RUNS if is_short(images_seen) else MOST_ADVERSARIES
    return min(most, power_of_two(images), power_of_two(max(batch, images_seen / 4)))


def temperature(images_seen: int) -> float:
    """Return 0.12 (paper); 0.07 (Wu et al. 2018, MoCo v1) for a short run, in which a sharper softmax learns more."""
    return 0.07 if is_short(images_seen) else 0.12


def adversary_temperature(images_seen: int) -> float:
    """Return 0.02 (paper); 0.2 for a short run, in which rows that only the nearest queries move cannot follow the
    encoder."""
    return 0.2 if is_short(images_seen) else 0.02


def adversary_learning_rate(count: int, images_seen: int) -> float:
    """Return 3.0 for K ≥ 8 192 (paper), in proportion less for fewer, and a quarter of that for a short run.

    The softmax shares of all rows sum to at most one per query, so the same rate would turn each of K rows 8 192 / K
    times as far.
    """
    return PAPER_RATE * min(1.0, count / MOST_ADVERSARIES) * (SHORT_RATE if is_short(images_seen) else 1)
