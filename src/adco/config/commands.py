"""The settings of the commands other than `adco pretrain`."""

import math
from dataclasses import dataclass, field
from typing import Literal

from adco.config.checks import require
from adco.config.topics import LARGEST, MOST, Stem
from adco.errors import InputError

FEWEST_IMAGES = 10  # of a report


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """Which backbone to use if it is not that of a run, and how.

    Args:
        backbone: name of a timm network to use instead of a run; by default none.
        weights: weights to use instead of those of a run, as in pretraining; with a backbone by name, by default
            random ones.
        stem: stem of a backbone given by name, as in pretraining.
        image_size: pixels; by default the run's test_image_size; for a network given by name, chosen as in pretraining.
    """

    backbone: str | None = None
    weights: str | None = None
    stem: Stem = "auto"
    image_size: int | None = None

    def check(self) -> None:
        """Raise an InputError that names the first impossible setting, its value, and what is allowed."""
        require(self, "image_size", at_least=1, at_most=LARGEST)
        if self.stem != "auto" and not self.backbone:
            raise InputError(f"stem {self.stem} is for a --backbone by name: a run keeps the stem it was trained with")

    @property
    def names_backbone(self) -> bool:
        """Whether these settings name the backbone, so that it is not that of a run."""
        return bool(self.backbone or self.weights)


