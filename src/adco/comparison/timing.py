"""Cost of each row: speed, measured in rounds that interleave all rows, and peak memory, measured in a subprocess.

The speed of the training runs themselves cannot be compared, because other load on the machine slows some runs and not
others.
"""

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from adco.comparison.plan import Row, first_difference
from adco.config.pretrain import Given, to_dict
from adco.config.versions import of_earlier_versions
from adco.data.sources.open import open_source
from adco.data.sources.reading import Reading
from adco.devices import training_device
from adco.files import write_json
from adco.runs.environment import environment
from adco.training.rehearsal import STEPS, TrialTraining, peak_megabytes
from adco.untrusted import read_json, reading
from adco.words import counted

ROUNDS = 9  # measured rounds; each times every row once


def known_timings(
    rows: Sequence[Row], used: Mapping[str, Given], path: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Return the timings of all rows from the file at `path`; measure and write them if it has none for these settings.

    Args:
        used: the settings of each row by its name, resolved for its images.
        log: called with each progress message.

    Returns:
        The results of `time_rows` under "rows", with the rows' settings, the number of threads, the machine, and the
        name of its GPU if that was used.
    """
    timing = _read(path) if path.is_file() else {}
    known = {name: of_earlier_versions(settings) for name, settings in timing.get("settings", {}).items()}
    asked = {name: to_dict(settings) for name, settings in used.items()}
    same = all(
        row.name in known and not first_difference(row.settings, known[row.name], asked[row.name]) for row in rows
    )
    if not same:
        measured = time_rows(rows, log)
        device = training_device(rows[0].settings.accelerator, rows[0].settings.devices)
        gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
        timing = {"settings": asked, "rows": measured, "threads": torch.get_num_threads(), **gpu, **environment()}
        write_json(path, timing)
    return timing


def _read(path: Path) -> dict[str, Any]:
    with reading(path, advice="delete it, and the rows are timed again"):
        timing: dict[str, Any] = read_json(path)
        for name in timing["settings"]:
            row = timing["rows"][name]
            if not all(type(seconds) is float and seconds > 0 for seconds in row["seconds_per_image"]):
                raise ValueError(f"the times of {name} are not numbers above 0")
            float(row["peak_megabytes"] or 0), int(row["extra_parameters"])
    return timing


def time_rows(rows: Sequence[Row], log: Callable[[str], None], *, steps: int = STEPS) -> dict[str, Any]:
    """Measure each row's seconds per image in each round, extra parameters, and peak memory in MB.

    Extra parameters are trained parameters outside backbone and projector.
    """
    log(f"timing {counted(len(rows), 'row')}: {ROUNDS} rounds of {steps} steps per row")
    opened = cache(open_source)
    trainings = {}
    for row in rows:
        asked = row.settings
        reading = Reading(asked.channels, asked.white_level)
        source = opened(asked.require_data(), "train", asked.max_unreadable, asked.class_level, reading)
        trainings[row.name] = TrialTraining(asked, source, steps)
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for number in range(ROUNDS + 1):  # round 0 is a warm-up
        for name, training in trainings.items():
            seconds_per_image = training()
            if number:
                seconds[name].append(seconds_per_image)
    extra = {name: training.extra_parameters() for name, training in trainings.items()}
    del trainings, training
    gc.collect()  # methods and their banks refer to each other
    torch.cuda.empty_cache()  # this process lives as long as the comparison, whose runs need the memory of the GPU
    return {
        row.name: {
            "seconds_per_image": seconds[row.name],
            "extra_parameters": extra[row.name],
            "peak_megabytes": peak_megabytes(row.settings),
        }
        for row in rows
    }


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Return per-round ratios of two rows' times; a slowdown of a whole round cancels out."""
    return [one / other for one, other in zip(of, to, strict=True)]


def relative_time(of: Sequence[float], to: Sequence[float]) -> float:
    """Return the median of the per-round ratios."""
    return statistics.median(ratios(of, to))
