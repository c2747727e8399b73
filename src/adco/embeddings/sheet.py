"""Contact sheets: rows of small images with a text below each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from adco.data.images import Pixels
from adco.files import replacing
from adco.words import unicode

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ROWS = 20
TILE = 112  # px, side of an image
TEXT = 18  # px, height of the text below
GAP = 6  # px, between images

Cell = tuple[Pixels, str]  # an image [H, W, C] and the text below it


def chosen_rows(count: int) -> NDArray[np.int64]:
    """Return the numbers of the rows that are drawn: all, or 20 evenly spaced ones."""
    return np.unique(np.linspace(0, count - 1, min(ROWS, count)).astype(np.int64))


def draw_sheet(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Return a picture of rows of images. Each image keeps its aspect ratio."""
    columns = max((len(row) for row in rows), default=1)
    sheet = Image.new("RGB", place(max(1, len(rows)), columns), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, row in enumerate(rows):
        for column, (pixels, text) in enumerate(row):
            left, top = place(number, column)
            tile = ImageOps.contain(_rgb(pixels), (TILE, TILE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
            draw.text((left, top + TILE + 2), shortened(unicode(text), font), "black", font)
    return sheet


def place(row: int, column: int) -> tuple[int, int]:
    """Return the left and top of an image, in pixels."""
    return GAP + column * (TILE + GAP), GAP + row * (TILE + TEXT + GAP)


def write_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a picture, in the format of the suffix."""
    with replacing(path) as file:
        sheet.save(file, Image.registered_extensions()[path.suffix], quality=90)


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the end of a text that fits below an image."""
    if font.getlength(text) <= TILE:
        return text
    while font.getlength(f"…{text}") > TILE:
        text = text[1:]
    return f"…{text}"


def _rgb(pixels: Pixels) -> Image.Image:
    """Return an image of any number of channels in colour; other channels than RGB as their mean."""
    if pixels.shape[2] == 3:
        return Image.fromarray(pixels)
    return Image.fromarray(pixels.mean(2).astype(np.uint8)).convert("RGB")
