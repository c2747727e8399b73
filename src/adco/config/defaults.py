"""Defaults that depend on the images and the length of the run.

At the paper's scale they are the paper's, except for the network and K. The published constants are for a million steps
on a million images. A run on a folder has a few hundred to a few tens of thousands of steps. Three things then have to
change: how fast the weights move (optimizer, learning rate), over how many steps the momentum encoder averages, and how
many adversaries share the gradient.
docs/decisions.md has the measurements behind these defaults, docs/results.md the accuracy of runs that use them.

Shapes: n images, N batch, K adversaries, T steps of the run.
"""

from adco.config.topics import Optimizer, Stem

# A run that sees fewer images than this is called short: Muon and a projector with BatchNorm learn more in it. This was
# measured for up to half a million images; the paper's 200 epochs of ImageNet see 256 million. Nothing was measured in
# between.
LONG = 25_600_000
BACKBONE = "resnet18"  # can be trained on a laptop
LARGEST_BATCH, SMALLEST_BATCH, STEPS_PER_EPOCH = 256, 32, 8
MOST_ADVERSARIES = 8192  # the paper loses at most 0.2 points with an eighth of its 65 536
MOST_IN_SHORT_RUNS = 1024  # more, if they get gradient, leave the other images' keys little of the softmax
SMALL_IMAGE = 64  # pixels; images up to this size get the CIFAR stem
ADAPTING_RATE = 0.3  # factor of the learning rate for a backbone that starts from weights
TRANSFORMER_MUON = 0.2  # factor of Muon's learning rate, which was chosen for ResNets, for vision transformers
# AdamW's constants are those of MoCo v3 (arXiv 2104.02057, and its published code) for vision transformers.
ADAMW_RATE = 1.5e-4  # learning rate for a batch of 256 images
ADAMW_DECAY = 0.1
ADAMW_WARMUP = 40  # epochs, of 300
PAPER_RATE = 3.0  # learning rate of the adversaries
# In short runs all adversaries get gradient. The factor of their learning rate is 20 / T within these limits: fast
# adversaries are as good or better in a hundred steps, and cost accuracy in a thousand.
SLOWEST, FASTEST = 1 / 40, 1 / 4


def power_of_two(limit: float) -> int:
    """Return the largest power of two up to a limit, at least 1."""
    return 1 << max(0, int(limit).bit_length() - 1)


def batch_size(images: int) -> int:
    """Return 256 (paper); less if an epoch would have fewer than eight steps, but at least 32 for enough negatives.

    With fewer than 32 images, it is the largest power of two up to their number.
    """
    wanted = max(SMALLEST_BATCH, min(LARGEST_BATCH, power_of_two(images / STEPS_PER_EPOCH)))
    return min(wanted, power_of_two(images))


def is_short(images_seen: int) -> bool:
    """Return whether a run sees too few images, over all epochs, for the published optimizer and projector."""
    return images_seen < LONG


def optimizer(published: Optimizer, images_seen: int, *, transformer: bool = False) -> Optimizer:
    """Return muon for a short run, else adamw for a vision transformer, else the published optimizer."""
    if is_short(images_seen):
        return "muon"
    return "adamw" if transformer else published


def adamw_warmup(epochs: int) -> float:
    """Return the warm-up of AdamW in epochs: 40, but at most the same share of the run as in MoCo v3, 40 of 300."""
    return min(ADAMW_WARMUP, epochs * ADAMW_WARMUP / 300)


def choose_stem(stem: Stem, image_size: int) -> Stem:
    """Resolve stem "auto" by image size: "cifar" up to 64 px, else "standard"."""
    if stem != "auto":
        return stem
    return "cifar" if image_size <= SMALL_IMAGE else "standard"


def log_every(steps: int) -> int:
    """Return the number of steps between records: a two-hundredth of the run, at most 20."""
    return min(20, max(1, steps // 200))


def ema_decay(steps: int, published: float) -> float:
    """Return 1 − 200/T between 0.9 and the published value: the momentum encoder averages over a 200th of the run."""
    return min(published, max(0.9, 1 - 200 / steps))


def split_groups(images: int) -> int:
    """Return the number of groups of 32 images in a batch, as in MoCo (8 for 256), but at least 2.

    In a single group, keys and queries would share their batch statistics.
    """
    return max(2, min(8, images // 32))


def adversaries(images: int, batch: int, images_seen: int) -> int:
    """Return K: 8 192, or 1 024 in a short run.

    Fewer if there are not as many images, or if filling them would take more than a quarter of the run.
    """
    most = MOST_IN_SHORT_RUNS if is_short(images_seen) else MOST_ADVERSARIES
    return min(most, power_of_two(images), power_of_two(max(batch, images_seen / 4)))


def temperature(images_seen: int) -> float:
    """Return 0.12 (paper); 0.07 (Wu et al. 2018, MoCo v1) for a short run, in which a sharper softmax learns more."""
    return 0.07 if is_short(images_seen) else 0.12


def adversary_temperature(images_seen: int) -> float:
    """Return 0.02 (paper); 0.2 for a short run.

    At 0.02 only the nearest queries move an adversary, too seldom to follow the encoder in a short run.
    """
    return 0.2 if is_short(images_seen) else 0.02


def adversary_learning_rate(count: int, images_seen: int, steps: int) -> float:
    """Return 3.0 for K ≥ 8 192 (paper), proportionally less for fewer, and 20 / T of that for a short run.

    The factor 20 / T is at most a quarter, which it is up to 80 steps, and at least a fortieth, from 800 steps on.

    The softmax shares of all adversaries sum to at most one per query, so each of K adversaries has 8 192 / K times the
    share, and at the same rate would turn that many times as far.
    """
    factor = max(SLOWEST, min(FASTEST, 20 / steps)) if is_short(images_seen) else 1
    return PAPER_RATE * min(1.0, count / MOST_ADVERSARIES) * factor
