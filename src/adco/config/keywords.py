"""The keywords of the functions of `adco.api` and their types, for editors and type checkers.

Explanations, defaults and bounds are in the settings classes. `tests/test_configure.py` checks that all settings of the
package's methods and evaluations are listed here, with the same types. The settings of your own method or evaluation
are accepted, too, but a type checker does not know them: pass them as `**{"name": value}`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from adco.config.topics import Optimizer, Precision, Stem

if TYPE_CHECKING:
    from adco.config.pretrain import Crop
    from adco.methods.query_key import BatchNorm


class PretrainKeywords(TypedDict, total=False):
    """The settings of all methods. None: a value is chosen for the images, the run's length and the machine."""

    method: str
    # data
    data: Any  # a path or name as text, a Path, or images: see `adco.pretrain`
    class_level: int
    max_unreadable: float
    channels: int
    white_level: int
    # run
    out: str | Path
    seed: int
    epochs: int
    minutes: float
    batch_size: int | None
    accumulate: int
    workers: int | None
    # network
    weights: str | Path
    continue_method: bool
    freeze: int
    fixed_patches: bool | None
    backbone: str | None
    backbone_args: dict[str, Any] | None
    stem: Stem
    # views
    image_size: int | None
    test_image_size: int | None
    crop_scale: tuple[float, float]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    jitter_probability: float
    grayscale_probability: float
    blur_probability: float
    flip_probability: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    # projector
    dim: int
    hidden: int
    # optimisation
    optimizer: Optimizer | None
    learning_rate: float | None
    backbone_rate: float | None
    final_learning_rate: float | None
    warmup_epochs: float | None
    weight_decay: float | None
    # hardware
    accelerator: str
    devices: int | str
    num_nodes: int | str
    precision: Precision
    channels_last: bool | None
    # records and checkpoints
    log_every: int | None
    stop_when_collapsed: bool
    checkpoint_every: int | None
    keep_every: int
    knn_images: int
    tensorboard: bool
    # AdCo and MoCo; ema_decay also BYOL, temperature also SimCLR
    symmetric: bool
    ema_decay: float | None
    projector_norm: bool | None
    batch_norm: "BatchNorm"
    split_groups: int | None
    temperature: float | None
    # AdCo
    adversaries: int | None
    adversary_temperature: float | None
    adversary_learning_rate: float | None
    adversary_weight_decay: float
    small_crops: "list[Crop]"
    in_batch_negatives: bool
    warm_start: bool
    warm_start_trains: bool
    # CaCo
    bank: int | None
    bank_learning_rate: float
    # MoCo
    queue: int | None
    # SimSiam
    predictor_hidden: int


class BackboneKeywords(TypedDict, total=False):
    """Which backbone to use if it is not that of a run. None means the default."""

    backbone: str | None
    weights: str | Path | None
    stem: Stem
    image_size: int | None


class UseKeywords(BackboneKeywords, total=False):
    """How to use a backbone on images. None means the default."""

    class_level: int | None
    max_unreadable: float | None
    device: str | None


class SubjectKeywords(UseKeywords, total=False):
    """A backbone, and images to use it on. None means the default."""

    data: str | Path | None


class EvaluateKeywords(SubjectKeywords, total=False):
    """The settings of all evaluations. None means the default."""

    floors: bool
    devices: int | Literal["auto"] | None
    # knn
    k: int | None
    temperature: float
    # linear_sgd
    epochs: int
    batch_size: int
    learning_rate: float
    # former setting of linear, accepted until version 0.2: protocol sgd is now the evaluation linear_sgd
    protocol: str | None


class EmbedKeywords(UseKeywords, total=False):
    """The settings of `adco.embed`. None means the default."""

    split: Literal["all", "train", "test"]


class ProbeKeywords(SubjectKeywords, total=False):
    """The settings of the few-label question. None means the default."""

    against: str | Path | None
    labels_per_class: list[int] | None
    label_shares: list[float]
    draws: int
    seed: int
    devices: int | Literal["auto"]
    out: str | Path | None


class FinetuneKeywords(SubjectKeywords, total=False):
    """The settings of fine-tuning. None means the default, or that a value is chosen for the images."""

    out: str | Path | None
    seed: int
    from_scratch: bool
    labels_per_class: int | None
    label_share: float | None
    validation_share: float | None
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    backbone_rate: float
    optimizer: Optimizer
    weight_decay: float
    schedule: Literal["cosine", "steps"]
    head: Literal["probe", "random"] | None
    patience: int | None
    crop_scale: tuple[float, float]
    jitter: float
    flip_probability: float
    devices: int | str
    precision: Precision


class SearchKeywords(EmbedKeywords, total=False):
    """The settings that `adco.neighbors` and `adco.duplicates` share. None means the default."""

    out: str | Path | None
    sheet: str | Path | None
    embeddings: str | Path | None
    k: int


class NeighborsKeywords(SearchKeywords, total=False):
    """The settings of `adco.neighbors`. None means the default."""

    query: str | Path | None


class DuplicatesKeywords(SearchKeywords, total=False):
    """The settings of `adco.duplicates`. None means the default."""

    against: str | Path | None
    against_split: Literal["all", "train", "test"]
    threshold: float | None


class ExportKeywords(BackboneKeywords, total=False):
    """The settings of an export. None means the default."""

    to: str
    out: str | Path | None
    normalize: bool
    half: bool


class ReportKeywords(SubjectKeywords, total=False):
    """The settings of `adco.report`. None means the default."""

    out: str | Path | None
    images: int
    seed: int