@dataclass(frozen=True, kw_only=True)
class SubjectSettings(BackboneSettings):
    """A backbone, and images to use it on.

    Args:
        data: a folder of images, a named set, or any other data, as in pretraining; by default the data of the run.
        class_level: which level of folders holds the classes, as in pretraining; by default as in the run, or the
            first level with at least two folders.
        max_unreadable: share of damaged files, as in pretraining; by default as in the run, or 0.01.
        device: cpu, cuda, …; by default a GPU where there is one.
    """

    data: str | None = None
    class_level: int | None = None
    max_unreadable: float | None = None
    device: str | None = None

    def check(self) -> None:
        super().check()
        require(self, "class_level", at_least=0)
        require(self, "max_unreadable", at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(SubjectSettings):
    """What to evaluate, and on which images; the settings that all evaluations share.

    Args:
        data: labelled images: a folder with one subfolder per class, a named set, or any other data with labels, as in
            pretraining; by default the data of the run.
        floors: also evaluate raw pixels and the same network with random weights.
        devices: auto, or the number of processes that share the work, each with a device of its own; by default 1, and
            auto for linear_sgd. Also works under torchrun or SLURM.
    """

    floors: bool = False
    devices: int | Literal["auto"] | None = None


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(SubjectSettings):
    """What to embed, with which backbone, and where to write it.

    Args:
        out: the file to write: FILE.parquet, FILE.npz or FILE.csv. An embedding that was stopped goes on there.
        split: all images of the data, or only those of its train or test split.
        devices: auto, or the number of processes, each with a device of its own; also works under torchrun or SLURM.
    """

    out: str | None = None
    split: Literal["all", "train", "test"] = "all"
    devices: int | Literal["auto"] = 1


@dataclass(frozen=True, kw_only=True)
class ReportSettings(SubjectSettings):
    """Which run or backbone a report is about, and on which images.

    Args:
        out: the file to write; by default report.html in the run directory, or in the current directory for a backbone
            by name.
        images: number of images that are drawn, embedded and shown, at random if there are more.
        seed: seed of the random choice.
    """

    out: str | None = None
    images: int = 2000
    seed: int = 0

    def check(self) -> None:
        super().check()
        require(self, "images", at_least=FEWEST_IMAGES)
        if self.out is not None and not self.out.endswith((".html", ".htm")):
            raise InputError(f"out {self.out} must be an .html file")


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(SubjectSettings):
    """What to probe with few labels, and how often.

    Args:
        data: labelled images, as for adco evaluate; by default the data of the run.
        against: other networks, with commas between them: run directories, files of weights, or timm networks by name,
            which get timm's weights.
        labels_per_class: numbers of labels per class. Chosen: 1, 2, 5, 10, 20, 50, ... up to the size of the smallest
            class.
        label_shares: shares of the labels; those with less than one label per class are left out.
        draws: how often each number of labels is drawn; less often, but at least three times, if that were more than
            20 000 labels.
        seed: seed of the draws.
        devices: auto, or the number of processes that extract features, each with a device of its own; also works under
            torchrun or SLURM.
        out: JSON file for the result, with a picture beside it; by default results/probe-DATA.json in the run
            directory. For a network that is not of a run, nothing is written by default.
    """

    against: str | None = None
    labels_per_class: list[int] | None = None
    label_shares: list[float] = field(default_factory=lambda: [0.01, 0.1, 1.0])
    draws: int = 5
    seed: int = 0
    devices: int | Literal["auto"] = 1
    out: str | None = None

    def check(self) -> None:
        super().check()
        require(self, "draws", at_least=1)
        require(self, "seed", at_least=0, at_most=2**63 - 1)
        for name, values, most in (
            ("labels_per_class", self.labels_per_class or [], math.inf),
            ("label_shares", self.label_shares, 1),
        ):
            if not all(0 < value <= most for value in values):
                raise InputError(f"{name} {values} must be above 0" + (" and at most 1" if most == 1 else ""))
        if self.labels_per_class == [] == self.label_shares:
            raise InputError(
                "labels_per_class [] and label_shares [] leave nothing to probe: give a number of one of them"
            )
        if self.out is not None and not self.out.endswith(".json"):
            raise InputError(f"out {self.out} must be a .json file")


@dataclass(frozen=True, kw_only=True)
class SearchSettings(SubjectSettings):
    """Images to search in, and where to write what is found.

    Args:
        out: the table to write: FILE.csv or FILE.parquet.
        sheet: also draw some of what is found into one picture: FILE.jpg, FILE.png or FILE.webp.
        embeddings: a file of `adco embed` with the embeddings of the images, instead of --data, so that they are not
            computed again.
        split: all images of the data, or only those of its train or test split.
        k: number of nearest images.
    """

    out: str | None = None
    sheet: str | None = None
    embeddings: str | None = None
    split: Literal["all", "train", "test"] = "all"
    k: int = 10

    def check(self) -> None:
        super().check()
        require(self, "k", at_least=1)
        if self.embeddings and self.data:
            raise InputError(f"take the images either from --embeddings {self.embeddings} or from --data {self.data}")


@dataclass(frozen=True, kw_only=True)
class NeighborsSettings(SearchSettings):
    """Which images to search for, and among which.

    Args:
        query: an image, a folder of images or any other data, whose neighbours are searched for among the images; by
            default each of the images themselves.
    """

    query: str | None = None


@dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(SearchSettings):
    """Among which images to find duplicates.

    Args:
        against: a folder of images or any other data: find what is both there and in the images, such as test images
            among the training images; by default duplicates among the images themselves.
        against_split: all images of --against, or only those of its train or test split.
        threshold: agreement from 0 to 1 above which two images are duplicates; by default chosen with altered copies of
            500 of the images.
    """

    against: str | None = None
    against_split: Literal["all", "train", "test"] = "all"
    threshold: float | None = None

    def check(self) -> None:
        super().check()
        require(self, "threshold", above=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(BackboneSettings):
    """What to export, and as what.

    Args:
        to: the format: timm, hf (the same folder, for transformers), torchvision, onnx or torch.
        out: the file or folder to write, which must not exist yet; by default RUN/export/NAME, which is replaced, or
            ./NAME for a backbone by name.
        weights: weights to use instead of those of a run, as in pretraining; a backbone by name needs them.
        image_size: side of the images in pixels; by default the run's test_image_size; for a network given by name,
            that of its weights, or timm's.
        normalize: the exported network takes uint8 pixels and normalises them itself; for onnx and torch.
        half: 16-bit weights and computation, with 32-bit input and output; for onnx.
    """

    to: str = ""
    out: str | None = None
    normalize: bool = False
    half: bool = False

    def check(self) -> None:
        super().check()
        if self.backbone and not self.weights:
            raise InputError(f"backbone {self.backbone} has random weights: give --weights, a file or pretrained")


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
class CostSettings:
    """What to estimate the cost of.

    Args:
        devices: number of devices that train together, on all machines; one like them must be here, on which one
            device's share is measured. By default those that the recipe asks for.
        images: number of training images, if they are not on this machine; by default as the recipe says.
    """

    devices: int | None = None
    images: int | None = None

    def check(self) -> None:
        """Raise an InputError that names the first impossible setting, its value, and what is allowed."""
        require(self, "devices", at_least=1)
        require(self, "images", at_least=2, at_most=MOST)


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Settings of the demo.

    Args:
        out: the run directory; a demo that was stopped continues there.
        seed: seed of all random numbers of the pretraining.
    """

    out: str = "runs/demo"
    seed: int = 0
