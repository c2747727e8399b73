"""The papers' linear evaluation: SGD on augmented images through the frozen backbone, so that figures compare.

Constants are AdCo's on ImageNet (Hu et al. 2021, arXiv 2011.08435), whose protocol is MoCo's (He et al. 2020, arXiv
1911.05722, section 4.1): crops of 8 to 100 % of the area and flips, no other augmentation.

n images of a batch, S their side in pixels, F feature width, C classes.
"""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adco.data.loader import Batch, Loader, Order
from adco.data.sources import Source
from adco.data.views import View, normalize
from adco.evaluation.linear import LinearProbe
from adco.methods.method import Schedule
from adco.resolve import default_workers
from adco.settings import EvaluateSettings

MOMENTUM = 0.9  # of SGD, without weight decay
INIT_STD = 0.01  # standard deviation of the initial weights
CROP = (0.08, 1.0)


class Classifier(L.LightningModule):
    """One linear layer on a backbone that stays as it is: Lightning leaves its eval mode alone."""

    labels: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        labels: Tensor,
        classes: int,
        schedule: Schedule,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone, self.schedule = backbone, schedule
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=INIT_STD)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with torch.no_grad():
            features = self.backbone(normalize(batch.views[0], self.mean, self.std, torch.channels_last))
        return F.cross_entropy(self.linear(features), self.labels[batch.indices])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.linear.parameters(), lr=1.0, momentum=MOMENTUM)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Images(L.LightningDataModule):
    """Augmented training images, a part of each batch on each device."""

    def __init__(self, source: Source, size: int, batch_size: int) -> None:
        super().__init__()
        self.source, self.batch_size = source, batch_size
        self.view = View(size=size, scale=CROP, jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)

    def train_dataloader(self) -> Loader:
        assert self.trainer is not None
        ranks = self.trainer.world_size
        if self.batch_size % ranks:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of devices, here {ranks}")
        order = Order(
            len(self.source), batch_size=self.batch_size, seed=0, rank=self.trainer.global_rank, world_size=ranks
        )
        pinned = self.trainer.strategy.root_device.type == "cuda"
        workers = default_workers(self.source, self.trainer.num_devices)
        return Loader(self.source, [self.view], order, workers=workers, pin_memory=pinned)


def fit_published_probe(
    backbone: nn.Module,
    width: int,
    source: Source,
    classes: int,
    *,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    settings: EvaluateSettings,
) -> LinearProbe:
    """Train the linear layer, on any number of devices.

    Args:
        backbone: images [n, 3, S, S] → features [n, F]; left in eval mode and without gradients.
        width: F.
        source: labelled training images.
        classes: C.
        image_size: S, px.
        mean, std: of the three channels in 0..1.
        settings: `epochs`, `batch_size`, `learning_rate` (the cosine ends at a thousandth of it), `devices`, `device`.

    Raises:
        ValueError: if the images do not fill a batch, the devices do not divide it, or the loss is not finite at the
            end.
    """
    batches = len(source) // settings.batch_size
    if not batches:
        raise ValueError(
            f"batch_size {settings.batch_size} must be at most {len(source)}, the training images of {source.name}"
        )
    assert source.labels is not None
    rate = settings.learning_rate
    schedule = Schedule(peak=rate, final=rate / 1000, warmup_steps=0, steps=settings.epochs * batches)
    torch.manual_seed(0)
    backbone.requires_grad_(False).eval()
    labels = torch.as_tensor(source.labels)
    classifier = Classifier(backbone, width, labels, classes, schedule, mean, std)
    trainer = L.Trainer(
        accelerator={"cuda": "gpu"}.get(settings.device or "auto", settings.device or "auto"),
        devices=settings.devices,
        max_epochs=settings.epochs,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(classifier, datamodule=Images(source, image_size, settings.batch_size))
    weight, bias = classifier.linear.weight.detach().cpu(), classifier.linear.bias.detach().cpu()
    if not weight.isfinite().all():
        raise ValueError(f"the linear layer diverged at learning_rate {rate}: try a lower one")
    nothing = torch.zeros(width)
    return LinearProbe(weight, bias, nothing, nothing + 1, l2=0.0, validation={})
