"""A dry run: every row built and stepped twice on noise of the true size, to see that it runs and how large it is."""

from dataclasses import replace
from typing import Any

import numpy as np

from adco import defaults
from adco.comparison.plan import Plan
from adco.data.sources import ArraySource
from adco.rehearsal import Training, high_water, in_a_process, peak_since
from adco.settings import PretrainSettings

BATCH, HEIGHT, WIDTH = 8, 375, 500  # images of a step and their size; ImageNet's in the median


def dry_run(plan: Plan) -> list[dict[str, Any]]:
    """For each row: trained parameters in millions, MB at the highest with a batch of eight, whether all weights were
    finite after the two steps, and how many steps are planned.

    Each runs in a process of its own.
    """
    found = []
    for row in plan.rows:
        figures = in_a_process(_try, row.settings)
        steps = None if plan.images is None else _steps(row.settings, plan.images)
        found.append({"row": row.name, **figures, "steps": steps})
    return found


def _steps(settings: PretrainSettings, images: int) -> int:
    return images // (settings.batch_size or defaults.batch_size(images)) * settings.epochs


def _try(settings: PretrainSettings) -> dict[str, Any]:
    noise = np.random.default_rng(0).integers(0, 256, (2 * BATCH, HEIGHT, WIDTH, 3), np.uint8)
    source = ArraySource("noise", noise, None, ())
    before = high_water()
    training = Training(replace(settings, batch_size=BATCH, accumulate=1, devices=1, num_nodes=1), source, steps=2)
    training()
    return {
        "parameters": training.trained_parameters() / 1e6,
        "megabytes": peak_since(before, training.device),
        "finite": all(bool(p.isfinite().all()) for p in training.method.parameters()),
    }
