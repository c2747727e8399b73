"""Duplicates among the images of the sample."""

import numpy as np

from adco.config.commands import DuplicatesSettings
from adco.embeddings.collection import Collection, Opened
from adco.embeddings.duplicates import find
from adco.reporting.material import Material, Section
from adco.words import counted

GROUPS, LONGEST = 12, 8  # groups shown, and images of each


def duplicates(material: Material) -> Section:
    """Return the section."""
    images = Collection(material.source.subset(material.shown), material.embeddings)
    found = find(Opened(images, None, material.subject, material.device), DuplicatesSettings())
    groups, best = found.surest_first()
    rows = [
        {"title": "", "images": [material.image(place, f"{best[place]:.2f}") for place in group[:LONGEST].tolist()]}
        for group in groups[:GROUPS]
    ]
    recall = [*found.choice.recall.values()]
    text = (
        f"Among these {len(images):,} images, {counted(len(groups), 'group')} of altered copies of each other: pairs "
        f"whose pixels agree at {found.choice.threshold:.2f} or more where they overlap best. "
    )
    if recall:
        text += f"Of copies made of these images to choose that threshold, {100 * np.mean(recall):.0f} % are found. "
    if found.choice.found and found.choice.false is not None:
        false = "fewer than one" if found.choice.false < 1 else f"about {found.choice.false:.0f}"
        text += f"{counted(found.choice.found, 'pair')} in all, of which {false} may be false."
    return Section("Duplicates", text, "rows.html", {"rows": rows})
