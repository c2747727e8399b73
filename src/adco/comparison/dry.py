"""Dry run of a comparison: build every row and train two steps on noise, to check that it works and how large it is."""

from dataclasses import replace
from typing import Any

import numpy as np

from adco.comparison.plan import Plan
from adco.config import defaults
from adco.config.pretrain import Given
from adco.data.sources.arrays import ArraySource
from adco.training.own_process import in_a_process
from adco.training.rehearsal import TrialTraining, high_water, peak_since

BATCH, HEIGHT, WIDTH = 8, 375, 500  # images per step, and their size in px: the median of ImageNet


def dry_run(plan: Plan) -> list[dict[str, Any]]:
    """Train two steps of each row in a subprocess of its own.

    Returns:
        A dict for each row: its name (`row`), trained parameters in millions (`parameters`), peak memory in MB with a
        batch of eight (`megabytes`), whether all weights are finite after the two steps (`finite`), and the number of
        steps that the plan asks for (`steps`; None if the plan does not give the number of images).
    """
    rows = []
    for row in plan.rows:
        measured = in_a_process(_train_two_steps, row.settings)
        steps = None if plan.images is None else _steps(row.settings, plan.images)
        rows.append({"row": row.name, **measured, "steps": steps})
    return rows


def _steps(settings: Given, images: int) -> int:
    return images // (settings.batch_size or defaults.batch_size(images)) * settings.epochs


def _train_two_steps(settings: Given) -> dict[str, Any]:
    noise = np.random.default_rng(0).integers(0, 256, (2 * BATCH, HEIGHT, WIDTH, settings.channels), np.uint8)
    source = ArraySource("noise", noise, None, ())
    before = high_water()
    training = TrialTraining(replace(settings, batch_size=BATCH, accumulate=1, devices=1, num_nodes=1), source, steps=2)
    training()
    return {
        "parameters": training.trained_parameters() / 1e6,
        "megabytes": peak_since(before, training.device),
        "finite": all(bool(weights.isfinite().all()) for weights in training.method.parameters()),
    }
