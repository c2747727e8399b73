"""What timm tells of a network by its name. Settings are chosen by it before the network is built."""

from adco.config.defaults import BACKBONE


def is_transformer(backbone: str) -> bool:
    """Return whether a timm network is a vision transformer.

    Its first layer is then a patch embedding, and it is built for one size of images. ViT, DeiT, BEiT, EVA, Swin, CaiT
    and XCiT are; networks that begin with convolutions are not, whether or not attention follows. False for unknown
    names.
    """
    if backbone == BACKBONE:
        return False  # without importing timm, which takes seconds
    from timm.models import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(backbone)
    except RuntimeError:  # an unknown tag; building the network will tell
        return False
    if config is None or not config.fixed_input_size:
        return False
    first = config.first_conv if isinstance(config.first_conv, str) else (config.first_conv or ("",))[0]
    return first.startswith("patch_embed")
