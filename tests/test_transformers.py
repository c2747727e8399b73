"""Vision transformers: they are trained and evaluated at any size that they can take."""

from pathlib import Path
from typing import Any

import pytest
import torch

import adco
from adco.config.load import pretrain_settings
from adco.config.resolve import resolve
from adco.data.batch import Batch
from adco.data.sources.open import open_source
from adco.errors import InputError
from adco.models.freezing import fix_patches
from adco.training.bare import BareTraining
from adco.training.build import make_method
from adco.training.rehearsal import dry_run
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


@pytest.mark.slow
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
    asked = VIT | {"backbone": backbone, "backbone_args": {}} | sizes
    with pytest.raises(InputError, match=message):
        adco.pretrain(**asked, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        dry_run(pretrain_settings(**asked))


def test_a_fixed_patch_projection_is_the_same_in_the_momentum_encoder_and_gets_no_step() -> None:
    asked = pretrain_settings(**VIT | {"image_size": 32, "optimizer": "adamw"})
    settings = resolve(asked, open_source("few"))
    assert (settings.fixed_patches, settings.weight_decay, settings.learning_rate) == (True, 0.1, 1.5e-4 / 8)
    method = make_method(settings, 3)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    training = BareTraining(method, settings.optimizer)
    for position in range(5):
        views = [torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8) for _ in range(2)]
        training(Batch(views, torch.arange(32), position))
    after = method.state_dict()
    for network in ("encoder.backbone.", "momentum_encoder.encoder.backbone."):
        for name in ("patch_embed.proj.weight", "patch_embed.proj.bias"):
            assert torch.equal(after[network + name], before[network + name])
        assert not torch.equal(
            after[network + "blocks.0.attn.qkv.weight"], before[network + "blocks.0.attn.qkv.weight"]
        )


def test_a_first_layer_that_timm_does_not_know_cannot_be_fixed() -> None:
    with pytest.raises(InputError, match=r"fixed_patches true is not possible: .* the first layer of backbone plain"):
        fix_patches(torch.nn.Linear(2, 2), "plain")
