"""The settings that all methods share, one class per topic, with their defaults and the source of each default.

The topics are the sections of `adco pretrain --help`. `PretrainSettings` inherits from all of them, so every setting
has one flat name as a flag, as a key of a recipe and as a Python keyword.

A setting of type `int | Unset` may be left unset: it is None until a value is chosen for the images. The type parameter
`Unset` tells a type checker whether that has happened. `PretrainSettings[None]`, called `Given` in `pretrain.py`, are
the settings as the user gave them, where `int | Unset` is `int | None`. `PretrainSettings[Never]`, called `Resolved`,
have a value for every setting: `int | Never` is `int`.

In an explanation, "Chosen:" introduces the value that a setting gets if it is left unset.

Sources: "paper" is AdCo (arXiv 2011.08435) with its appendix, "published code" its authors' release, "MoCo v2" is
arXiv 2003.04297, "MoCo v3" 2104.02057, "CaCo" 2203.14370, "SimCLR" 2002.05709, "BYOL" 2006.07733, "SimSiam" 2011.10566.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal

from typing_extensions import TypeVar

from adco.config.checks import check_crop_scale, require
from adco.errors import InputError

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"]
Optimizer = Literal["sgd", "muon", "adamw", "lars"]
Stem = Literal["auto", "cifar", "standard"]

Unset = TypeVar("Unset", bound=None, default=None)  # None in settings as given, Never in resolved settings
# The default of a setting whose value is chosen for the images, the run's length and the machine.
TO_BE_CHOSEN: Any = None

# Larger numbers are mistakes. They would allocate all memory, or be too large for torch.
MOST = 10**9  # steps, epochs, widths, numbers of negatives
LARGEST = 4096  # side in pixels of an image that a network gets


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Settings that belong together."""

    TOPIC: ClassVar[str]  # the title of their section in --help

    def check(self) -> None:
        """Raise an InputError that names the first impossible setting, its value, and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(Topic, Generic[Unset]):
    """What to train on.

    Args:
        data: a folder of images, several folders (folders:a/,b/), a text or CSV file with their paths (list:FILE),
            WebDataset shards (wds:PATTERN), a Hugging Face data set (hf:NAME), or a named set: cifar10, cifar100,
            stl10, imagenette, eurosat, fashion-mnist or digits. With the suffix -validation, as in cifar10-validation,
            a fifth of the set's training images becomes the test split, for choosing settings. Required. Training never
            uses the labels.
        class_level: level of the folders that are the classes: 1 for the folders directly in the data folder (or in
            its train/), 2 for the folders in those; 0 for the first level with at least two folders.
        max_unreadable: the share of damaged files, 0 to 1, above which the run stops.
        channels: channels of an image: 3 for RGB; 1 for grey, to which other images are converted; any other number
            must be that of the images, such as the bands of a TIFF. Without three channels, views are not changed in
            saturation or hue and not converted to grey.
        white_level: the value that becomes white in images of more than 8 bits per channel: 4095 for 12 bits, which are
            often kept in 16-bit files; larger values become white, too.
    """

    TOPIC: ClassVar[str] = "data"

    data: str | Unset = TO_BE_CHOSEN
    class_level: int = 0
    max_unreadable: float = 0.01
    channels: int = 3
    white_level: int = 65_535

    def check(self) -> None:
        super().check()
        require(self, "class_level", at_least=0)
        require(self, "channels", at_least=1)
        require(self, "white_level", at_least=1, at_most=65_535)
        require(self, "max_unreadable", at_least=0, at_most=1)

    def require_data(self) -> str:
        """Return the data, or raise an InputError that says what to give."""
        # An empty name, often that of an unset shell variable, would mean the current folder.
        if self.data is None or self.data == "":
            raise InputError(
                "data is missing: give a folder of images (adco pretrain photos/) or one of cifar10, fashion-mnist, "
                "digits; adco demo shows an example"
            )
        return self.data


@dataclass(frozen=True, kw_only=True)
class RunSettings(Topic, Generic[Unset]):
    """How long to train, the size of a step, and where to write.

    Args:
        out: the run directory; by default runs/METHOD-DATA-TIME.
        seed: seed of all random numbers: weights, order of the images, views.
        epochs: passes over the images (paper: 200). A run that sees fewer than 25.6 million images, summed over all
            epochs, is called a short run below.
        minutes: time limit of the run in minutes, instead of `epochs`. The run trains as many whole epochs as fit, but
            at least one.
        batch_size: images per step, over all devices together (paper: 256). Chosen: 256; with fewer than eight steps
            per epoch a smaller power of two, but at least 32.
        accumulate: number of parts into which the batch of a step is divided to save memory; their gradients are added
            up.
        workers: processes per device that make views. Chosen: 0 for images in memory; otherwise the cores of the
            machine divided by its devices, at most 16.
    """

    TOPIC: ClassVar[str] = "run"

    out: str = ""
    seed: int = 0
    epochs: int = 200
    minutes: float = math.inf
    batch_size: int | Unset = TO_BE_CHOSEN
    accumulate: int = 1
    workers: int | Unset = TO_BE_CHOSEN

    def check(self) -> None:
        super().check()
        for name in ("epochs", "batch_size", "accumulate"):
            require(self, name, at_least=1, at_most=MOST)
        require(self, "minutes", above=0, finite=False)
        require(self, "seed", at_least=0, at_most=2**63 - 1)
        require(self, "workers", at_least=0, at_most=1024)
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise InputError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Topic, Generic[Unset]):
    """The backbone.

    Args:
        weights: weights to start from: a run directory, a file of weights or a checkpoint of this or another program
            (.safetensors, .pth, .ckpt, ...), or the word pretrained for timm's weights of the backbone. By default
            random weights.
        continue_method: whether to take over all other parts of the method from the weights, too: projector, momentum
            encoder, and adversaries or queue. The weights must be a run or a checkpoint of the same method, or of the
            published code of AdCo or MoCo. The flag is also called --continue.
        freeze: number of first stages of the backbone that are not trained: 1 for the stem, 2 for the stem and the next
            stage, and so on; a vision transformer's stages are its blocks. Needs weights.
        fixed_patches: whether the first layer of the backbone, the patch projection of a vision transformer, keeps its
            random weights. With AdamW, training is then more stable (MoCo v3). Chosen: true for a vision transformer
            that is trained with adamw from random weights; else false.
        backbone: name of a timm model: a CNN (paper: resnet50), a vision transformer or any other that returns one
            vector per image. Chosen: that of the weights, if they are from a run; else resnet18, which can be trained
            on a laptop.
        backbone_args: further arguments for timm.create_model, such as {channels: [32, 64, 128, 256]}. Networks that
            are built for one size of images get img_size = test_image_size without being asked, and dynamic_img_size
            where timm has it. Chosen: those of the weights, or none.
        stem: the first layers of the backbone. standard: as timm builds them; cifar: adapted to small images (ResNet: a
            3x3 convolution of stride 1 without max-pool; other CNNs: the strides of the stem set to 1); auto: without
            weights, cifar up to an image_size of 64, else standard; with weights of a run, the stem of that run; with
            other weights, standard. Networks without such layers (VGG) and networks that are built for one size of
            images (vision transformers) are left unchanged.
    """

    TOPIC: ClassVar[str] = "network"

    weights: str = ""
    continue_method: bool = False
    freeze: int = 0
    fixed_patches: bool | Unset = TO_BE_CHOSEN
    backbone: str | Unset = TO_BE_CHOSEN
    backbone_args: dict[str, Any] | Unset = TO_BE_CHOSEN
    stem: Stem = "auto"

    def check(self) -> None:
        super().check()
        require(self, "freeze", at_least=0)
        if self.freeze and not self.weights:
            raise InputError(f"freeze {self.freeze} needs weights: random ones should be trained")
        if self.continue_method and not self.weights:
            raise InputError("continue_method needs weights: a run or a checkpoint to continue")


@dataclass(frozen=True, kw_only=True)
class ViewSettings(Topic, Generic[Unset]):
    """The random views of an image.

    Args:
        image_size: side of a view in pixels. Chosen: the median of the images' shorter sides, at most 224 (paper). A
            median above 64 px is rounded down to a multiple of 32.
        test_image_size: side of an image at test time, in pixels. Chosen: image_size.
        crop_scale: smallest and largest share of the image's area that a crop covers (paper).
        brightness: strength of the brightness jitter: factors of 1 ± brightness (MoCo v2; so are the defaults of the
            following settings, up to flip_probability).
        contrast: strength of the contrast jitter: factors of 1 ± contrast.
        saturation: strength of the saturation jitter: factors of 1 ± saturation.
        hue: largest rotation of the hue, as a share of the colour circle.
        jitter_probability: probability that a view's colours are jittered.
        grayscale_probability: probability that a view is converted to grey.
        blur_probability: probability that a view is blurred, with a sigma of 0.1 to 2 px.
        flip_probability: probability that a view is mirrored.
        mean: mean of the pixel values of each channel (red, green and blue) in [0, 1], which is subtracted from views.
            Chosen: that of the weights, or ImageNet's; without three channels that of some of the images.
        std: standard deviation of the same values, by which views are divided. Chosen: likewise.
    """

    TOPIC: ClassVar[str] = "views"

    image_size: int | Unset = TO_BE_CHOSEN
    test_image_size: int | Unset = TO_BE_CHOSEN
    crop_scale: tuple[float, float] = (0.2, 1.0)
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    flip_probability: float = 0.5
    mean: tuple[float, ...] | Unset = TO_BE_CHOSEN
    std: tuple[float, ...] | Unset = TO_BE_CHOSEN

    def check(self) -> None:
        super().check()
        for name in ("image_size", "test_image_size"):
            require(self, name, at_least=1, at_most=LARGEST)
        for name in (f"{kind}_probability" for kind in ("jitter", "grayscale", "blur", "flip")):
            require(self, name, at_least=0, at_most=1)
        for name in ("brightness", "contrast", "saturation"):
            require(self, name, at_least=0, at_most=1)
        require(self, "hue", at_least=0, at_most=0.5)
        check_crop_scale("crop_scale", self.crop_scale)
        if self.mean is not None and not all(math.isfinite(value) for value in self.mean):
            raise InputError(f"mean {list(self.mean)} must be finite for each channel")
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            raise InputError(f"std {list(self.std)} must be above 0 and finite for each channel")


@dataclass(frozen=True, kw_only=True)
class ProjectorSettings(Topic):
    """The projector between the backbone and the loss.

    Args:
        dim: width of the embeddings (paper, MoCo v2, SimCLR: 128; BYOL: 256; SimSiam: 2048).
        hidden: width of the hidden layers of the projector, and of BYOL's predictor (paper, MoCo v2, SimCLR,
            SimSiam: 2048, the width of ResNet-50's features; BYOL: 4096).
    """

    TOPIC: ClassVar[str] = "projector"

    dim: int = 128
    hidden: int = 2048

    def check(self) -> None:
        super().check()
        for name in ("dim", "hidden"):
            require(self, name, at_least=1, at_most=MOST)


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings(Topic, Generic[Unset]):
    """The encoder's optimizer and its learning rate.

    Args:
        optimizer: optimizer of the encoder: sgd with momentum 0.9 (paper); muon, whose steps move all directions of a
            weight matrix equally far and which learns several times as much in the first epochs; adamw with betas of
            0.9 and 0.999 (MoCo v3's code, for vision transformers); or lars (SimCLR, BYOL). Adversaries are always
            trained with sgd. Chosen: muon for a short run, else adamw for a vision transformer, else the published one.
        learning_rate: learning rate of the encoder after the warm-up. Chosen: with muon, the method's best value in a
            search on CIFAR-10 (0.05 to 0.2, depending on the method), or a fifth of it for a vision transformer;
            otherwise the published value, scaled in proportion to the batch size. For 256 images it is 0.03 (paper;
            MoCo v2), 0.3 (SimCLR), 0.2 (BYOL), 0.05 (SimSiam), and 1.5e-4 with adamw (MoCo v3).
        backbone_rate: factor of the learning rate for the backbone. Chosen: 1; with weights 0.3, because they need
            smaller steps than a projector that is new; with continue_method 1.
        final_learning_rate: learning rate at the end of the cosine schedule. Chosen: a fiftieth of learning_rate for
            adco and caco (AdCo's published code: 6e-4), 0 for the others.
        warmup_epochs: epochs of linear warm-up from 0; may be a fraction. Chosen: with muon a twentieth of the run, at
            most one epoch; with adamw 40 epochs but at most 40 of 300 (MoCo v3); else as published: 10 epochs but at
            most a tenth of the run (SimCLR, BYOL), or none.
        weight_decay: weight decay of the encoder; lars and adamw leave out biases, norms, position embeddings and
            tokens. Chosen: 1e-4 (paper; MoCo v2, SimSiam); with adamw 0.1 (MoCo v3); with lars 1e-6 (SimCLR) or 1.5e-6
            (BYOL).
    """

    TOPIC: ClassVar[str] = "optimisation"

    optimizer: Optimizer | Unset = TO_BE_CHOSEN
    learning_rate: float | Unset = TO_BE_CHOSEN
    backbone_rate: float | Unset = TO_BE_CHOSEN
    final_learning_rate: float | Unset = TO_BE_CHOSEN
    warmup_epochs: float | Unset = TO_BE_CHOSEN
    weight_decay: float | Unset = TO_BE_CHOSEN

    def check(self) -> None:
        super().check()
        for name in ("learning_rate", "backbone_rate"):
            require(self, name, above=0)
        for name in ("final_learning_rate", "warmup_epochs", "weight_decay"):
            require(self, name, at_least=0)


@dataclass(frozen=True, kw_only=True)
class HardwareSettings(Topic, Generic[Unset]):
    """Where to train, and in which precision.

    Args:
        accelerator: where to train: auto, cpu, gpu or mps.
        devices: auto, or the number of devices per node, or the numbers of GPUs with commas: "1,3", or "1," for one.
        num_nodes: auto, or the number of machines; auto takes what torchrun or SLURM says.
        precision: auto takes bf16-mixed where the hardware supports it, 16-mixed on older GPUs, else 32-true.
        channels_last: whether images have the channels-last memory format. Chosen: true, which is faster on CPU and
            CUDA.
    """

    TOPIC: ClassVar[str] = "hardware"

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int | str = "auto"
    precision: Precision = "auto"
    channels_last: bool | Unset = TO_BE_CHOSEN

    def check(self) -> None:
        super().check()
        if self.num_nodes != "auto" and not (isinstance(self.num_nodes, int) and self.num_nodes > 0):
            raise InputError(f"num_nodes {self.num_nodes} must be auto or a number of machines")


@dataclass(frozen=True, kw_only=True)
class RecordSettings(Topic, Generic[Unset]):
    """What is recorded and saved, and when.

    Args:
        log_every: steps between records in metrics.jsonl. Chosen: a two-hundredth of the run's steps, at most 20.
        stop_when_collapsed: whether to end the run with an error when its embeddings have been collapsed for a
            twentieth of its steps.
        checkpoint_every: steps between checkpoints. Chosen: one checkpoint per epoch.
        keep_every: epochs between checkpoints that are kept, as checkpoints/epoch-N.ckpt, so that a run can go back; 0
            to keep only the last checkpoint.
        knn_images: number of labelled images for the kNN at the end of each epoch; 0 for no kNN.
        tensorboard: whether to write TensorBoard events into the run directory as well.
    """

    TOPIC: ClassVar[str] = "records and checkpoints"

    log_every: int | Unset = TO_BE_CHOSEN
    stop_when_collapsed: bool = True
    checkpoint_every: int | Unset = TO_BE_CHOSEN
    keep_every: int = 0
    knn_images: int = 5000
    tensorboard: bool = False

    def check(self) -> None:
        super().check()
        for name in ("log_every", "checkpoint_every"):
            require(self, name, at_least=1, at_most=MOST)
        for name in ("keep_every", "knn_images"):
            require(self, name, at_least=0)
