"""A report on a run, or on a backbone, as one HTML file that needs nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from adco.config.commands import FEWEST_IMAGES, ReportSettings
from adco.data.draws import permutation
from adco.data.sources.open import open_source
from adco.data.sources.protocol import Source
from adco.data.sources.reading import Reading
from adco.devices import evaluation_device
from adco.embeddings.embed import embed_source
from adco.errors import InputError
from adco.evaluation.subject import open_subject
from adco.files import check_writable, write_text
from adco.reporting.adversaries import adversaries
from adco.reporting.duplicates import duplicates
from adco.reporting.map import image_map
from adco.reporting.material import Material, Section
from adco.reporting.overview import overview
from adco.reporting.page import page, require_bokeh
from adco.reporting.similar import similar
from adco.reporting.tables import results, settings
from adco.words import counted

SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    overview,
    image_map,
    similar,
    duplicates,
    adversaries,
    results,
    settings,
)


def report(run: Path | None, asked: ReportSettings) -> Path:
    """Write a report and return its path.

    Args:
        run: run directory, checkpoint or backbone.safetensors; None for the network that the settings name or, if they
            name none, the newest run.
        asked: the images, the backbone and the file to write.

    Raises:
        InputError: a setting is impossible, the images or the backbone cannot be opened, there are fewer than ten
            images, or a library is missing.
    """
    asked.check()
    if asked.out:
        check_writable("out", asked.out)
    require_bokeh()
    subject = open_subject(asked, run, _open)
    (source,) = subject.sources
    if len(source) < FEWEST_IMAGES:
        has = counted(len(source), "image")
        raise InputError(f"{source.name} has {has}: a report needs at least {FEWEST_IMAGES}")
    chosen = np.sort(permutation(asked.seed, length=len(source))[: asked.images])
    device = evaluation_device(asked.device)
    embeddings, indices = embed_source(subject, source.subset(chosen), device)
    material = Material(
        subject=subject,
        of_training=subject.run is not None and asked.data is None,
        records=subject.run.records() if subject.run else [],
        shown=chosen[indices],
        embeddings=embeddings,
        device=device,
    )
    out = Path(asked.out) if asked.out else (subject.run.path if subject.run else Path()) / "report.html"
    title = f"{subject.run.path.name if subject.run else subject.info.name} on {subject.data}"
    sections = [section for make in SECTIONS if (section := make(material))]
    write_text(out, page(title, source.description, sections, [_bokeh()]))
    return out


def _open(data: str, class_level: int, max_unreadable: float, reading: Reading) -> list[Source]:
    return [open_source(data, "train", max_unreadable, class_level, reading)]


def _bokeh() -> str:
    """Return the JavaScript of the library that draws the map."""
    from bokeh.resources import Resources

    resources = Resources(mode="inline", components=["bokeh"], minified=True)
    return "\n".join(resources.js_raw)
