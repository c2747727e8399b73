"""Images a second of whole epochs, views included: AdCo against lightly's MoCo v2 and against AdCo as published.

    pip install lightly
    python benchmarks/peers.py

All train one small ResNet (the demo's) on CIFAR-10 with views of 32 px, and of 20 px as in the demo, batch 256, with
4 096 negatives, on all cores. An epoch is of 2 560 images here. The peers have as many worker processes as there are
cores, which stay.

- adco: this package as it comes;
- published: AdCo as its authors released it: views by Pillow, float32, NCHW, loss and update as published;
- lightly: MoCo v2 from the parts and defaults of lightly's documentation, https://docs.lightly.ai/examples/moco.html;
- lightly, by hand: the same in this package's precision and memory format.
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
from adco.data.loader import Batch, Loader, Order
from adco.data.sources import ArraySource, open_source
from adco.encoder import Encoder, build_backbone, mlp
from adco.pretraining import backbone_info, make_method, make_views
from adco.resolve import resolve
from adco.settings import AdCoSettings, known
from loss import TAU, TAU_ADV, published_gradient
from measure import in_turns, save, show
from views import published as published_views

IMAGES, BATCH, NEGATIVES, ROUNDS = 2560, 256, 4096, 3
Train = Callable[[], None]


class Pairs(Dataset[Any]):
    """Two views of each image by a transform of Pillow's images."""

    def __init__(self, source: ArraySource, transform: Callable[[Image.Image], Any]) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.source.images[index]))


def workers(pairs: Pairs) -> DataLoader[Any]:
    return DataLoader(
        pairs,
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=torch.get_num_threads(),
        persistent_workers=True,
        multiprocessing_context="spawn",
    )


def adco(settings: AdCoSettings, source: ArraySource) -> Train:
    """This package, without Lightning's loop and the monitor around its step."""
    method = make_method(settings, len(source) // BATCH).train()
    optimizer = method.configure_optimizers()["optimizer"]
    loader = Loader(source, make_views(settings), Order(len(source), batch_size=BATCH, seed=0))

    def step(batch: Batch) -> None:
        loss = method.training_step(batch, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def epoch() -> None:
        for batch in loader:
            step(batch)

    return epoch


def published(settings: AdCoSettings, source: ArraySource) -> Train:
    """AdCo's release, on one process."""
    view = published_views(settings.image_size or 32)
    loader = workers(Pairs(source, partial(_twice, view)))
    encoder = Encoder(build_backbone(backbone_info(settings)), mlp(256, settings.hidden, settings.dim))
    key_encoder = copy.deepcopy(encoder).requires_grad_(False)
    optimizer = torch.optim.SGD(encoder.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    adversaries = F.normalize(torch.randn(NEGATIVES, settings.dim))
    velocity = torch.zeros_like(adversaries)
    momentum = known(settings.ema_decay)

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


def lightly(settings: AdCoSettings, source: ArraySource, memory_format: torch.memory_format) -> Train:
    """MoCo v2 as lightly's example puts it together."""
    loader = workers(Pairs(source, MoCoV2Transform(input_size=settings.image_size or 32)))
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
    """Seconds of each training's epochs."""
    settings = AdCoSettings(
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
    settings = resolve(settings, source)
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
