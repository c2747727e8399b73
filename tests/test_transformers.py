"""Vision transformers: they are trained and evaluated at any size that they can take."""

from pathlib import Path
from typing import Any

import pytest
import torch

import adco
from adco.errors import InputError
from tiny import SETTINGS

VIT: dict[str, Any] = {
    **{name: value for name, value in SETTINGS.items() if name != "backbone_args"},
    "data": "few",
    "epochs": 1,
    "batch_size": 32,
    "backbone": "vit_tiny_patch16_224",
    "backbone_args": {"depth": 1},
}


pytestmark = pytest.mark.filterwarnings("ignore:image_size .* is larger than the images")


@pytest.mark.slow
def test_a_transformer_is_trained_with_crops_of_several_sizes_and_evaluated_at_another(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"image_size": 48, "test_image_size": 64, "small_crops": [(32, 0.1, 0.4), (16, 0.1, 0.4)]}
    run = adco.pretrain(**VIT, **sizes, out=tmp_path / "run")
    backbone, info = adco.load_backbone(run / "backbone.safetensors")
    assert (info.image_size, info.arguments) == (64, {"depth": 1})
    assert backbone.state_dict()["pos_embed"].shape == (1, 1 + 4**2, 192)
    assert backbone(torch.zeros(1, 3, 96, 96)).shape == (1, 192)
    for size in (64, 96):
        assert 0 <= adco.evaluate("knn", run, image_size=size)["top1"] <= 100
    with pytest.raises(InputError, match=r"^image_size 50 does not suit .* 48 and 64 px$"):
        adco.evaluate("knn", run, image_size=50)
    smaller = adco.pretrain(**VIT, weights=run, image_size=32, out=tmp_path / "smaller")  # positions are resampled
    assert adco.load_backbone(smaller / "backbone.safetensors")[0].state_dict()["pos_embed"].shape == (1, 5, 192)


@pytest.mark.parametrize(
    ("backbone", "sizes", "message"),
    [
        ("vit_tiny_patch16_224", {}, r"^image_size 8 does not suit .*\): the nearest size that it takes is 16 px$"),
        ("mixer_s16_224", {"image_size": 32, "small_crops": [(16, 0.1, 0.4)]}, r"^small_crops 16 .* takes is 32 px$"),
        ("mixer_s16_224", {"image_size": 32, "test_image_size": 48}, r"^image_size 32 .* takes is 48 px$"),
    ],
)
def test_sizes_that_do_not_suit_are_refused_before_anything_is_written(
    backbone: str, sizes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        adco.pretrain(**VIT | {"backbone": backbone, "backbone_args": {}} | sizes, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())
