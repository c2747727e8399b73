"""Which timm networks work, at four sizes of images and with all methods.

    python benchmarks/backbones.py          do all networks that have no result yet, then write docs/backbones.md
    python benchmarks/backbones.py table    only write docs/backbones.md

Networks in TRAINED are trained: with each method, two steps on four images of noise, after the check that every run
makes before it starts. Those in CHECKED are only checked, by one forward pass on torch's meta device. Results are
appended to results/backbones.jsonl, one line per network.
"""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from adco.config.load import pretrain_settings
from adco.config.registry import METHODS
from adco.config.resolve import resolve
from adco.data.batch import Batch
from adco.data.sources.arrays import ArraySource
from adco.errors import InputError
from adco.models.backbone import BackboneInfo, build_backbone, feature_width
from adco.training.bare import BareTraining
from adco.training.build import make_method
from measure import RESULTS, read_lines, run_all

LINES, PAGE = RESULTS / "backbones.jsonl", Path(__file__).parents[1] / "docs/backbones.md"
SIZES = (32, 64, 96, 224)
# One network a line would be long; the names of a family are separated by spaces.
TRAINED = {
    "ResNet": "resnet18 resnet26d",
    "ViT": "vit_tiny_patch16_224 deit_tiny_patch16_224",
    "Swin": "swin_tiny_patch4_window7_224",
    "ConvNeXt": "convnext_atto",
    "EfficientNet": "efficientnet_b0",
    "RegNet": "regnety_002",
    "MobileNet": "mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small_050",
    "VGG": "vgg11",
    "others": "densenet121 ghostnet_050 maxvit_rmlp_pico_rw_256 mixer_s16_224 levit_128s inception_v3 "
    "efficientformer_l1 efficientformerv2_s0 hrnet_w18_small xcit_nano_12_p16_224",
}
CHECKED = {
    "ResNet": "resnet10t resnet14t resnet34 resnet50 resnet50d resnet50t resnext50_32x4d seresnet50 resnetaa50 "
    "resnetrs50 resnetv2_50 resnetv2_50d",
    "ViT": "vit_tiny_r_s16_p8_224 vit_xsmall_patch16_clip_224 vit_small_patch16_224 vit_small_patch32_224 "
    "vit_small_patch14_dinov2 vit_small_patch16_dinov3 vit_medium_patch16_reg4_gap_256 deit3_small_patch16_224 "
    "deit_tiny_distilled_patch16_224 eva02_tiny_patch14_224 beit_base_patch16_224 beitv2_base_patch16_224",
    "Swin": "swin_s3_tiny_224 swin_s3_small_224 swin_small_patch4_window7_224 swin_base_patch4_window7_224 "
    "swin_base_patch4_window12_384 swinv2_tiny_window8_256 swinv2_tiny_window16_256 swinv2_small_window8_256 "
    "swinv2_small_window16_256 swinv2_cr_tiny_224 swinv2_cr_tiny_ns_224 swinv2_cr_small_224",
    "ConvNeXt": "convnext_zepto_rms convnext_zepto_rms_ols convnext_atto_ols convnext_femto convnext_pico "
    "convnext_nano convnext_tiny convnext_tiny_hnf convnextv2_atto convnextv2_femto convnextv2_pico convnextv2_nano",
    "EfficientNet": "efficientnet_b1 efficientnet_b2 efficientnet_b0_gn efficientnet_lite0 efficientnet_es "
    "efficientnet_cc_b0_4e efficientnet_blur_b0 efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnet_lite0 "
    "tf_efficientnetv2_b0 tf_efficientnetv2_s",
    "RegNet": "regnetx_002 regnetx_004 regnetx_006 regnetx_008 regnetx_016 regnety_004 regnety_006 regnety_008 "
    "regnety_016 regnetz_005 regnetz_b16 regnetv_040",
    "MobileNet": "mobilenetv1_100 mobilenetv2_035 mobilenetv2_100 mobilenetv3_small_075 mobilenetv3_small_100 "
    "mobilenetv3_large_075 mobilenetv3_large_100 mobilenetv3_rw mobilenetv4_conv_small mobilenetv4_conv_medium "
    "mobilenetv4_hybrid_medium mobilenet_edgetpu_v2_xs",
    "VGG": "vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn",
}
SETTINGS: dict[str, Any] = {
    **{"optimizer": "sgd", "batch_size": 4, "hidden": 32, "dim": 16, "epochs": 2, "workers": 0, "knn_images": 0},
    **{"accelerator": "cpu", "precision": "32-true"},
}
NEGATIVES: dict[str, dict[str, Any]] = {
    "adco": {"adversaries": 8, "warm_start": False},
    "caco": {"bank": 8},
    "moco": {"queue": 8},
}
Line = dict[str, Any]


