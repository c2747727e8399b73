"""The settings of a pretraining run, and what a method can override to add its own.

A method's settings are a subclass of `PretrainSettings` in the method's file. It adds the method's own fields and
defaults, and overrides the methods and properties below that tell the rest of the package about the method. No code
outside that file checks which method a run uses.
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

    from adco.health.adversary_note import Note
    from adco.health.trends import Record
    from adco.methods.method import Method, MethodArguments

Crop: TypeAlias = tuple[int, float, float]  # size in pixels, smallest and largest share of the image's area


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """The size of a run, from which defaults are chosen."""

    images: int  # number of training images
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
        """Number of images seen, summed over all epochs."""
        return self.epochs * self.images


@dataclass(frozen=True, kw_only=True)
class Devices:
    """The devices of a run, from which defaults are chosen."""

    processes: int  # one per device
    images_per_forward: int  # images on one device in one forward pass
    can_sync_batch_norm: bool  # whether these devices can synchronise BatchNorm statistics


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(
    DataSettings[Unset],
    RunSettings[Unset],
    NetworkSettings[Unset],
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

    # The values that the method's authors published, except MUON_LEARNING_RATE, which is from a search
    # (docs/results.md). OPTIMIZER, LEARNING_RATE, WARMUP_EPOCHS and WEIGHT_DECAY apply only to runs that are not short
    # (config/defaults.py): a short run uses Muon with MUON_LEARNING_RATE, unless the user chooses another optimizer.
    OPTIMIZER: ClassVar[Optimizer] = "sgd"
    LEARNING_RATE: ClassVar[float] = 0.03  # for a batch of 256 images
    FINAL_LEARNING_RATE_FACTOR: ClassVar[float] = 0.0  # final learning rate divided by the learning rate
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
        """Return values for the method's settings that depend on the run. They are used where the user set none."""
        return {}

    def choose_for_devices(self, devices: Devices) -> dict[str, Any]:
        """Return values for the method's settings that depend on the devices. They replace the user's values, too.

        Raises:
            InputError: if a setting is not possible on these devices.
        """
        return {}

    def limited_by_devices(self, used: Mapping[str, Any]) -> set[str]:
        """Return the settings that `choose_for_devices` may have replaced; a comparison does not check them.

        Args:
            used: the resolved settings of the run, by name.
        """
        return set()

    def for_one_device(self, processes: int) -> Self:
        """Return the settings with which a single process can measure one device's share of a run.

        Args:
            processes: number of processes of the whole run.
        """
        return self

    def build(
        self: "PretrainSettings[Never]", backbone: "nn.Module", width: int, common: "MethodArguments"
    ) -> "Method":
        """Build the method around a backbone.

        Args:
            backbone: maps images to features of the given width.
            width: F, the width of the features.
            common: the arguments that all methods have in common.
        """
        raise NotImplementedError

    def warnings(self: "PretrainSettings[Never]", steps: int) -> Iterable[str]:
        """Return warnings about a run with this number of steps."""
        return ()

    def note(self, history: "Sequence[Record]") -> "Note | None":
        """Return a problem that the records show in the method's own parts, such as AdCo's adversaries, or None."""
        return None

    @property
    def images_before_first_step(self) -> int:
        """How many images `Method.warm_start` needs before the first step; 0 if it is not to be called."""
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
        """Whether the loss uses both views in the same way: both are queries, or both are predicted."""
        return True

    @property
    def negatives(self) -> int | None:
        """Number of negatives that are not from the batch; None for methods without such negatives."""
        return None

    @property
    def trains_negatives(self) -> bool:
        """Whether the negatives that `negatives` counts are trained."""
        return False


Given: TypeAlias = PretrainSettings[None]  # settings as the user gave them: some may be None
Resolved: TypeAlias = PretrainSettings[Never]  # resolved settings: none is None


def topics(settings: type[PretrainSettings[Any]]) -> dict[str, list[str]]:
    """Return the names of the settings by topic, the method's own topics last."""
    shared = [kind for kind in PretrainSettings.__mro__[1:] if kind is not Topic and issubclass(kind, Topic)]
    own = [kind for kind in reversed(settings.__mro__) if issubclass(kind, PretrainSettings)]
    fields = {field.name for field in dataclasses.fields(settings)}
    found = {PretrainSettings.TOPIC: ["method"]}
    seen = {"method"}
    for kind in (*shared, *own):  # a shared setting that a method redefines stays in its shared topic
        new = [name for name in kind.__annotations__ if name in fields - seen]
        if new:
            found.setdefault(kind.TOPIC, []).extend(new)  # a method may share or inherit a topic
            seen |= set(new)
    return found


def to_dict(settings: PretrainSettings[Any]) -> dict[str, Any]:
    """Return the content of `config.yaml`: all settings except `out` and `minutes`.

    `out` is the folder of that file, and `minutes` has been replaced by a number of epochs.
    """
    names = [name for in_topic in topics(type(settings)).values() for name in in_topic]
    return {name: _plain(getattr(settings, name)) for name in names if name not in ("out", "minutes")}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
