"""Vision transformers: they are trained and evaluated at any size that they can take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import adco
from adco.config.load import pretrain_settings
from adco.config.resolve import resolve
from adco.data.batch import Batch
from adco.data.sources.open import open_source
from adco.errors import InputError
from adco.models.freezing import fix_patches
from adco.runs.directory import RunDirectory
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


SMALL: dict[str, Any] = {
    **VIT,
    "backbone_args": {"depth": 3, "embed_dim": 24, "num_heads": 2},
    "knn_images": 0,
    "adversaries": 32,
}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small transformer at 48 px."""
    return adco.pretrain(**SMALL, image_size=48, out=tmp_path_factory.mktemp("vit") / "first")


def further(weights: Path, out: Path, **given: Any) -> dict[str, torch.Tensor]:
    """Return all weights at the end of a run that starts from weights, with the network that they bring along."""
    named = {name: value for name, value in SMALL.items() if not name.startswith("backbone")}
    run = RunDirectory(adco.pretrain(**named | given, weights=weights, out=out))
    state: dict[str, torch.Tensor] = torch.load(run.checkpoint, weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
def test_the_size_follows_the_images_in_training_and_the_weights_in_an_evaluation(first: Path, tmp_path: Path) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (32, 70, 70, 3), np.uint8)
    positions = further(first, tmp_path / "run", data=photos)["encoder.backbone.pos_embed"]
    assert positions.shape == (1, 1 + 4**2, 24)  # of 64 px
    found = adco.evaluate("knn", weights=first, data="few")
    assert found["top1"] == adco.evaluate("knn", first, data="few", image_size=48)["top1"]
    with pytest.raises(InputError, match=r"^image_size 8 does not suit backbone vit_tiny.* takes is 16 px$"):
        further(first, tmp_path / "other")  # the images have 8 px
    with pytest.raises(InputError, match=r"^image_size 8 does not suit backbone vit_tiny.* takes is 16 px$"):
        adco.evaluate("knn", weights=first, data="few", image_size=8)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_frozen_blocks_do_not_change_and_the_others_do(first: Path, tmp_path: Path) -> None:
    before = adco.load_backbone(first / "backbone.safetensors")[0].state_dict()
    after = further(first, tmp_path / "run", image_size=48, freeze=2)
    for network in ("encoder.backbone.", "momentum_encoder.encoder.backbone."):
        same = {name for name in before if torch.equal(after[network + name], before[name])}
        assert same == {n for n in before if n.startswith(("cls_token", "pos_embed", "patch_embed.", "blocks.0."))}


@pytest.mark.slow
def test_a_transformer_is_continued(first: Path, tmp_path: Path) -> None:
    """With steps that are too small to change anything, only the momentum encoder moves, towards the encoder."""
    ended = torch.load(RunDirectory(first).checkpoint, weights_only=True)["state_dict"]
    tiny: dict[str, Any] = {"learning_rate": 1e-20, "adversary_learning_rate": 1e-20, "weight_decay": 0}
    after = further(first, tmp_path / "run", image_size=48, continue_method=True, **tiny)
    assert after.keys() == ended.keys()
    kept = RunDirectory(tmp_path / "run").read_config()["ema_decay"] ** 3  # in three steps
    for name, tensor in ended.items():
        if "running_" in name or "num_batches" in name:  # statistics of the projector's BatchNorm
            continue
        encoder = ended[name.removeprefix("momentum_encoder.")]
        torch.testing.assert_close(after[name], encoder + kept * (tensor - encoder), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match=r"pos_embed is \[1, 10, 24\] in .*set --image_size and --test_image_size as"):
        further(first, tmp_path / "other", image_size=64, continue_method=True)


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
