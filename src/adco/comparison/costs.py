"""The time and memory of the runs of a recipe, from a few measured steps of each of its rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from adco.comparison.plan import Plan, Row, error_prefix, read_plan
from adco.config.load import pretrain_settings, read_recipe
from adco.config.pretrain import Given
from adco.config.resolve import processes_of
from adco.data.sources.address import is_here
from adco.data.sources.open import open_source
from adco.data.sources.protocol import Source
from adco.errors import InputError
from adco.training.opening import open_training_images
from adco.training.own_process import in_a_process
from adco.training.rehearsal import Cost, TrialTraining, measure, peak_since

SIZE, FILES = (500, 375), 256  # of the images that stand for those that are not here: ImageNet's median size in px
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
    device: str
    precision: str

    @property
    def seconds(self) -> float:
        """The duration of one run."""
        return self.cost.seconds(self.epochs)


def costs(recipe: str | Path, devices: int | None, images: int | None, log: Callable[[str], None]) -> Iterator[RowCost]:
    """Measure the rows of a comparison, or the one run of a pretraining recipe, each in a subprocess of its own.

    Args:
        recipe: name of a recipe, or a YAML file.
        devices: number of devices that train together; by default those that the settings ask for.
        images: number of training images where they are not here; by default the comparison's.
        log: called with a line for each row.

    Raises:
        InputError: if the recipe is unknown or impossible, or the number of images is.
    """
    plan = _plan(recipe)
    for number, row in enumerate(plan.rows, start=1):
        data = row.settings.require_data()
        here = is_here(data)
        count = None if here else images or plan.images
        if not (here or count):
            raise InputError(f"data {data} is not on this machine: give --images, the number of its images")
        log(f"row {number} of {len(plan.rows)}: {row.name}{'' if count is None else f', on {count:,} noise images'}")
        with error_prefix(f"row {row.name}") if len(plan.rows) > 1 else nullcontext():
            yield in_a_process(_measure, row, devices or processes_of(row.settings), count)


def _plan(recipe: str | Path) -> Plan:
    """Return a recipe as a comparison; one of a single run has one row."""
    if "rows" in read_recipe(recipe):
        return read_plan(recipe)
    settings = pretrain_settings(recipe)
    settings.check()
    return Plan([Row(Path(recipe).stem, settings, [settings.seed])], (), Path(recipe).stem)


def _measure(row: Row, processes: int, count: int | None) -> RowCost:
    with _images(row.settings, count) as source:
        training = TrialTraining(row.settings, source, processes=processes)
        cost = measure(source, training, BUDGET)
        return RowCost(
            row=row.name,
            runs=len(row.seeds),
            processes=processes,
            epochs=row.settings.epochs,
            cost=cost,
            megabytes=peak_since(0.0, training.device),
            exchanged=4e-6 * training.exchanged_parameters(),
            device=training.device.type,
            precision=training.settings.precision,
        )


@contextmanager
def _images(settings: Given, count: int | None) -> Iterator[Source]:
    """Give the training images, or `count` images of noise if they are not here."""
    if count is None:
        yield open_training_images(settings)
        return
    draw = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        for number in range(FILES):
            # Smooth, as photographs are: noise in every pixel would take far longer to decode.
            coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8)).resize(
                SIZE, Image.Resampling.BICUBIC
            )
            fine = np.asarray(coarse) + draw.normal(0, 12, (SIZE[1], SIZE[0], 3))
            Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(Path(folder) / f"{number}.jpg", quality=85)
        yield open_source(folder).subset(np.arange(count) % FILES)
