"""The settings of a pretraining run, and the hooks by which a method adds its own.

A method's settings are a subclass of `PretrainSettings` in the method's file: its fields, its defaults, and what the
rest of the package needs to know of the method. Nothing outside that file asks which method it is.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Never, Self, TypeAlias

from adco.config.topics import (
    DataSettings,
    HardwareSettings,
    NetworkSettings,
    OptimizationSettings,
    Optimizer,
    ProjectorSettings,
    RecordSettings,
    RunSettings,
    Topic,
    Unset,
    ViewSettings,
)
from adco.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from adco.health.awake import Note
    from adco.health.trends import Record
    from adco.methods.method import Common, Method

Crop: TypeAlias = tuple[int, float, float]  # size in pixels, smallest and largest share of the image's area


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """The size of a run, from which defaults are chosen."""

    images: int  # in the training set
    batch_size: int
    epochs: int

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def images_seen(self) -> int:
        """Images over all epochs."""
        return self.epochs * self.images


@dataclass(frozen=True, kw_only=True)
class Devices:
    """The devices of a run, from which defaults are chosen."""

    processes: int  # one per device
    batch_size: int  # images of one device in one forward pass
    syncs: bool  # whether BatchNorm can use the statistics of all devices


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(
    DataSettings[Unset],
    RunSettings[Unset],
    NetworkSettings,
    ViewSettings[Unset],
    ProjectorSettings,
    OptimizationSettings[Unset],
    HardwareSettings[Unset],
    RecordSettings[Unset],
    Generic[Unset],
):
    """The settings of a pretraining run.

    Args:
        method: name of the method.
    """

    TOPIC: ClassVar[str] = "method"

    # What the method's authors published, and its learning rate with muon (docs/results.md).
    OPTIMIZER: ClassVar[Optimizer] = "sgd"
    LEARNING_RATE: ClassVar[float] = 0.03  # for a batch of 256 images
    FINAL_LEARNING_RATE: ClassVar[float] = 0.0  # at the end of the cosine, as a share of the learning rate
    WARMUP_EPOCHS: ClassVar[float] = 0.0
    WEIGHT_DECAY: ClassVar[float] = 1e-4
    MUON_LEARNING_RATE: ClassVar[float] = 0.05

    MARKER: ClassVar[str] = "P"  # matplotlib's name of the method's marker in the picture of a comparison

    method: str

    def check(self) -> None:
        super().check()
        if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            raise InputError(f"warmup_epochs {self.warmup_epochs} must be at most epochs {self.epochs}")

    def choose(self, run: RunLength) -> dict[str, Any]:
        """Return a value for each setting of the method that depends on the run. Those that are set are not
        replaced."""
        return {}

    def choose_for_devices(self, devices: Devices) -> dict[str, Any]:
        """Return the settings of the method that depend on the devices, in place of the values they have.

        Raises:
            InputError: if a setting is not possible on these devices.
        """
        return {}

    def chosen_for_devices(self, used: Mapping[str, Any]) -> set[str]:
        """Return the names of the settings that a run had to choose for its devices, whatever was asked.

        Args:
            used: the settings of the run by name.
        """
        return set()

    def for_one_device(self, processes: int) -> Self:
        """Return settings for one device's share of the work, without communication between the processes."""
        return self

    def build(self: "PretrainSettings[Never]", backbone: "nn.Module", width: int, common: "Common") -> "Method":
        """Build the method around a backbone.

        Args:
            backbone: maps images to features of the given width.
            width: F, the width of the features.
            common: what all methods are built with.
        """
        raise NotImplementedError

    def warnings(self: "PretrainSettings[Never]", steps: int) -> Iterable[str]:
        """Return warnings about a run of so many steps."""
        return ()

    def note(self, history: "Sequence[Record]") -> "Note | None":
        """Return what is wrong with the method's own parts, given the records of a run; None if nothing is."""
        return None

    @property
    def images_before_first_step(self) -> int:
        """How many images `Method.warm_start` needs; 0 for a method that needs no warm start."""
        return 0

    @property
    def syncs_batch_norm(self) -> bool:
        """Whether BatchNorm uses the statistics of all devices, where that is possible."""
        return True

    @property
    def further_crops(self) -> list[Crop]:
        """The crops of the views beyond the two of full size."""
        return []

    @property
    def is_symmetric(self) -> bool:
        """Whether both views are queries, or predicted."""
        return True

    @property
    def negatives(self) -> int | None:
        """How many negatives there are beside the batch; None for methods without."""
        return None

    @property
    def trains_negatives(self) -> bool:
        """Whether the negatives are trained."""
        return False


Asked: TypeAlias = PretrainSettings[None]
Used: TypeAlias = PretrainSettings[Never]


def topics(settings: type[PretrainSettings[Any]]) -> dict[str, list[str]]:
    """Return the names of the settings by topic, the method's own topics last."""
    shared = [kind for kind in PretrainSettings.__mro__[1:] if kind is not Topic and issubclass(kind, Topic)]
    own = [kind for kind in reversed(settings.__mro__) if issubclass(kind, PretrainSettings)]
    fields = {field.name for field in dataclasses.fields(settings)}
    found = {PretrainSettings.TOPIC: ["method"]}
    seen = {"method"}
    for kind in (*shared, *own):  # a method's own default of a shared setting does not move the setting
        new = [name for name in kind.__annotations__ if name in fields - seen]
        if new:
            found[kind.TOPIC] = new
            seen |= set(new)
    return found


def to_dict(settings: PretrainSettings[Any]) -> dict[str, Any]:
    """Return the content of `config.yaml`: all settings but `out`, where that file is, and `minutes`, now `epochs`."""
    names = [name for of_topic in topics(type(settings)).values() for name in of_topic]
    return {name: _plain(getattr(settings, name)) for name in names if name not in ("out", "minutes")}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
