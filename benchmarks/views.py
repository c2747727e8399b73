"""Time of two views of an image on one core, against the published pipeline of Pillow and torchvision.

    python benchmarks/views.py

Photographs are scikit-learn's two sample images as JPEGs of 500 × 375 pixels, for views of 224 px, including decoding.
Small images are those of CIFAR-10, 32 px, for views of 32 px. Both pipelines use MoCo v2's distribution of views and
return normalised floats.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]
from torch import Tensor
from torchvision.transforms import v2  # type: ignore[import-untyped]

from adco.comparison.timing import relative_time
from adco.data.batch import normalize
from adco.data.sources.open import open_source
from adco.data.sources.protocol import Source
from adco.data.views import View, views_of
from measure import in_turns, save, show

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROUNDS = 7


def published(size: int) -> Callable[[Image.Image], Tensor]:
    """Return the augmentation of the authors' release, which is MoCo v2's."""
    transform: Callable[[Image.Image], Tensor] = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([PillowBlur()], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]),
            v2.Normalize(MEAN, STD),
        ]
    )
    return transform


class PillowBlur(torch.nn.Module):
    """Gaussian blur by Pillow with sigma 0.1 to 2, as in the release."""

    def forward(self, image: Image.Image) -> Image.Image:
        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2.0))))


def ours(source: Source, numbers: NDArray[np.int64], size: int) -> list[Tensor]:
    """Make the package's views, normalised as in training."""
    views = views_of(source.load(numbers), [View(size=size)] * 2, 0, np.zeros_like(numbers), numbers)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return [normalize(view, mean, std, torch.contiguous_format) for view in views]


def write_photographs(folder: Path, number: int) -> list[Path]:
    """Write JPEGs of 500 × 375 pixels and return their paths."""
    for index in range(number):
        image = Image.fromarray(load_sample_images().images[index % 2]).resize((500, 375), Image.Resampling.LANCZOS)
        image.save(folder / f"{index}.jpg", quality=90)
    return list(folder.iterdir())


def main() -> None:
    torch.set_num_threads(1)
    folder = TemporaryDirectory()
    files = write_photographs(Path(folder.name), 64)
    photographs, cifar10 = open_source(folder.name), open_source("cifar10")
    large_transform, small_transform = published(224), published(32)

    def published_large() -> None:
        for file in files:
            image = Image.open(file).convert("RGB")
            _ = [large_transform(image) for _ in range(2)]

    def published_small() -> None:
        for array in cifar10.load(np.arange(128)):
            image = Image.fromarray(array)
            _ = [small_transform(image) for _ in range(2)]

    def ours_large() -> None:
        for batch in np.split(np.arange(len(files)), 8):
            ours(photographs, batch, 224)

    figures, rows = {}, []
    for name, images, reference, this in (
        ("500 × 375 → 224 px", (len(files), len(files)), published_large, ours_large),
        ("32 → 32 px", (128, 1024), published_small, lambda: ours(cifar10, np.arange(1024), 32)),
    ):
        seconds = in_turns({"published": reference, "ours": this}, ROUNDS)
        per_image = {
            pipeline: [1e3 * second / number for second in seconds[pipeline]]
            for pipeline, number in zip(seconds, images, strict=True)
        }
        ratio = relative_time(per_image["published"], per_image["ours"])
        medians = {pipeline: sorted(times)[len(times) // 2] for pipeline, times in per_image.items()}
        figures[name] = {"milliseconds_per_image": medians, "published_over_ours": ratio}
        rows.append([name, *(f"{value:.3f}" for value in medians.values()), f"{ratio:.2f}"])
    show("two views of an image on one core, ms", ["", "published", "ours", "published / ours"], rows)
    save("views", figures)


if __name__ == "__main__":
    main()
