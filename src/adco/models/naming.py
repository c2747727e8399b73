"""How files name the tensors of a backbone: under which prefix, and with which names after it.

The code does not know particular programs. Each tensor in a file has a full dotted name, and the prefix under which
most of the backbone is found, by name and shape, is the backbone's. The file may also use torchvision's names for a
vision transformer, number the backbone's layers as `nn.Sequential` does, or have the names of the network's original
authors, which timm can convert.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

# Of two networks that fit equally well, the one whose prefix has none of these words is loaded. MoCo, MoCo v3, BYOL and
# lightly recommend the network that is trained, DINO the teacher.
SECOND_CHOICE = ("encoder_k", "momentum", "target", "student")
TORCHVISION_VIT = (  # timm's names of a vision transformer's tensors, and torchvision's
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^norm\.", "encoder.ln."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)


def find(
    backbone: nn.Module, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[str, dict[str, str]]:
    """Return the prefix and the names under which most of the backbone is found: our name → name after the prefix."""
    best: tuple[tuple[int, bool, int], str, dict[str, str]] = ((0, False, 0), "", {name: name for name in wanted})
    for names in _namings(backbone, wanted):
        ours = {theirs: name for name, theirs in names.items()}
        found: Counter[str] = Counter()
        for name, tensor in tensors.items():
            for prefix, rest in _splits(name):
                if rest in ours and tensor.shape == wanted[ours[rest]].shape:
                    found[prefix] += tensor.numel()
        for prefix, count in found.items():
            first_choice = not _is_second_choice(prefix)
            best = max(best, ((count, first_choice, -len(prefix)), prefix, names), key=lambda option: option[0])
    return best[1], best[2]


def _namings(backbone: nn.Module, wanted: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Yield the ways in which a file may name the backbone's tensors: our name → theirs."""
    yield {name: name for name in wanted}
    places = {name: str(place) for place, (name, _) in enumerate(backbone.named_children())}
    if all(name.split(".")[0] in places for name in wanted):
        yield {name: ".".join([places[name.split(".")[0]], *name.split(".")[1:]]) for name in wanted}
    if "patch_embed.proj.weight" in wanted:
        yield {name: _of_torchvision(name) for name in wanted}


def _of_torchvision(name: str) -> str:
    for ours, theirs in TORCHVISION_VIT:
        name = re.sub(ours, theirs, name)
    return name


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield each prefix of a dotted name, with the rest: a.b.c → ("", a.b.c), (a., b.c), (a.b., c)."""
    parts = name.split(".")
    for place in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:place])
        yield prefix, name[len(prefix) :]


def converted(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield what timm's converter for this kind of network makes of the tensors under each prefix that may be its own.

    It knows the names that the network's authors use, such as those of ConvNeXt, Swin or DINOv2. There are none for
    networks without a converter.
    """
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return
    prefixes = Counter(prefix for name in tensors for prefix, _ in _splits(name))
    enough = len(backbone.state_dict()) / 2
    plausible = [prefix for prefix, count in prefixes.items() if count >= enough]
    for prefix in sorted(plausible, key=lambda prefix: (_is_second_choice(prefix), len(prefix))):
        under = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            yield {name: tensor for name, tensor in convert(under, backbone).items() if isinstance(tensor, Tensor)}
        except Exception:  # the converter expects its network's tensors: under other prefixes, it may fail in any way
            continue


def _is_second_choice(prefix: str) -> bool:
    return any(word in prefix for word in SECOND_CHOICE)
