"""A classifier: a backbone, a linear layer on its features, and the names of the classes.

Shapes: N images, C channels, S side of an image in pixels, F feature width, K classes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from adco.data.batch import normalize
from adco.data.images import Images
from adco.data.views import test_view
from adco.errors import InputError
from adco.files import write_bytes
from adco.models.backbone import BackboneInfo, with_weights
from adco.models.reading import read_safetensors
from adco.untrusted import reading

CLASSIFIER = "classifier.safetensors"  # its file in a run directory


class Classifier(nn.Module):
    """A backbone with a linear layer on its features.

    Args:
        backbone: maps images [N, C, S, S] to features [N, F].
        head: maps features to logits [N, K].
        classes: the K class names, in the order of the logits.
        info: describes the backbone and its images: their size S, and the mean and std that normalise them.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, classes: Sequence[str], info: BackboneInfo) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.classes, self.info = tuple(classes), info

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, K] of normalised images [N, C, S, S]."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    @torch.inference_mode()
    def predict(self, images: Images) -> Tensor:
        """Return the probability of each class, [N, K] on the CPU, for images as they are read from files.

        They are resized, cropped at the centre and normalised as in an evaluation. The classifier should be in eval
        mode, as `load_classifier` returns it.

        Args:
            images: uint8 [N, H, W, C], or N arrays [H, W, C] of any size.
        """
        weight = self.head.weight
        mean, std = (weight.new_tensor(values) for values in (self.info.mean, self.info.std))
        views = test_view(images, self.info.image_size).to(weight.device)
        logits: Tensor = self(normalize(views, mean, std, torch.channels_last))
        return logits.softmax(1).cpu()


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Save the weights, `backbone.*` and `head.*`, with class names and the description of the backbone as metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    metadata = {"adco": json.dumps(asdict(classifier.info)), "classes": json.dumps(classifier.classes)}
    write_bytes(path, save(weights, metadata))


def load_classifier(path: str | Path) -> Classifier:
    """Return a classifier that `adco finetune` has saved, in eval mode.

    It maps normalised images [N, C, S, S] to logits [N, K]; `predict` takes images as they are read from files. Its
    `classes` are the K class names, and its `info` has the size of the images, their mean and std.

    Args:
        path: a classifier.safetensors, or the run directory of `adco finetune`.

    Raises:
        InputError: if there is no such file, or it is not of a classifier.
    """
    path = Path(path)
    file = path / CLASSIFIER if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no classifier at {file}")
    weights, metadata = read_safetensors(file)
    if not {"adco", "classes"} <= metadata.keys():
        raise InputError(f"{file} has no class names: it is not a classifier of adco finetune")
    with reading(file, says="does not hold a classifier"):
        info, classes = BackboneInfo(**json.loads(metadata["adco"])), json.loads(metadata["classes"])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes must be a list of names")
        of_backbone = {name.removeprefix("backbone."): x for name, x in weights.items() if name.startswith("backbone.")}
        head = nn.Linear(weights["head.weight"].shape[1], len(classes))
        head.load_state_dict({name: weights[f"head.{name}"] for name in ("weight", "bias")})
        return Classifier(with_weights(info, of_backbone), head, classes, info).eval()
