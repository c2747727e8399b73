"""What the adversaries look like: at some moments of a run, which training images each of them stands next to.

Shapes: s images of a sample, D width of the embeddings, K adversaries.
"""

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from adco.config.pretrain import Resolved
from adco.data.batch import Batch
from adco.data.draws import permutation
from adco.data.sources.protocol import Source, Unreadable
from adco.evaluation.extract import batches_of, embed_batches
from adco.models.encoder import Encoder
from adco.runs.directory import RunDirectory
from adco.runs.nearest_images import NearestImages, write_nearest
from adco.training.module import ends_step, method_of

SAMPLE = 256  # training images
BATCH = 8  # images; with eight threads, 64 are embedded at once, in the memory that is left beside that of a step
KEPT = 6  # images for each adversary
MOMENTS = 6  # evenly spaced after the start of the run
CHOICE = 2 << 32  # stands for the epoch in the drawing of the images; no run has so many


class AdversaryImages(Callback):
    """Writes the nearest images of the adversaries at some moments. Methods without adversaries are left alone.

    Args:
        run: where to write, on rank 0; None on the others.
        settings: of the run.
        source: the training images.
        steps: of the run.
    """

    def __init__(self, run: RunDirectory | None, settings: Resolved, source: Source, steps: int) -> None:
        self.run, self.settings = run, settings
        self.chosen = permutation(settings.seed, CHOICE, length=len(source))[:SAMPLE]
        self.sample = source.subset(self.chosen)
        self.moments = {max(1, round(steps * part / MOMENTS)) for part in range(MOMENTS + 1)}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step not in self.moments or not ends_step(trainer, batch_idx):
            return
        method = method_of(pl_module)
        directions = method.adversary_directions()  # of all adversaries: not computed in every step
        if self.run is None or directions is None:
            return
        if found := self._look(method.encoder, directions, trainer.global_step):
            write_nearest(self.run.adversaries, found)

    def _look(self, encoder: Encoder, directions: Tensor, step: int) -> NearestImages | None:
        """Return what the adversaries stand next to; None if no image of the sample can be read."""
        damaged: dict[int, Unreadable] = {}
        batches = embed_batches(
            encoder,
            self.sample,
            batches_of(len(self.sample), BATCH),
            image_size=self.settings.test_image_size,
            mean=self.settings.mean,
            std=self.settings.std,
            damaged=damaged,
            progress=False,
        )
        readable = [batch for batch in batches if len(batch[0])]
        if not readable:
            return None
        indices, embeddings = zip(*readable, strict=True)
        nearest, used = nearest_images(torch.cat(embeddings), directions.float().cpu())
        return NearestImages(step, self.chosen[np.concatenate(indices)][nearest.numpy()], used.numpy())


def nearest_images(embeddings: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest images of each adversary [K, T], and for how many images it is the nearest adversary [K].

    Args:
        embeddings: [s, D], of unit norm.
        directions: [K, D], of unit norm.
    """
    cosines = embeddings @ directions.T  # [s, K]; 67 MB with 256 images and 65 536 adversaries
    nearest = cosines.topk(min(KEPT, len(embeddings)), dim=0).indices.T
    return nearest, torch.bincount(cosines.argmax(1), minlength=len(directions))
