"""From settings to what is trained: the views, the backbone and the method."""

from torch import nn

from adco.config.pretrain import Resolved
from adco.data.augment import Augment
from adco.data.views import View
from adco.methods.method import Method, MethodArguments
from adco.models.backbone import BackboneInfo, build_backbone, feature_width
from adco.models.continuing import copy_method
from adco.models.freezing import fix_patches, freeze
from adco.models.pretrained import Loaded, load_weights, method_file
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


def make_backbone(settings: Resolved) -> tuple[nn.Module, Loaded | None]:
    """Build the backbone with the weights that the settings name, and return what was loaded; None for random weights.

    Raises InputError if the weights cannot be read or do not fit.
    """
    info = backbone_info(settings)
    backbone = build_backbone(info)
    return backbone, load_weights(backbone, info, settings.weights) if settings.weights else None


def width_at_all_sizes(backbone: nn.Module, settings: Resolved) -> int:
    """Return the width of the features, after a check that the backbone takes images of every size of the run.

    Raises InputError with the setting of a size that it does not take, and the nearest sizes that it takes.
    """
    info = backbone_info(settings)
    sizes = {
        settings.test_image_size: "test_image_size",
        **{size: "small_crops" for size, *_ in settings.further_crops},
    }
    sizes[settings.image_size] = "image_size"  # the name to give if several settings have the same size
    widths = [feature_width(backbone, info, size, setting) for size, setting in sizes.items()]
    return widths[0]


def make_method(settings: Resolved, steps_per_epoch: int, *, from_weights: bool = False) -> Method:
    """Build the method with random weights, drawn from torch's global generator.

    Args:
        settings: resolved.
        steps_per_epoch: of the run.
        from_weights: whether the backbone gets the weights named in the settings.
    """
    backbone = make_backbone(settings)[0] if from_weights else build_backbone(backbone_info(settings))
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
    method = settings.build(backbone, width, common)
    if from_weights and settings.continue_method:
        path = method_file(settings.weights)
        copy_method(method, read_tensors(path), str(path))
    return method
