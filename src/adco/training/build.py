"""From settings to what is trained: the views, the backbone and the method."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adco.config.pretrain import Resolved
from adco.data.augment import Augment
from adco.data.views import View
from adco.devices import training_device
from adco.errors import InputError
from adco.memory import gigabytes, total_memory
from adco.methods.method import Method, MethodArguments
from adco.models.backbone import BackboneInfo, build_backbone, width_for_training
from adco.models.continuing import copy_method, settings_of_tensor
from adco.models.freezing import fix_patches, freeze
from adco.models.pretrained import Loaded, copy_weights, method_file, read_weights
from adco.models.reading import read_tensors
from adco.optim.players import Schedule


def make_views(settings: Resolved, augment: Augment | None = None) -> list[View]:
    """Return the distribution of each view of an image: two of full size, then the method's further ones.

    Args:
        settings: resolved.
        augment: the user's function that makes the views instead.
    """
    crops = [(settings.image_size, *settings.crop_scale)] * 2 + settings.further_crops
    return [
        View(
            size=size,
            channels=settings.channels,
            scale=(smallest, largest),
            brightness=settings.brightness,
            contrast=settings.contrast,
            saturation=settings.saturation,
            hue=settings.hue,
            jitter_probability=settings.jitter_probability,
            grayscale_probability=settings.grayscale_probability,
            blur_probability=settings.blur_probability,
            flip_probability=settings.flip_probability,
            augment=augment,
        )
        for size, smallest, largest in crops
    ]


def backbone_info(settings: Resolved) -> BackboneInfo:
    """Return the metadata of `backbone.safetensors`."""
    return BackboneInfo(
        settings.backbone,
        settings.test_image_size,
        tuple(settings.mean),
        tuple(settings.std),
        dict(settings.backbone_args),
        settings.stem,
    )


def width_at_all_sizes(backbone: nn.Module, settings: Resolved) -> int:
    """Return the width of the features, after a check that the backbone takes images of every size of the run.

    Raises InputError as `width_for_training`.
    """
    info, device = backbone_info(settings), training_device(settings.accelerator).type
    sizes = {
        settings.test_image_size: "test_image_size",
        **{size: "small_crops" for size, *_ in settings.further_crops},
    }
    sizes[settings.image_size] = "image_size"  # the name to give if several settings have the same size
    widths = [
        width_for_training(backbone, info, size, setting, settings.precision, device) for size, setting in sizes.items()
    ]
    return widths[0]


def check_fits_memory(settings: Resolved) -> None:
    """Check that the networks and negatives fit into memory, before anything is allocated.

    Training needs three times the memory of what is trained: for weights, gradients and the optimizer's averages.

    Raises:
        InputError: if it is more memory than there is; names the largest part and the settings that it depends on.
    """
    with torch.device("meta"):
        parts = make_method(settings, steps_per_epoch=1).state_dict()
    needed = 3 * sum(tensor.nbytes for tensor in parts.values())
    if needed > total_memory():
        name, largest = max(parts.items(), key=lambda part: part[1].nbytes)
        raise InputError(
            f"training needs {gigabytes(needed)} for weights and optimizer, and there are "
            f"{gigabytes(total_memory())}: lower {settings_of_tensor(name)} ({name} is {list(largest.shape)})"
        )


def make_first_method(settings: Resolved, steps_per_epoch: int) -> tuple[Method, Loaded | None]:
    """Build the method as it is before the first step, with the weights that the settings name, which are read once.

    Args:
        settings: resolved.
        steps_per_epoch: of the run.

    Returns:
        The method, and what was loaded; None for random weights, drawn from torch's global generator.

    Raises:
        InputError: if timm does not have the backbone, it does not accept all view sizes, or the weights cannot be read
            or do not fit.
    """
    check_fits_memory(settings)
    backbone = _make_backbone(settings)
    if not settings.weights:
        return make_method(settings, steps_per_epoch, backbone), None
    tensors, source = _read_weights(settings)
    loaded = copy_weights(backbone, tensors, source)
    method = make_method(settings, steps_per_epoch, backbone)
    if settings.continue_method:
        copy_method(method, tensors, source)
    return method, loaded


def _make_backbone(settings: Resolved) -> nn.Module:
    backbone = build_backbone(backbone_info(settings))
    width_at_all_sizes(backbone, settings)  # before weights are compared: the size is to blame if they do not fit it
    return backbone


def _read_weights(settings: Resolved) -> tuple[Mapping[str, Tensor], str]:
    """Return the weights that the settings name; if the whole method is to be continued, all that a checkpoint has."""
    if not settings.continue_method:
        return read_weights(backbone_info(settings), settings.weights)
    path = method_file(settings.weights)
    return read_tensors(path), str(path)


def make_method(settings: Resolved, steps_per_epoch: int, backbone: nn.Module | None = None) -> Method:
    """Build the method with random weights, drawn from torch's global generator.

    Args:
        settings: resolved.
        steps_per_epoch: of the run.
        backbone: with the weights to start from; by default a new one.
    """
    backbone = build_backbone(backbone_info(settings)) if backbone is None else backbone
    freeze(backbone, settings.freeze, settings.backbone)
    if settings.fixed_patches:
        fix_patches(backbone, settings.backbone)
    width = width_at_all_sizes(backbone, settings)
    common = MethodArguments(
        schedule=Schedule(
            peak=settings.learning_rate,
            final=settings.final_learning_rate,
            warmup_steps=round(settings.warmup_epochs * steps_per_epoch),
            steps=settings.epochs * steps_per_epoch,
        ),
        backbone_rate=settings.backbone_rate,
        weight_decay=settings.weight_decay,
        accumulate=settings.accumulate,
        seed=settings.seed,
        mean=settings.mean,
        std=settings.std,
        channels_last=settings.channels_last,
    )
    return settings.build(backbone, width, common)
