"""Images per second of whole epochs, including views: AdCo against lightly's MoCo v2 and AdCo as published.

    pip install lightly
    python benchmarks/peers.py

All train the demo's small ResNet on CIFAR-10 on all cores: views of 32 px, and of 20 px as in the demo, batch size 256,
4 096 negatives. An epoch has 2 560 images. The peers have one persistent worker process per core.

- adco: this package
- published: AdCo as released by its authors: views by Pillow, float32, NCHW, loss and update as published
- lightly: MoCo v2 from the components and defaults of lightly's example, https://docs.lightly.ai/examples/moco.html
- lightly, by hand: the same in this package's precision and memory format
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.moco_transform import MoCoV2Transform
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from adco.comparison.timing import relative_time
from adco.config.pretrain import Resolved
from adco.config.resolve import resolve
from adco.data.loader import Loader, Order
from adco.data.sources.arrays import ArraySource
from adco.data.sources.open import open_source
from adco.methods.adco import AdCoSettings
from adco.models.backbone import build_backbone
from adco.models.encoder import Encoder, mlp
from adco.training.bare import BareTraining
from adco.training.build import backbone_info, make_method, make_views
from loss import TAU, TAU_ADV, published_gradient
from measure import in_turns, save, show
from views import published as published_views

IMAGES, BATCH, NEGATIVES, ROUNDS = 2560, 256, 4096, 3
Train = Callable[[], None]


class Pairs(Dataset[Any]):
    """Data set that applies a transform of Pillow images, which returns two views of an image."""

    def __init__(self, source: ArraySource, transform: Callable[[Image.Image], Any]) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.source.images[index]))


def workers(pairs: Pairs) -> DataLoader[Any]:
    """Return a data loader with one persistent worker process per core."""
    return DataLoader(
        pairs,
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=torch.get_num_threads(),
        persistent_workers=True,
        multiprocessing_context="spawn",
    )


def adco(settings: Resolved, source: ArraySource) -> Train:
    """Return a function that trains this package's AdCo for an epoch, without Lightning's loop and the monitor."""
    train = BareTraining(make_method(settings, len(source) // BATCH), settings.optimizer)
    loader = Loader(source, make_views(settings), Order(len(source), batch_size=BATCH, seed=0))

    def epoch() -> None:
        for batch in loader:
            train(batch)

    return epoch


def published(settings: Resolved, source: ArraySource) -> Train:
    """Return a function that trains AdCo for an epoch as in the authors' release, in one process."""
    view = published_views(settings.image_size)
    loader = workers(Pairs(source, partial(_twice, view)))
    encoder = Encoder(build_backbone(backbone_info(settings)), mlp(256, settings.hidden, settings.dim))
    key_encoder = copy.deepcopy(encoder).requires_grad_(False)
    optimizer = torch.optim.SGD(encoder.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    adversaries = F.normalize(torch.randn(NEGATIVES, settings.dim))
    velocity = torch.zeros_like(adversaries)
    momentum = 0.999

    def epoch() -> None:
        for first, second in loader:
            with torch.no_grad():
                for old, new in zip(key_encoder.parameters(), encoder.parameters(), strict=True):
                    old.mul_(momentum).add_(new, alpha=1 - momentum)
                keys = key_encoder(second)
                norms = adversaries.norm(dim=1, keepdim=True)
                unit = adversaries / norms
            queries = encoder(first)
            logits = torch.cat([queries @ keys.T, queries @ unit.T], dim=1)
            optimizer.zero_grad()
            F.cross_entropy(logits / TAU, torch.arange(BATCH)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                gradient = published_gradient(logits, queries, unit, norms, TAU_ADV)
                velocity.mul_(0.9).add_(gradient).add_(adversaries, alpha=-1e-4)
                adversaries.add_(velocity, alpha=3.0)

    return epoch


def lightly(settings: Resolved, source: ArraySource, memory_format: torch.memory_format) -> Train:
    """Return a function that trains MoCo v2 for an epoch as in lightly's example."""
    loader = workers(Pairs(source, MoCoV2Transform(input_size=settings.image_size)))
    backbone = build_backbone(backbone_info(settings))
    width = backbone.num_features
    assert isinstance(width, int)
    encoder = nn.Sequential(backbone, MoCoProjectionHead(width, settings.hidden, settings.dim))
    encoder = encoder.to(memory_format=memory_format)
    key_encoder = copy.deepcopy(encoder)
    deactivate_requires_grad(key_encoder)
    criterion = NTXentLoss(memory_bank_size=(NEGATIVES, settings.dim))
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.06)
    epochs = iter(range(1 + ROUNDS))

    def epoch() -> None:
        momentum = cosine_schedule(next(epochs), 1 + ROUNDS, 0.996, 1)
        for views in loader:
            for part, key_part in zip(encoder, key_encoder, strict=True):
                update_momentum(part, key_part, m=momentum)
            first, second = (view.to(memory_format=memory_format) for view in views)
            with torch.no_grad():
                keys = key_encoder(second)
            loss: Tensor = criterion(encoder(first), keys)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def _twice(view: Callable[[Image.Image], Tensor], image: Image.Image) -> list[Tensor]:
    return [view(image), view(image)]


def epochs_at(size: int, source: ArraySource) -> dict[str, list[float]]:
    """Return the seconds of each epoch of each training, with views of this size."""
    asked: AdCoSettings[None] = AdCoSettings(
        data="cifar10",
        backbone="resnet18",
        backbone_args={"layers": [1, 1, 1, 1], "channels": [16, 64, 128, 256]},
        hidden=512,
        batch_size=BATCH,
        adversaries=NEGATIVES,
        image_size=size,
        split_groups=2,
        optimizer="sgd",
        ema_decay=0.999,
        projector_norm=False,
    )
    settings = resolve(asked, source)
    trainings: dict[str, Train] = {}
    for name, make in (
        ("adco", adco),
        ("published", published),
        ("lightly", partial(lightly, memory_format=torch.contiguous_format)),
        ("lightly, by hand", partial(lightly, memory_format=torch.channels_last)),
    ):
        torch.manual_seed(0)
        trainings[name] = make(settings, source)
    return in_turns(trainings, ROUNDS)


def main() -> None:
    source = open_source("cifar10").subset(range(IMAGES))
    assert isinstance(source, ArraySource)
    figures = {}
    for size in (32, 20):
        table = []
        for name, times in (seconds := epochs_at(size, source)).items():
            figure = {
                "images_per_second": IMAGES / sorted(times)[len(times) // 2],
                "time_over_adco": relative_time(times, seconds["adco"]),
            }
            figures[f"{name}, {size} px"] = figure
            table.append([name, *(f"{value:.4g}" for value in figure.values())])
        show(f"views of {size} px, batch {BATCH}", ["", "images / s", "time / adco's"], table)
    save("peers", {"images": IMAGES, "rounds": ROUNDS, "figures": figures})


if __name__ == "__main__":
    main()
