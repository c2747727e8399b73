"""Duplicates found by `adco duplicates` and by perceptual hashing: 500 copies among CIFAR-10's 10 000 test images.

    pip install imagehash
    python benchmarks/duplicates.py runs/demo

The copies are altered by other functions, other random numbers and mostly stronger changes than those with which the
tool chooses its threshold. CIFAR-10 has duplicates of its own: pairs of two originals are counted apart, and the
most doubtful are drawn into the run directory; precision and recall are those of pairs with a copy.
"""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash  # type: ignore[import-not-found, unused-ignore]
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

import adco
from adco.data.sources.open import open_source
from adco.embeddings.sheet import draw_sheet, write_sheet
from measure import save, show

COPIES = 500
USUAL = 10  # bits of 64; imagededup's default
Pairs = NDArray[np.int64]  # [P, 2], the smaller index first


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = rng.integers(26, 32, 2)
    left, top = rng.integers(0, 33 - width), rng.integers(0, 33 - height)
    return image.crop((left, top, left + width, top + height))


def flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(20, 70)))
    return Image.open(file).convert("RGB")


def colour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhancer in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        image = enhancer(image).enhance(rng.uniform(0.65, 1.35))
    return image


def all_four(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for change in (colour, crop, flip, jpeg):
        image = change(image, rng)
    return image


CHANGES = (crop, flip, jpeg, colour, all_four)


def planted(images: NDArray[np.uint8]) -> tuple[list[NDArray[np.uint8]], list[str], Pairs]:
    """Return copies, their kinds, and the pairs of original and copy."""
    rng = np.random.default_rng(20)
    originals = rng.permutation(len(images))[:COPIES]
    changes = [CHANGES[number % len(CHANGES)] for number in range(COPIES)]
    copies = [
        np.array(change(Image.fromarray(images[original]), rng))
        for change, original in zip(changes, originals, strict=True)
    ]
    kinds = [change.__name__ for change in changes]
    return copies, kinds, np.stack([originals, len(images) + np.arange(COPIES)], 1)


def scored(found: Pairs, truth: Pairs, kinds: list[str], originals: int) -> dict[str, Any]:
    """Return precision and recall of the pairs with a copy, and the number of pairs of two originals."""
    with_copy = {tuple(pair) for pair in found[found[:, 1] >= originals].tolist()}
    hits = np.array([tuple(pair) in with_copy for pair in truth.tolist()])
    per_kind = {change.__name__: float(hits[np.array(kinds) == change.__name__].mean()) for change in CHANGES}
    precision = float(hits.sum() / max(len(with_copy), 1))
    recall = float(hits.mean())
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-9),
        "recall_per_kind": per_kind,
        "false_pairs_with_a_copy": int(len(with_copy) - hits.sum()),
        "pairs_of_originals": int((found[:, 1] < originals).sum()),
    }


def hashed(images: list[NDArray[np.uint8]], function: Callable[[Image.Image], Any], mirrored: bool) -> list[Pairs]:
    """Return the pairs at a Hamming distance of exactly 0, 1, …, 20 bits."""
    codes = [
        np.packbits(
            [function(Image.fromarray(image[:, ::-1] if turned else image)).hash.ravel() for image in images], 1
        )
        for turned in ((False, True) if mirrored else (False,))
    ]
    words = [code.view(np.uint64).ravel() for code in codes]
    found: list[list[Pairs]] = [[] for _ in range(21)]
    for row in range(len(images)):
        distances = np.min([np.bitwise_count(words[0][row] ^ other[row + 1 :]) for other in words], 0)
        for column in np.flatnonzero(distances <= 20).tolist():
            found[distances[column]].append(np.array([row, row + 1 + column]))
    return [np.array(pairs, np.int64).reshape(-1, 2) for pairs in found]


def main() -> None:
    images = open_source("cifar10", "test").load(np.arange(10_000))
    assert isinstance(images, np.ndarray)
    copies, kinds, truth = planted(images)
    everything = [*images, *copies]
    rows: dict[str, dict[str, Any]] = {}
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/demo")
    networks: dict[str, dict[str, Any]] = {
        "demo's backbone": {"run": run},
        "random ResNet-18": {"backbone": "resnet18"},
    }
    for name, network in networks.items():
        start = time.perf_counter()
        found = adco.duplicates(data=everything, **network)
        expected = {"threshold": found.choice.threshold, "false": found.choice.false, "recall": found.choice.recall}
        rows[name] = scored(found.pairs, truth, kinds, len(images)) | {
            "seconds": time.perf_counter() - start,
            "expected": expected,
        }
        if name == "demo's backbone":
            draw(images, found.pairs[found.pairs[:, 1] < len(images)], run / "duplicates.jpg")
    for title, function, mirrored in (
        ("phash", imagehash.phash, False),
        ("phash, mirrored too", imagehash.phash, True),
        ("dhash", imagehash.dhash, False),
        ("dhash, mirrored too", imagehash.dhash, True),
    ):
        by_distance = hashed(everything, function, mirrored)
        scores = [
            scored(np.concatenate(by_distance[: bits + 1]), truth, kinds, len(images))
            for bits in range(len(by_distance))
        ]
        rows[f"{title}, {USUAL} bits"] = scores[USUAL]
        best = int(np.argmax([score["f1"] for score in scores]))
        rows[f"{title}, best: {best} bits"] = scores[best]
    show(
        "500 copies among 10 000 test images of CIFAR-10",
        ["", "precision (%)", "recall (%)", *(change.__name__ for change in CHANGES), "pairs of originals"],
        [
            [
                name,
                f"{100 * row['precision']:.1f}",
                f"{100 * row['recall']:.1f}",
                *(f"{100 * share:.0f}" for share in row["recall_per_kind"].values()),
                str(row["pairs_of_originals"]),
            ]
            for name, row in rows.items()
        ],
    )
    save("duplicates", {"rows": rows})


def draw(images: NDArray[np.uint8], pairs: Pairs, file: Path) -> None:
    """Draw the most doubtful pairs, four in a row."""
    cells = [(images[index], str(index)) for pair in pairs[-96:].tolist() for index in pair]
    write_sheet(file, draw_sheet([cells[start : start + 8] for start in range(0, len(cells), 8)]))


if __name__ == "__main__":
    main()
