"""The adversaries that are the hardest for the most images, and the images that they stand next to during the run."""

import numpy as np

from adco.errors import InputError
from adco.reporting.material import Material, Section, thumbnail
from adco.runs.nearest_images import read_nearest

SHOWN = 10  # adversaries


def adversaries(material: Material) -> Section | None:
    """Return the section; None for a network that is not that of a run with adversaries, or that has no such record."""
    run = material.subject.run
    if run is None or not material.of_training:
        return None
    moments = read_nearest(run.adversaries)
    if not moments:
        return None
    last = moments[-1]
    if any(moment.nearest.max() >= len(material.source) or len(moment.used) != len(last.used) for moment in moments):
        raise InputError(f"{run.adversaries} is of a run on other images: delete it, or give the report the run's data")
    chosen = np.argsort(-last.used, kind="stable")[:SHOWN]
    in_use = int((last.used > 0).sum())
    found = [
        {
            "title": f"Adversary {number}: the hardest for {last.used[number]} of {last.used.sum()} images",
            "moments": [
                {
                    "title": f"step {moment.step:,}",
                    "images": [
                        {"uri": thumbnail(material.source, index), "path": material.where(index)}
                        for index in moment.nearest[number]
                    ],
                }
                for moment in moments
            ],
        }
        for number in chosen
    ]
    text = (
        "Adversaries are trained negatives: the encoder learns to tell every image from them. At the end, "
        f"{in_use:,} of {len(last.used):,} are each the hardest adversary of at least one of {last.used.sum()} "
        "training images. For the most used, these are the images nearest to them, from the start of the run to its "
        "end."
    )
    return Section("What the adversaries look like", text, "adversaries.html", {"adversaries": found})
