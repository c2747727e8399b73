"""The settings of `adco finetune`."""

from dataclasses import dataclass
from typing import Any, Generic, Literal, Never, TypeAlias

from adco.config.checks import check_crop_scale, require
from adco.config.commands import SubjectSettings
from adco.config.topics import TO_BE_CHOSEN, Optimizer, Precision, Unset
from adco.errors import InputError

Schedule: TypeAlias = Literal["cosine", "steps"]
Head: TypeAlias = Literal["probe", "random"]


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(SubjectSettings, Generic[Unset]):
    """What to fine-tune, on which images, and how.

    Args:
        data: labelled images, as for adco evaluate; by default the data of the run.
        out: the run directory of the classifier; by default runs/finetune-DATA-TIME.
        seed: seed of all random numbers: choice of the images, their order and views, and random weights.
        from_scratch: start from random weights, for comparison, with the network, views and epochs of the fine-tuning.
            A network given by --backbone without --weights always starts so.
        labels_per_class: number of training images per class to use; by default all.
        label_share: share of the training images of each class to use, instead of labels_per_class.
        validation_share: share of these images of each class that is held out to choose the best epoch, at which the
            classifier is kept; 0 to train on all of them and keep the last epoch. Chosen: 0.2, but 0 if that were fewer
            than 100 images, which would choose an epoch by chance.
        epochs: passes over the training images. Chosen: as many as have 1000 steps, at least 10 and at most 200.
        batch_size: images per step, over all devices together. Chosen: 64, or all images if there are fewer.
        learning_rate: of the linear layer. Chosen: 0.02 for muon, 0.1 for sgd, 0.001 for adamw, 0.2 for lars.
        backbone_rate: learning rate of the backbone divided by that of the linear layer; 0 trains the linear layer
            alone.
        optimizer: sgd, muon, adamw or lars, as in pretraining.
        weight_decay: weight decay of all weights.
        schedule: of the learning rates. cosine: down to 0 along half a cosine; steps: times 0.2 after 60 and 80 % of
            the epochs (SwAV).
        head: where the linear layer starts. probe: at the linear probe of the training images (Kumar et al. 2022, arXiv
            2202.10054); random: at random weights. Chosen: probe, but random for a backbone with random weights.
        patience: epochs without a better one on the validation images after which training stops. Chosen: half of the
            epochs, at least 10.
        crop_scale: smallest and largest share of the image's area that a random crop covers.
        jitter: strength of the jitter of brightness, contrast and saturation: factors of 1 ± jitter.
        flip_probability: probability that an image is mirrored.
        devices: auto, or the number of devices.
        precision: as in pretraining.
    """

    out: str | None = None
    seed: int = 0
    from_scratch: bool = False
    labels_per_class: int | None = None
    label_share: float | None = None
    validation_share: float | Unset = TO_BE_CHOSEN
    epochs: int | Unset = TO_BE_CHOSEN
    batch_size: int | Unset = TO_BE_CHOSEN
    learning_rate: float | Unset = TO_BE_CHOSEN
    backbone_rate: float = 1.0
    optimizer: Optimizer = "muon"
    weight_decay: float = 1e-4
    schedule: Schedule = "cosine"
    head: Head | Unset = TO_BE_CHOSEN
    patience: int | Unset = TO_BE_CHOSEN
    crop_scale: tuple[float, float] = (0.5, 1.0)
    jitter: float = 0.2
    flip_probability: float = 0.5
    devices: int | str = "auto"
    precision: Precision = "auto"

    def check(self) -> None:
        super().check()
        for name in ("epochs", "batch_size", "patience", "labels_per_class"):
            require(self, name, at_least=1)
        require(self, "seed", at_least=0, at_most=2**63 - 1)
        require(self, "label_share", above=0, at_most=1)
        require(self, "validation_share", at_least=0, at_most=0.9)
        require(self, "learning_rate", above=0)
        for name in ("backbone_rate", "weight_decay"):
            require(self, name, at_least=0)
        for name in ("jitter", "flip_probability"):
            require(self, name, at_least=0, at_most=1)
        check_crop_scale("crop_scale", self.crop_scale)
        if self.labels_per_class and self.label_share:
            raise InputError(
                f"labels_per_class {self.labels_per_class} and label_share {self.label_share} both choose the number "
                "of images: leave one out"
            )
        if self.devices != "auto" and not (isinstance(self.devices, int) and self.devices > 0):
            raise InputError(f"devices {self.devices} must be auto or a number of devices")
        if self.from_scratch and self.head == "probe":
            raise InputError("head probe is of no use with from_scratch: the features are those of random weights")

    @property
    def starts_random(self) -> bool:
        """Whether the backbone starts from random weights."""
        return self.from_scratch or bool(self.backbone and not self.weights)


Given: TypeAlias = FinetuneSettings[None]  # settings as the user gave them: some may be None
Resolved: TypeAlias = FinetuneSettings[Never]  # resolved settings: none of those that are chosen is None

VALIDATION_SHARE, LEAST_VALIDATION = 0.2, 100  # share, and number of images from which any are held out
STEPS, FEWEST, MOST = 1000, 10, 200  # steps to choose the epochs for; bounds of the epochs
BATCH_SIZE = 64
RATES: dict[str, float] = {"sgd": 0.1, "muon": 0.02, "adamw": 1e-3, "lars": 0.2}


def choose_validation_share(settings: Given | Resolved, images: int) -> float:
    """Return the share of the images that is held out for validation.

    Args:
        settings: of the run.
        images: number of labelled images for training and validation.
    """
    if settings.validation_share is not None:
        return settings.validation_share
    return VALIDATION_SHARE if images * VALIDATION_SHARE >= LEAST_VALIDATION else 0.0


def choose(given: Given, images: int, held_out: int) -> dict[str, Any]:
    """Return a value for every setting that is chosen.

    Args:
        given: the settings as the user gave them.
        images: number of training images.
        held_out: number of images for validation.
    """
    batch_size = given.batch_size or min(BATCH_SIZE, images)
    epochs = given.epochs or min(MOST, max(FEWEST, round(STEPS / max(1, images // batch_size))))
    chosen = {
        "validation_share": choose_validation_share(given, images + held_out),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": RATES[given.optimizer],
        "head": "random" if given.starts_random else "probe",
        "patience": max(10, epochs // 2),
    }
    return {name: value for name, value in chosen.items() if getattr(given, name) is None}
