"""The time and memory of the runs of a recipe, from a few measured steps of each of its rows."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from adco.comparison.noise import noise
from adco.comparison.plan import Plan, Row, error_prefix, read_plan
from adco.config.load import pretrain_settings, read_recipe
from adco.config.pretrain import Given
from adco.config.resolve import processes_of
from adco.config.weights import PRETRAINED
from adco.data.sources.address import is_here, is_named
from adco.data.sources.open import open_source
from adco.data.sources.reading import Reading
from adco.data.workers import told_in_one_line
from adco.errors import InputError
from adco.training.console import device_words
from adco.training.opening import open_training_images
from adco.training.own_process import LESS_MEMORY, in_a_process
from adco.training.rehearsal import Cost, TrialTraining, measure, peak_since

BUDGET = 15.0  # approximate seconds to spend on the steps of a row


@dataclass(frozen=True)
class RowCost:
    """The cost of the runs of a row, without their evaluation."""

    row: str
    runs: int  # one per seed
    processes: int  # that train together, one per device
    epochs: int
    cost: Cost
    megabytes: float | None  # at the peak, of one device; None if unknown
    exchanged: float  # megabytes of gradients that devices exchange in a step, if there are several
    measured_on: str  # the device and the precision

    @property
    def seconds(self) -> float:
        """The duration of one run."""
        return self.cost.seconds(self.epochs)

    @property
    def device_hours(self) -> float:
        """The hours of all runs, summed over their devices."""
        return self.runs * self.processes * self.seconds / 3600


def costs(recipe: str | Path, devices: int | None, images: int | None, log: Callable[[str], None]) -> Iterator[RowCost]:
    """Measure the rows of a comparison, or the one run of a pretraining recipe, each in a subprocess of its own.

    Args:
        recipe: name of a recipe, or a YAML file.
        devices: number of devices that train together, of which one needs to be here; by default as the recipe says.
        images: number of training images where they are not here; by default the comparison's.
        log: called with a line for each row.

    Raises:
        InputError: if the recipe is unknown or impossible, or the number of images is. What can be checked is checked
            before the first row is measured.
        WorkerLost: if a process was killed that measures or makes batches.
    """
    plan = _plan(recipe)
    counts = [_count_of_noise(row.settings, images or plan.images) for row in plan.rows]
    if images and not any(counts):
        raise InputError(
            f"images {images} is for data that is not on this machine, but all is here: leave --images out"
        )
    for number, (row, count) in enumerate(zip(plan.rows, counts, strict=True), start=1):
        log(f"row {number} of {len(plan.rows)}: {row.name}{'' if count is None else f', on {count:,} noise images'}")
        with error_prefix(f"row {row.name}") if len(plan.rows) > 1 else nullcontext():
            yield in_a_process(_measure, row, devices or count_devices(row.settings), count)


def _plan(recipe: str | Path) -> Plan:
    """Return a recipe as a comparison; one of a single run has one row."""
    if "rows" in read_recipe(recipe):
        return read_plan(recipe)
    settings = pretrain_settings(recipe)
    settings.check()
    if settings.minutes != math.inf:
        raise InputError(
            f"minutes {settings.minutes:g} is how long the run takes, on any device: adco pretrain --recipe {recipe} "
            "--dry-run says how many epochs that is here"
        )
    return Plan([Row(Path(recipe).stem, settings, [settings.seed])], (), Path(recipe).stem)


def _count_of_noise(settings: Given, images: int | None) -> int | None:
    """Return the number of noise images that stand for the data; None if the data is here, or was downloaded just now.

    Raises:
        InputError: if the number is not known, or the backbone is not, as it is that of weights that are not here.
    """
    data, weights = settings.require_data(), settings.weights
    if weights not in ("", PRETRAINED) and not settings.backbone and not Path(weights).expanduser().exists():
        raise InputError(f"weights {weights} is not on this machine: add the backbone to the recipe")
    if is_here(data):
        return None
    if is_named(data):
        open_source(data)  # here, because a subprocess would not say that it downloads
        return None
    if not images:
        raise InputError(f"data {data} is not on this machine: give --images, the number of its images")
    return images


def count_devices(settings: Given) -> int:
    """Return how many devices settings ask for. If it is a number, they need not be here.

    Raises:
        InputError: if it is no number, and such devices are not here.
    """
    nodes = 1 if settings.num_nodes == "auto" else int(settings.num_nodes)
    per_node = int(settings.devices) if str(settings.devices).isdecimal() else 0
    return nodes * (per_node or processes_of(replace(settings, num_nodes="auto")))


def _measure(row: Row, processes: int, count: int | None) -> RowCost:
    settings = replace(row.settings, devices="auto", num_nodes="auto")  # a device here, with its share of the cores
    with _one_line_if_memory_is_full():
        if count is None:
            source = open_training_images(settings)
        else:
            source = noise(settings.require_data(), count, Reading(settings.channels))
        training = TrialTraining(settings, source, processes=processes)
        cost = measure(source, training, BUDGET)
        return RowCost(
            row=row.name,
            runs=len(row.seeds),
            processes=processes,
            epochs=settings.epochs,
            cost=cost,
            megabytes=peak_since(0.0, training.device),
            exchanged=4e-6 * training.exchanged_parameters(),
            measured_on=f"{device_words(training.device)}, precision {training.settings.precision}",
        )


@contextmanager
def _one_line_if_memory_is_full() -> Iterator[None]:
    """Raise an InputError where torch or NumPy find no memory, and a WorkerLost where a loader worker was killed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise InputError(f"the memory is full: {LESS_MEMORY}") from error
        if told := told_in_one_line(error, LESS_MEMORY):
            raise told from error
        raise
