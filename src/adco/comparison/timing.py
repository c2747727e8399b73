"""What a row costs: images a second, measured in turns with the other rows, and memory, in a process of its own.

Training runs are no measure of it: whatever else the machine does slows one and not the other.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from adco.comparison.plan import Row, first_difference
from adco.data.sources import open_source
from adco.rehearsal import STEPS, Training, peak_megabytes
from adco.run_directory import environment, write_json
from adco.settings import PretrainSettings, of_earlier_versions, to_dict
from adco.words import counted

ROUNDS = 9


def known_timings(
    rows: Sequence[Row], used: Mapping[str, PretrainSettings], path: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """What `time_rows` has measured, where and with how many threads; from a file, or into it if it has other rows.

    Args:
        used: the settings of each row by its name, resolved for its images.
    """
    timing: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    timed = {name: of_earlier_versions(settings) for name, settings in timing.get("settings", {}).items()}
    asked = {name: to_dict(settings) for name, settings in used.items()}
    same = all(
        row.name in timed and not first_difference(row.settings, timed[row.name], asked[row.name]) for row in rows
    )
    if not same:
        measured = time_rows(rows, say)
        timing = {"settings": asked, "rows": measured, "threads": torch.get_num_threads(), **environment()}
        write_json(path, timing)
    return timing


def time_rows(rows: Sequence[Row], say: Callable[[str], None], *, steps: int = STEPS) -> dict[str, Any]:
    """Seconds of an image in each round, extra parameters, and megabytes at the peak, of each row."""
    say(f"timing {counted(len(rows), 'row')} in turns, {ROUNDS} rounds of {steps} steps")
    opened = cache(open_source)
    trainings = {}
    for row in rows:
        asked = row.settings
        source = opened(asked.require_data(), "train", asked.max_unreadable, asked.class_level)
        trainings[row.name] = Training(asked, source, steps)
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for turn in range(ROUNDS + 1):  # the first warms up
        for name, training in trainings.items():
            took = training()
            if turn:
                seconds[name].append(took)
    extra = {name: training.extra_parameters() for name, training in trainings.items()}
    del trainings
    return {
        row.name: {
            "seconds_per_image": seconds[row.name],
            "extra_parameters": extra[row.name],
            "peak_megabytes": peak_megabytes(row.settings),
        }
        for row in rows
    }


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Within each round, which what slows a whole round leaves alone."""
    return [one / other for one, other in zip(of, to, strict=True)]


def relative_time(of: Sequence[float], to: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(ratios(of, to))
