"""Training of a linear layer by SGD on augmented images, for `linear_sgd`. It is apart because it imports Lightning.

The constants are AdCo's on ImageNet (Hu et al. 2021, arXiv 2011.08435). The protocol is that of MoCo (He et al. 2020,
arXiv 1911.05722, section 4.1): crops of 8 to 100 % of the area and flips, no other augmentation.

Shapes: n images of a batch, S image side in pixels, F feature width, C classes.
"""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adco.config.resolve import default_workers
from adco.data.batch import Batch, normalize
from adco.data.loader import Loader, Order
from adco.data.sources.protocol import Source
from adco.data.views import View
from adco.devices import devices_of, one_line_if_missing, placement, slurm_environment
from adco.errors import InputError
from adco.evaluation.evaluation import Task
from adco.evaluation.linear import LinearProbe
from adco.optim.players import Schedule
from adco.quiet import quiet_lightning

MOMENTUM = 0.9  # of SGD; there is no weight decay
INIT_STD = 0.01  # standard deviation of the initial weights
CROP = (0.08, 1.0)  # smallest and largest share of the image's area


class Classifier(L.LightningModule):
    """A linear layer on a frozen backbone, which stays in eval mode: Lightning does not change it."""

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
    """Augmented training images; each batch is divided between the devices."""

    def __init__(self, source: Source, size: int, channels: int, batch_size: int) -> None:
        super().__init__()
        self.source, self.batch_size = source, batch_size
        self.view = View(
            size=size,
            channels=channels,
            scale=CROP,
            jitter_probability=0.0,
            grayscale_probability=0.0,
            blur_probability=0.0,
        )

    def train_dataloader(self) -> Loader:
        assert self.trainer is not None
        ranks = self.trainer.world_size
        if self.batch_size % ranks:
            raise InputError(f"batch_size {self.batch_size} must be a multiple of devices, here {ranks}")
        order = Order(
            len(self.source), batch_size=self.batch_size, seed=0, rank=self.trainer.global_rank, world_size=ranks
        )
        pin_memory = self.trainer.strategy.root_device.type == "cuda"
        workers = default_workers(self.source, self.trainer.num_devices)
        return Loader(self.source, [self.view], order, workers=workers, pin_memory=pin_memory)


def fit_by_sgd(
    backbone: nn.Module,
    width: int,
    task: Task,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> LinearProbe:
    """Train a linear layer on frozen features of augmented images, in all processes of the task's group.

    Args:
        backbone: maps images [n, C, S, S] to features [n, F]; left in eval mode and without gradients.
        width: F.
        task: its labelled training images are used.
        epochs: passes over them.
        batch_size: images per step, over all devices together.
        learning_rate: of the first step; it decays to a thousandth along a cosine.

    Raises:
        InputError: the source has fewer images than one batch, the batch size is not a multiple of the number of
            devices, or the weights are not finite after training.
    """
    source, info = task.train, task.info
    batches = len(source) // batch_size
    if not batches:
        raise InputError(
            f"batch_size {batch_size} must be at most {len(source)}, the number of training images of {source.name}"
        )
    assert source.labels is not None
    schedule = Schedule(peak=learning_rate, final=learning_rate / 1000, warmup_steps=0, steps=epochs * batches)
    torch.manual_seed(0)
    backbone.requires_grad_(False).eval()
    labels = torch.as_tensor(source.labels)
    classifier = Classifier(backbone, width, labels, len(source.classes), schedule, info.mean, info.std)
    device = torch.device(task.device)
    accelerator = {"cuda": "gpu"}.get(device.type, device.type)
    with quiet_lightning():
        trainer = _trainer(accelerator, devices_of(device, task.group.size), epochs)
        trainer.fit(classifier, datamodule=Images(source, task.image_size, len(info.mean), batch_size))
    weight, bias = classifier.linear.weight.detach().cpu(), classifier.linear.bias.detach().cpu()
    if not weight.isfinite().all():
        raise InputError(f"the linear layer diverged at learning_rate {learning_rate}: try a lower one")
    # mean 0 and standard deviation 1: this probe is trained on features that are not standardised
    return LinearProbe(weight, bias, torch.zeros(width), torch.ones(width), l2=0.0, validation={})


def _trainer(accelerator: str, devices: int | str, epochs: int) -> L.Trainer:
    with one_line_if_missing(f"devices {devices} are not available on {accelerator}"):
        placed, nodes = placement(devices)
        return L.Trainer(
            accelerator=accelerator,
            devices=placed,
            num_nodes=nodes,
            max_epochs=epochs,
            use_distributed_sampler=False,
            plugins=[*slurm_environment()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
