"""Every setting of a pretraining run, with its default and where that comes from.

Imports no torch, so that `adco --help` is instant. One dataclass for what all methods share, one a method for the rest;
both are flat, so that a flag, a recipe's key and a Python keyword have one name.

Sources: "paper" is AdCo (arXiv 2011.08435) with its appendix, "published code" its authors' release, "MoCo v2" is
arXiv 2003.04297, "SimCLR" 2002.05709, "BYOL" 2006.07733, "SimSiam" 2011.10566.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"]
Optimizer = Literal["sgd", "muon", "lars"]
BatchNorm = Literal["auto", "shuffle", "split", "sync"]
Protocol = Literal["cached", "sgd"]
Stem = Literal["auto", "cifar", "standard"]
Known = TypeVar("Known")
SHARPEST = 0.0016  # temperature of AdCo's losses, below which not even float64 holds exp(cosine / temperature)


@dataclass(kw_only=True)
class PretrainSettings:
    """What all methods share.

    Args:
        data: cifar10, fashion-mnist, digits (with -validation behind the name, some training images are held out as the
            test split, to choose settings by), or a folder of images; required; labels are never trained on.
        class_level: of a folder, which folders below it (or its train/) are the classes: 1 for those directly in it, 2
            for those in them; by default the first level that has at least two folders.
        max_unreadable: share of damaged files, 0 to 1, above which the run stops before training.
        out: the run directory; by default runs/METHOD-DATA-TIME.
        seed: of every random number: weights, order, views.
        epochs: passes over the images (paper: 200). A run that sees fewer than 25 million images, over all epochs, is
            called short below.
        minutes: how long the run may take; chooses the epochs that fit, in place of `epochs`.
        batch_size: images per step, over all devices together (paper: 256). Chosen: 256; where an epoch would have less
            than eight steps, fewer, but at least 32.
        accumulate: batches whose gradients are added up before a step; the batch is divided, not multiplied.
        workers: processes that make views, on each device; by default 0 for images in memory, otherwise one per core,
            at most 16.
        backbone: any CNN of timm by name (paper: resnet50; resnet18 trains on a laptop).
        backbone_args: further arguments of timm.create_model, such as {channels: [32, 64, 128, 256]}.
        stem: the backbone's first layers: standard; cifar, which keep small images at their size (ResNet: a 3x3
            convolution of stride 1 and no max-pool; other CNNs: strides of the stem set to 1); auto for cifar up to an
            image_size of 64. Networks without such layers, such as vision transformers, stay as they are.
        image_size: pixels of a view; by default the images' own size up to 64; above that the next
            multiple of 32 below it, at most 224 (paper).
        test_image_size: pixels of an image at test time; by default image_size.
        crop_scale: a crop's share of the image's area (paper).
        brightness: jitter, each way, of 1 (MoCo v2, as are all colours below).
        contrast: jitter, each way, of 1.
        saturation: jitter, each way, of 1.
        hue: jitter, each way, as a share of the colour circle.
        jitter_probability: how often colours are jittered.
        grayscale_probability: how often a view is grey.
        blur_probability: how often a view is blurred, sigma 0.1 to 2 px.
        flip_probability: how often a view is mirrored.
        mean: of red, green and blue in 0 to 1, to subtract (ImageNet's).
        std: of red, green and blue, to divide by (ImageNet's).
        dim: width of the embeddings (paper, MoCo v2, SimCLR: 128; BYOL: 256; SimSiam: 2048).
        hidden: width of the hidden layers of the projector, and of BYOL's predictor (paper, MoCo v2, SimCLR,
            SimSiam: 2048, as wide as ResNet-50's features; BYOL: 4096).
        optimizer: of the encoder, with momentum 0.9: sgd (paper); muon, whose steps move all directions of a weight
            matrix equally far and which learns several times as much in the first epochs; or lars (SimCLR, BYOL).
            Chosen: muon for a short run, else the published one.
        learning_rate: of the encoder, after the warm-up. Chosen: with muon the best of a search on CIFAR-10, 0.05 to
            0.2; else as published, per 256 images of the batch: 0.03 (paper; MoCo v2), 0.3 (SimCLR), 0.2 (BYOL),
            0.05 (SimSiam).
        final_learning_rate: where the cosine ends. Chosen: a fiftieth of learning_rate for adco (published code: 6e-4),
            0 for the others.
        warmup_epochs: linear rise from 0; may be a fraction. Chosen: with muon a twentieth of the run, at most one
            epoch; else as published: 10 epochs but at most a tenth of the run (SimCLR, BYOL), or none.
        weight_decay: of the encoder; not of biases and norms with lars. Chosen: 1e-4 (paper; MoCo v2, SimSiam); with
            lars 1e-6 (SimCLR) or 1.5e-6 (BYOL).
        accelerator: auto, cpu, gpu, mps: where to train.
        devices: auto, or how many on each node.
        num_nodes: how many machines, started by torchrun or SLURM.
        precision: auto for bf16 where the device has it in hardware, else 32 bits (16-mixed on older GPUs).
        channels_last: memory format of images; by default true, as it helps on CPU and CUDA.
        log_every: steps between records in metrics.jsonl; by default 200 records a run, at most 20 steps apart.
        stop_when_collapsed: whether a run whose embeddings have collapsed for a twentieth of its steps ends with an
            error, instead of training on.
        checkpoint_every: steps between checkpoints; by default one checkpoint an epoch.
        knn_images: labelled images used for the kNN at each epoch's end; 0 for none.
        tensorboard: also write TensorBoard events into the run directory.
    """

    OPTIMIZER: ClassVar[Optimizer] = "sgd"  # the published one
    RATE: ClassVar[float] = 0.03  # the published learning rate for 256 images
    FINAL: ClassVar[float] = 0.0  # where its cosine ends, as a share of the rate
    WARMUP: ClassVar[float] = 0.0  # the published epochs of warm-up
    DECAY: ClassVar[float] = 1e-4  # the published weight decay
    MUON_RATE: ClassVar[float] = 0.05  # the learning rate with muon (docs/results.md)

    method: str
    data: str | None = None
    class_level: int | None = None
    max_unreadable: float = 0.01
    out: str | None = None
    seed: int = 0
    epochs: int = 200
    minutes: float | None = None
    batch_size: int | None = None
    accumulate: int = 1
    workers: int | None = None
    backbone: str = "resnet18"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    stem: Stem = "auto"
    image_size: int | None = None
    test_image_size: int | None = None
    crop_scale: tuple[float, float] = (0.2, 1.0)
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    flip_probability: float = 0.5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    dim: int = 128
    hidden: int = 2048
    optimizer: Optimizer | None = None
    learning_rate: float | None = None
    final_learning_rate: float | None = None
    warmup_epochs: float | None = None
    weight_decay: float | None = None
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    precision: Precision = "auto"
    channels_last: bool | None = None
    log_every: int | None = None
    stop_when_collapsed: bool = True
    checkpoint_every: int | None = None
    knn_images: int = 5000
    tensorboard: bool = False

    def require_data(self) -> str:
        """The data, or a ValueError that says what to give."""
        if not self.data:  # an empty name would be the current folder: an unset variable of a shell
            raise ValueError(
                "data is missing: give a folder of images (adco pretrain photos/) or one of cifar10, fashion-mnist, "
                "digits; adco demo shows an example"
            )
        return self.data

    def check(self) -> None:
        """Raise a ValueError that names the first setting whose value is impossible, the value, and what is allowed."""
        for name in ("epochs", "batch_size", "accumulate", "num_nodes", "log_every"):
            require(self, name, at_least=1)
        for name in ("workers", "knn_images", "warmup_epochs", "weight_decay"):
            require(self, name, at_least=0)
        require(self, "seed", at_least=0, at_most=2**63 - 1)
        for name in ("image_size", "test_image_size", "checkpoint_every", "dim", "hidden", "class_level"):
            require(self, name, at_least=1)
        for name in (*(f"{kind}_probability" for kind in ("jitter", "grayscale", "blur", "flip")), "max_unreadable"):
            require(self, name, at_least=0, at_most=1)
        for name in ("brightness", "contrast", "saturation"):
            require(self, name, at_least=0, at_most=1)
        require(self, "hue", at_least=0, at_most=0.5)
        require(self, "minutes", above=0)
        require(self, "learning_rate", above=0)
        require(self, "final_learning_rate", at_least=0)
        check_scale("crop_scale", self.crop_scale)
        if not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"mean {list(self.mean)} must be finite for each channel")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std {list(self.std)} must be above 0 and finite for each channel")
        if (self.warmup_epochs or 0) > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be at most epochs {self.epochs}")
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")


@dataclass(kw_only=True)
class QueryKeySettings(PretrainSettings):
    """Of methods in which queries meet keys of a momentum encoder: adco and moco.

    Args:
        symmetric: whether both views are queries and both are keys; costs 1.5 times as much, gains 2 points (paper).
        ema_decay: of the momentum encoder, which is an exponential moving average of the encoder (paper, MoCo v2:
            0.999). Chosen: such that it averages over a two-hundredth of the run, between 0.9 and 0.999.
        projector_norm: whether BatchNorm follows each layer of the projector, as in SimCLR. Chosen: yes for a
            short run, as embeddings start in a narrow cone without it; else no (paper, MoCo).
        batch_norm: how keys are kept from sharing batch statistics with their queries: shuffle over devices, split into
            groups on one, or sync over all; auto for shuffle on several devices and split on one.
        split_groups: for split: into how many. Chosen: so many that each has 32 images, 2 to 8 (MoCo's code for one
            GPU: 8 for 256 images).
    """

    symmetric: bool = False
    ema_decay: float | None = None
    projector_norm: bool | None = None
    batch_norm: BatchNorm = "auto"
    split_groups: int | None = None

    def check(self) -> None:
        super().check()
        require(self, "split_groups", at_least=1)
        require(self, "ema_decay", at_least=0, at_most=1)


@dataclass(kw_only=True)
class AdCoSettings(QueryKeySettings):
    """Contrast with negatives that are trained against the encoder (adversaries); the default.

    Args:
        adversaries: K, how many trained negatives (paper: 65536, 16384 or 8192). Chosen: 8192, or 1024 for a short
            run; fewer where the images, or a quarter of the run, do not fill so many.
        temperature: of the encoder's loss (paper: 0.12; 0.14 for K = 8192 and symmetric). Chosen: 0.07 for a short
            run, which a sharper loss teaches more; else 0.12.
        adversary_temperature: of the adversaries' loss (paper: 0.02; 0.03 for K = 8192 and symmetric). Chosen: 0.2 for
            a short run, where few adversaries would get gradient at 0.02; else 0.02.
        adversary_learning_rate: of the adversaries, constant (paper: 3); 0 leaves them as the warm start made them: the
            control that tells what it is worth to train them. Chosen: 3 for 8192 adversaries or more, less in
            proportion for fewer, each of which has a larger share of the gradient; a quarter of that for a short run.
        adversary_weight_decay: of the adversaries (paper). It shortens rows that get no gradient, until a small one
            turns them.
        small_crops: multi-crop: a [size, smallest share, largest share] for each further query; the paper's at 224 px
            are [[192, 0.172, 0.86], [160, 0.143, 0.715], [128, 0.114, 0.571], [96, 0.086, 0.429]].
        in_batch_negatives: whether the other images' keys are negatives too (published code).
        warm_start: whether adversaries start as keys of training images (paper), else at random.
        warm_start_trains: whether the encoder is trained while they are filled, in the first steps, after which the
            momentum encoder starts anew as its copy (published code); else they are filled before the first step, with
            keys of the untrained encoder.
    """

    FINAL: ClassVar[float] = 1 / 50
    MUON_RATE: ClassVar[float] = 0.1

    method: Literal["adco"] = "adco"
    adversaries: int | None = None
    temperature: float | None = None
    adversary_temperature: float | None = None
    adversary_learning_rate: float | None = None
    adversary_weight_decay: float = 1e-4
    small_crops: list[tuple[int, float, float]] = field(default_factory=list)
    in_batch_negatives: bool = True
    warm_start: bool = True
    warm_start_trains: bool = True

    def check(self) -> None:
        super().check()
        require(self, "adversaries", at_least=1)
        for name in ("temperature", "adversary_temperature"):
            require(self, name, at_least=SHARPEST)
        for name in ("adversary_learning_rate", "adversary_weight_decay"):
            require(self, name, at_least=0)
        if self.optimizer == "lars":
            raise ValueError(
                "optimizer lars must be sgd or muon for adco: timm's LARS cannot ascend, as adversaries do"
            )
        for size, *scale in self.small_crops:
            check_scale("small_crops", (scale[0], scale[1]))
            if size < 1:
                raise ValueError(f"small_crops has a size of {size}: a size is at least 1 pixel")


@dataclass(kw_only=True)
class MoCoSettings(QueryKeySettings):
    """MoCo v2: contrast with a queue of earlier images.

    Args:
        queue: K, how many keys of earlier batches are negatives: 65536 (MoCo v2), or the largest power of two that the
            images fill.
        temperature: of the loss (MoCo v2).
    """

    method: Literal["moco"] = "moco"
    queue: int | None = None
    temperature: float = 0.2

    def check(self) -> None:
        super().check()
        require(self, "queue", at_least=1)
        require(self, "temperature", above=0)


@dataclass(kw_only=True)
class SimCLRSettings(PretrainSettings):
    """Contrast with the other images of the batch.

    Batches of 8192 are the paper's; BatchNorm is over all devices.

    Args:
        temperature: of the loss (SimCLR).
    """

    OPTIMIZER: ClassVar[Optimizer] = "lars"
    RATE: ClassVar[float] = 0.3
    WARMUP: ClassVar[float] = 10.0
    DECAY: ClassVar[float] = 1e-6
    MUON_RATE: ClassVar[float] = 0.2

    method: Literal["simclr"] = "simclr"
    temperature: float = 0.1

    def check(self) -> None:
        super().check()
        require(self, "temperature", above=0)


@dataclass(kw_only=True)
class BYOLSettings(PretrainSettings):
    """Predicts a momentum encoder's embedding of the other view; no negatives.

    Batches of 4096 are the paper's; BatchNorm is over all devices.

    Args:
        ema_decay: of the target network at the start; it rises to 1 along a cosine (BYOL: 0.996). Chosen: such that it
            averages over a two-hundredth of the run at the start, between 0.9 and 0.996.
    """

    OPTIMIZER: ClassVar[Optimizer] = "lars"
    RATE: ClassVar[float] = 0.2
    WARMUP: ClassVar[float] = 10.0
    DECAY: ClassVar[float] = 1.5e-6
    MUON_RATE: ClassVar[float] = 0.1

    method: Literal["byol"] = "byol"
    ema_decay: float | None = None
    dim: int = 256
    hidden: int = 4096

    def check(self) -> None:
        super().check()
        require(self, "ema_decay", at_least=0, at_most=1)


@dataclass(kw_only=True)
class SimSiamSettings(PretrainSettings):
    """Predicts the embedding of the other view; neither negatives nor a momentum encoder.

    BatchNorm is over all devices.

    Args:
        predictor_hidden: width of the predictor's hidden layer (SimSiam); the predictor's learning rate is constant.
    """

    RATE: ClassVar[float] = 0.05

    method: Literal["simsiam"] = "simsiam"
    dim: int = 2048
    predictor_hidden: int = 512

    def check(self) -> None:
        super().check()
        require(self, "predictor_hidden", at_least=1)


METHODS: dict[str, type[PretrainSettings]] = {
    "adco": AdCoSettings,
    "moco": MoCoSettings,
    "simclr": SimCLRSettings,
    "byol": BYOLSettings,
    "simsiam": SimSiamSettings,
}


def known(value: Known | None) -> Known:
    """A setting of a run, which `adco.resolve` has chosen where it was not given."""
    assert value is not None
    return value


# Settings that earlier versions did not have, with the values that they used: for the config.yaml of their runs.
ADDED: dict[str, Any] = {"projector_norm": False, "warm_start_trains": False}
# Settings that were renamed. Recipes, flags and keywords may use the old name until version 0.2.
RENAMED = {"momentum": "ema_decay", "test_size": "test_image_size"}


def of_earlier_versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration as the present version would have written it."""
    names = {setting.name for setting in dataclasses.fields(METHODS[config.get("method", "adco")])}
    added = {name: value for name, value in ADDED.items() if name in names}
    return added | {RENAMED.get(name, name): value for name, value in config.items()}


def require(
    settings: object,
    name: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raise a ValueError unless the setting is None or a finite number within the bounds."""
    value = getattr(settings, name)
    if value is None:
        return
    bounds = {"at least": at_least, "above": above, "at most": at_most}
    fits = (
        math.isfinite(value)
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
    )
    if not fits:
        allowed = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        words = allowed if math.isfinite(value) else ["finite", *allowed]
        raise ValueError(f"{name} {value} must be {' and '.join(words)}")


def check_scale(name: str, scale: tuple[float, float]) -> None:
    """Raise a ValueError unless scale is a range of shares of an image's area."""
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"{name} {list(scale)} must be two shares of an image's area, 0 < smallest <= largest <= 1")


def to_dict(settings: PretrainSettings) -> dict[str, Any]:
    """What `config.yaml` holds: everything but `out`, where that file lies, and `minutes`, which became `epochs`."""
    values = dataclasses.asdict(settings)
    del values["out"], values["minutes"]
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


@dataclass(kw_only=True)
class EvaluateSettings:
    """Of an evaluation.

    Args:
        data: labelled images: cifar10, fashion-mnist, digits, or a folder with a folder for each class; by default the
            run's.
        class_level: which folders of the data are the classes, as in pretraining; by default as in the run's, or the
            first level that has at least two folders.
        max_unreadable: share of damaged files, as in pretraining; by default as in the run's, or 0.01.
        backbone: a timm network by name, instead of a run; by default none.
        weights: the network's weights, a .safetensors or .pth file; by default random.
        stem: of a backbone by name: its first layers, as in pretraining.
        image_size: pixels; by default the run's test size; of a network by name, as in pretraining.
        floors: also evaluate raw pixels and the same network with random weights.
        protocol: of the linear probe: cached for features taken once, its one setting chosen on training images; or
            sgd, the papers', on augmented images.
        epochs: of sgd (paper: 100).
        batch_size: of sgd (paper: 256).
        learning_rate: of sgd, falling to a thousandth along a cosine (paper: 10 to 0.01).
        devices: of sgd: auto, or how many.
        k: neighbours that vote; by default 200 (Wu et al. 2018), or a fiftieth of the training images if that is fewer,
            but at least 5.
        temperature: of the votes' weights (Wu et al. 2018 use 0.07; 0.1 is that of MoCo's CIFAR-10 notebook).
        device: cpu, cuda, …; by default a GPU where there is one.
    """

    data: str | None = None
    class_level: int | None = None
    max_unreadable: float | None = None
    backbone: str | None = None
    weights: str | None = None
    stem: Stem = "auto"
    image_size: int | None = None
    floors: bool = False
    protocol: Protocol = "cached"
    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 10.0
    devices: int | str = "auto"
    k: int | None = None
    temperature: float = 0.1
    device: str | None = None

    def check(self) -> None:
        """Raise a ValueError that names the first setting whose value is impossible, the value, and what is allowed."""
        for name in ("image_size", "class_level", "k", "epochs", "batch_size"):
            require(self, name, at_least=1)
        require(self, "max_unreadable", at_least=0, at_most=1)
        require(self, "learning_rate", above=0)
        require(self, "temperature", above=0)
        if self.weights and not self.backbone:
            raise ValueError(f"weights {self.weights!r} need --backbone, the timm network they belong to")
        if self.stem != "auto" and not self.backbone:
            raise ValueError(f"stem {self.stem} is for a --backbone by name: a run keeps the stem it was trained with")


@dataclass(kw_only=True)
class CompareSettings:
    """Of a comparison.

    Args:
        out: folder of the runs and the table; a comparison that was stopped goes on there; by default runs/RECIPE.
        only: do the next stage of one run, named as its folder (adco-8192-0): training, then, called again, evaluation;
            also under torchrun or SLURM; by default all runs.
    """

    out: str | None = None
    only: str | None = None


@dataclass(kw_only=True)
class DemoSettings:
    """Of the demo.

    Args:
        out: the run directory; a demo that was stopped goes on from there.
        seed: of every random number of the pretraining.
    """

    out: str = "runs/demo"
    seed: int = 0