def jobs() -> Iterator[tuple[str, str, bool]]:
    """Yield family, network, and whether it is trained."""
    for families, trained in ((TRAINED, True), (CHECKED, False)):
        yield from ((family, name, trained) for family, names in families.items() for name in names.split())


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in timm.create_model(name, num_classes=0).parameters())


def run(job: tuple[str, str, bool]) -> Line:
    """Return the line of results of a network: its outcome at each size, which is its width or what is wrong."""
    family, name, trained = job
    warnings.simplefilter("ignore")
    outcomes = {str(size): outcome(name, size, trained) for size in SIZES}
    return {"family": family, "network": name, "trained": trained, "parameters": parameters(name), "sizes": outcomes}


def outcome(name: str, size: int, trained: bool) -> int | str:
    """Return the width of a network's features if everything works at a size, else what is wrong, in one line."""
    info = BackboneInfo(name, size, (0.5,) * 3, (0.5,) * 3)
    try:
        with torch.device("meta"):
            width = feature_width(build_backbone(info), info, size)
    except InputError as error:
        return str(error)
    for method in METHODS if trained else ():
        try:
            train(method, name, size)
        except Exception as error:  # it is what this script looks for
            return f"{method}: {type(error).__name__}: {' '.join(str(error).split())}"
    return width


def train(method: str, name: str, size: int) -> None:
    """Do two steps on noise."""
    source = ArraySource("noise", np.zeros((8, size, size, 3), np.uint8), None, ())  # of the same number and size
    settings = SETTINGS | NEGATIVES.get(method, {}) | {"method": method, "backbone": name, "image_size": size}
    asked = pretrain_settings(data="noise", **settings)
    training = BareTraining(make_method(resolve(asked, source), 2), "sgd")
    for position in range(2):
        views = [torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8) for _ in range(2)]
        loss = training(Batch(views, torch.arange(4), position))["loss"]
        if not loss.isfinite():
            raise ArithmeticError(f"the loss is {float(loss)}")
    for path, weight in training.method.encoder.named_parameters():
        if weight.grad is None and weight.requires_grad:
            raise AssertionError(f"{path} has no gradient")


def page() -> str:
    """Return docs/backbones.md."""
    lines, reasons = read_lines(LINES), list[str]()
    trained = [line for line in lines if line["trained"]]
    checked = [line for line in lines if not line["trained"]]
    parts = [
        "<!-- written by benchmarks/backbones.py -->\n\n# Backbones",
        f"Any timm network that returns one vector per image can be a backbone. These of timm {timm.__version__} were "
        "tried at four sizes of images. A number in brackets means that this size does not work: the list at the end "
        "has the error message of `adco pretrain`. The words in parentheses there are PyTorch's own.",
        f"## Trained with every method\n\nok: each of {', '.join(METHODS)} trains two steps on four images of noise, "
        "with a finite loss and a gradient for every weight.",
        *tables(trained, reasons),
        "## Checked\n\nFurther networks of these families. ok: one forward pass gives a vector per image.",
        *tables(checked, reasons),
        "## Reasons\n\n" + "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)),
    ]
    return "\n\n".join(parts) + "\n"


def tables(lines: list[Line], reasons: list[str]) -> Iterator[str]:
    """Yield a table in Markdown. Reasons that are new are added to `reasons`."""
    head = " | ".join(f"{size} px" for size in SIZES)
    rows = [f"| family | network | parameters (M) | features | {head} |", "|---|---|---|---|---|---|---|---|"]
    order = [network for family in TRAINED for group in (TRAINED, CHECKED) for network in group.get(family, "").split()]
    for line in sorted(lines, key=lambda line: order.index(line["network"])):
        cells = []
        for found in line["sizes"].values():
            if isinstance(found, str) and found not in reasons:
                reasons.append(found)
            cells.append(f"[{reasons.index(found) + 1}]" if isinstance(found, str) else "ok")
        widths = {str(found) for found in line["sizes"].values() if not isinstance(found, str)}
        facts = [line["family"], f"`{line['network']}`", f"{line['parameters'] / 1e6:.1f}", ", ".join(sorted(widths))]
        rows.append(f"| {' | '.join(facts + cells)} |")
    yield "\n".join(rows)


def main() -> None:
    if sys.argv[1:] != ["table"]:
        done = {(line["network"], line["trained"]) for line in read_lines(LINES)}
        run_all(run, [job for job in jobs() if job[1:] not in done], LINES)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
