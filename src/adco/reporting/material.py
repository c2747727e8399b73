"""What the sections of a report are made of: a run or a network, and a sample of images with their embeddings.

Shapes: n images of the sample, F feature width.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adco.data.damage import load_readable
from adco.data.sources.protocol import Source, where
from adco.embeddings.embeddings import Embeddings
from adco.evaluation.subject import Subject
from adco.health.trends import Record

SIDE = 56  # px, of a thumbnail in a grid
QUALITY = 60  # of its WebP, which takes a third of a JPEG of such a size


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        title: its heading.
        text: what it shows, in a few sentences.
        template: file of its template.
        values: what the template is filled with.
    """

    title: str
    text: str
    template: str
    values: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Material:
    """What a report is made of.

    Args:
        subject: the backbone; its only source is the images.
        of_training: whether these are the images that the run was trained on.
        records: of the run; empty for a network by name.
        shown: [n], the images of the sample in the source, those that can be read.
        embeddings: of these images.
        device: where to compute.
    """

    subject: Subject
    of_training: bool
    records: Sequence[Record]
    shown: NDArray[np.int64]
    embeddings: Embeddings
    device: str

    @property
    def source(self) -> Source:
        return self.subject.sources[0]

    @property
    def class_names(self) -> list[str] | None:
        """The class of each image of the sample; "" for none. None if the data have no classes."""
        labels = self.embeddings.labels
        if labels is None:
            return None
        return [self.embeddings.classes[label] if label >= 0 else "" for label in labels.tolist()]

    def image(self, place: int, caption: str) -> dict[str, Any]:
        """Return what `rows.html` shows of an image of the sample."""
        index = int(self.shown[place])
        return {"uri": thumbnail(self.source, index), "path": self.where(index), "caption": caption}

    def where(self, index: int) -> str:
        """Return where an image of the source is."""
        return where(self.source, int(index))


def thumbnail(source: Source, index: int, side: int = SIDE, quality: int = QUALITY) -> str:
    """Return an image of a source as a data URI of a WebP; "" if it cannot be read.

    Args:
        source: the images.
        index: of the image.
        side: the longer side at most, in pixels.
        quality: of the WebP, 0 to 100.
    """
    for pixels in load_readable(source, np.array([index]), {}):
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
        return data_uri(_webp(image, quality), "image/webp")
    return ""


def data_uri(content: bytes, kind: str) -> str:
    """Return a file as a URI that contains it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _webp(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=quality)
    return file.getvalue()
