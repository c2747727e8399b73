"""The settings of the commands other than `adco pretrain`."""

from dataclasses import dataclass
from typing import Literal

from adco.config.checks import require
from adco.config.topics import Stem
from adco.errors import InputError

Protocol = Literal["cached", "sgd"]


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Settings of an evaluation.

    Args:
        data: labelled images: cifar10, fashion-mnist, digits, or a folder with one subfolder per class; by default the
            data of the run.
        class_level: which level of folders holds the classes, as in pretraining; by default as in the run, or the
            first level with at least two folders.
        max_unreadable: share of damaged files, as in pretraining; by default as in the run, or 0.01.
        backbone: name of a timm network to evaluate instead of a run; by default none.
        weights: the network's weights, a .safetensors or .pth file; by default random weights.
        stem: stem of a backbone given by name, as in pretraining.
        image_size: pixels; by default the run's test_image_size; for a network given by name, chosen as in pretraining.
        floors: also evaluate raw pixels and the same network with random weights.
        protocol: protocol of the linear probe. cached: features are extracted once, and the L2 penalty is chosen on
            training images; sgd: the papers' protocol, on augmented images.
        epochs: epochs of sgd (paper: 100).
        batch_size: batch size of sgd (paper: 256).
        learning_rate: initial learning rate of sgd, which falls to a thousandth along a cosine (paper: 10 to 0.01).
        devices: devices of sgd: auto, or how many.
        k: number of neighbours that vote; by default 200 (Wu et al. 2018), or a fiftieth of the training images if
            that is fewer, but at least 5.
        temperature: temperature of the votes' weights (Wu et al. 2018 use 0.07; MoCo's CIFAR-10 notebook uses 0.1).
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
        """Raise an InputError that names the first impossible setting, its value, and what is allowed."""
        for name in ("image_size", "k", "epochs", "batch_size"):
            require(self, name, at_least=1)
        require(self, "class_level", at_least=0)
        require(self, "max_unreadable", at_least=0, at_most=1)
        require(self, "learning_rate", above=0)
        require(self, "temperature", above=0)
        if self.weights and not self.backbone:
            raise InputError(f"weights {self.weights!r} need --backbone, the timm network they belong to")
        if self.stem != "auto" and not self.backbone:
            raise InputError(f"stem {self.stem} is for a --backbone by name: a run keeps the stem it was trained with")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of a comparison.

    Args:
        out: folder of the runs and the table; a comparison that was stopped goes on there; by default runs/RECIPE.
        only: run only the next stage of one run, given by the name of its folder (adco-8192-0): first its training, in
            a second call its evaluation. Also works under torchrun or SLURM. By default all runs.
    """

    out: str | None = None
    only: str | None = None


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Settings of the demo.

    Args:
        out: the run directory; a demo that was stopped continues there.
        seed: seed of all random numbers of the pretraining.
    """

    out: str = "runs/demo"
    seed: int = 0
