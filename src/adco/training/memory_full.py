"""What to do when a GPU's memory is full: into how many forward passes a batch must be divided to fit."""

import gc
import traceback
from dataclasses import replace
from typing import cast

import torch

from adco.config.pretrain import Given, Resolved
from adco.config.resolve import processes_of
from adco.data.sources.protocol import Source
from adco.training.errors import NotEnoughMemoryError
from adco.training.rehearsal import TrialTraining
from adco.words import counted


def memory_full(error: BaseException, settings: Resolved, source: Source) -> NotEnoughMemoryError:
    """Return the error that says what fits, after trying it; in several processes, without trying.

    Args:
        error: torch's, while it is handled; what its frames hold is freed.
        settings: of the run.
        source: its images.
    """
    traceback.clear_frames(error.__traceback__)
    processes = processes_of(settings)
    share = settings.batch_size // (settings.accumulate * processes)
    what = (
        f"the GPU's memory is full: a forward pass of {counted(share, 'image')} of {settings.image_size} px is too much"
    )
    if processes > 1:  # what is tried would exchange tensors with the others, which may be elsewhere in the run
        return NotEnoughMemoryError(f"{what}: take a higher --accumulate, or a smaller --batch_size or --image_size")
    fitting = accumulate_that_fits(settings, source)
    if fitting is None:
        return NotEnoughMemoryError(f"{what}, and so are two images: take a smaller --image_size or --backbone")
    smaller = settings.batch_size * settings.accumulate // fitting
    return NotEnoughMemoryError(
        f"{what}; what fits is --accumulate {fitting}, with which a step adds up {fitting} forward passes, or "
        f"--batch_size {smaller}, or a smaller --image_size"
    )


def accumulate_that_fits(settings: Resolved, source: Source) -> int | None:
    """Return the fewest forward passes per step that fit, found by doubling their number; None if none fits.

    Two steps are tried: the averages of the optimizer take memory from the second on.
    """
    accumulate = 2 * settings.accumulate
    while settings.batch_size % accumulate == 0 and settings.batch_size // accumulate > 1:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            TrialTraining(cast(Given, replace(settings, accumulate=accumulate, workers=0)), source, steps=2)()
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
            accumulate *= 2
        else:
            return accumulate
    return None
