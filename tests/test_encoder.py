import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision  # type: ignore[import-untyped]
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adco
import tiny
from adco.config.topics import Stem
from adco.errors import InputError
from adco.models.backbone import (
    BackboneInfo,
    build_backbone,
    feature_width,
    is_fitted_to_small_images,
    load_backbone,
    save_backbone,
)
from adco.models.encoder import Encoder, mlp, unit

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def info(image_size: int = 32, name: str = "resnet18", arguments: dict[str, object] | None = None) -> BackboneInfo:
    return BackboneInfo(name, image_size, MEAN, STD, arguments or {})


def trained(backbone: nn.Module, image_size: int) -> nn.Module:
    """With statistics that are not those of a new network."""
    torch.manual_seed(1)
    backbone.train()(torch.randn(8, 3, image_size, image_size))
    return backbone.eval()


def timms() -> nn.Module:
    network: nn.Module = timm.create_model("resnet18", num_classes=0)
    return network


def torchvisions() -> nn.Module:
    network: nn.Module = torchvision.models.resnet18()
    network.fc = nn.Identity()
    return network


@pytest.mark.parametrize("image_size", [32, 96])
def test_plain_timm_and_torchvision_load_what_is_saved(tmp_path: Path, image_size: int) -> None:
    torch.manual_seed(0)
    backbone = trained(build_backbone(info(image_size)), image_size)
    save_backbone(tmp_path / "backbone.safetensors", backbone, info(image_size))
    images = torch.randn(4, 3, image_size, image_size)
    with torch.no_grad():
        expected: Tensor = backbone(images)
    assert expected.shape == (4, 512)
    makers: list[Callable[[], nn.Module]] = [timms, torchvisions]
    for make in makers:
        network = make()
        if image_size <= 64:
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        network.load_state_dict(load_file(tmp_path / "backbone.safetensors"))
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("image_size", [32, 65])
def test_what_is_saved_is_read_back(tmp_path: Path, image_size: int) -> None:
    path = tmp_path / "backbone.safetensors"
    backbone = trained(build_backbone(info(image_size, arguments=tiny.NETWORK)), image_size)
    save_backbone(path, backbone.to(memory_format=torch.channels_last), info(image_size, arguments=tiny.NETWORK))
    for given in (path, str(path)):
        found, known = load_backbone(given)
        assert known.name == "resnet18"
        assert (known.image_size, tuple(known.mean), tuple(known.std)) == (image_size, MEAN, STD)
        assert known.arguments == tiny.NETWORK
        assert not any(module.training for module in found.modules())
        expected = backbone.state_dict()
        assert found.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    assert sorted(tmp_path.iterdir()) == [path]  # nothing is left beside it
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["adco"])["image_size"] == image_size


def test_small_images_keep_their_size_through_the_stem() -> None:
    for image_size, side in [(64, 8), (65, 3)]:  # a 32nd of 65 px is 3 after rounding up; without the stem's quarter, 8
        backbone = build_backbone(info(image_size, arguments=tiny.NETWORK))
        features = backbone.forward_features(torch.zeros(1, 3, image_size, image_size))  # type: ignore[operator]
        assert features.shape == (1, 16, side, side)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet19", "resnet18"),
        ("resnet500", "resnet50"),
        ("ResNet18", "resnet18"),
        ("efficientnet_b99", "efficientnet_b8"),
        ("!", "resnet18, resnet50"),
    ],
)
def test_an_unknown_network_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone '{name}' is not a timm model: try .*{near}"):
        build_backbone(info(name=name))


def test_an_unknown_tag_names_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"'resnet18\.b9' is not a timm model: its tag is not one of resnet18\.a1_in1k"
    ):
        build_backbone(info(name="resnet18.b9"))


@pytest.mark.slow
def test_a_network_of_fixed_size_keeps_its_stem_also_for_small_images() -> None:
    for name in ("maxvit_rmlp_pico_rw_256", "efficientformerv2_s0", "vit_tiny_patch16_224"):
        given = info(64, name)
        assert not is_fitted_to_small_images(given)
        theirs = timm.create_model(name, num_classes=0, img_size=64)
        strides = [
            [m.stride for m in network.modules() if isinstance(m, nn.Conv2d)]
            for network in (build_backbone(given), theirs)
        ]
        assert strides[0] == strides[1]
    assert is_fitted_to_small_images(info(64, "resnet26d"))
    assert not is_fitted_to_small_images(info(65, "resnet26d"))


# A CIFAR stem removes the strides of the stem: a factor of 4, or of 2 where the stem halves once.
@pytest.mark.parametrize(
    ("name", "side"),
    [
        *((name, 8) for name in ("resnet10t", "resnet26d", "convnext_atto", "densenet121", "resnetv2_50")),
        *((name, 8) for name in ("resnet50t", "resnetaa50d", "densenetblur121d", "pvt_v2_b0", "hrnet_w18_small")),
        *((name, 4) for name in ("efficientnet_b0", "regnety_002", "mobilenetv3_small_050", "ghostnet_050")),
        *((name, 2) for name in ("darknet17", "dla34")),  # no stride before the first block
        pytest.param("vgg11", 2, marks=pytest.mark.slow),  # 129 million weights
    ],
)
def test_stems_of_all_kinds_are_fitted_to_small_images(name: str, side: int) -> None:
    network = build_backbone(info(64, name)).eval()
    with torch.no_grad():
        maps: Tensor = network.forward_features(torch.zeros(1, 3, 64, 64))  # type: ignore[operator]
    assert maps.shape[2:] == (side, side)


@pytest.mark.parametrize(("stem", "image_size", "side"), [("standard", 64, 2), ("cifar", 96, 12), ("auto", 96, 3)])
def test_the_stem_can_be_chosen_and_is_kept_in_the_file(tmp_path: Path, stem: Stem, image_size: int, side: int) -> None:
    given = BackboneInfo("resnet18", image_size, MEAN, STD, tiny.NETWORK, stem)
    save_backbone(tmp_path / "b.safetensors", build_backbone(given), given)
    network, known = load_backbone(tmp_path / "b.safetensors")
    assert known.stem == stem
    maps = network.forward_features(torch.zeros(1, 3, image_size, image_size))  # type: ignore[operator]
    assert maps.shape[2:] == (side, side)


def test_a_file_of_before_stems_could_be_chosen_is_read(tmp_path: Path) -> None:
    network = build_backbone(info(arguments=tiny.NETWORK))
    before = {"name": "resnet18", "image_size": 32, "mean": MEAN, "std": STD, "arguments": tiny.NETWORK}
    save_file(network.state_dict(), tmp_path / "b.safetensors", {"adco": json.dumps(before)})
    assert isinstance(load_backbone(tmp_path / "b.safetensors")[0].maxpool, nn.Identity)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv3_small_050", 1024),
        ("ghostnet_050", 1280),
        ("efficientnet_b0", 1280),
        ("regnetx_002", 368),
        ("resnet18", 512),
        pytest.param("vgg11", 4096, marks=pytest.mark.slow),  # 129 million weights
    ],
)
def test_the_width_is_that_of_the_features(name: str, expected: int) -> None:
    network = build_backbone(info(32, name))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert feature_width(network, info(32, name), 32) == expected
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def width(image_size: int, name: str, views: int | None = None) -> int:
    given = info(image_size, name)
    return feature_width(build_backbone(given), given, views or image_size)


@pytest.mark.slow
def test_a_network_of_fixed_size_is_built_for_the_images_and_takes_others_where_timm_can() -> None:
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s16_224", "maxvit_rmlp_pico_rw_256"):
        assert width(96 if name != "maxvit_rmlp_pico_rw_256" else 64, name) == timm.create_model(name).num_features
    assert width(96, "vit_tiny_patch16_224", views=32) == 192
    assert width(96, "deit_tiny_distilled_patch16_224", views=32) == 192  # its class hands on its arguments
    assert width(96, "swin_tiny_patch4_window7_224", views=64) == 768
    given = info(96, "vit_tiny_patch16_224", {"img_size": 64})
    assert build_backbone(given).get_submodule("patch_embed").img_size == (64, 64)  # what is given takes precedence


def test_a_transformer_of_dynamic_size_gives_the_features_of_timms_for_that_size() -> None:
    torch.manual_seed(0)
    ours = build_backbone(info(64, "vit_tiny_patch16_224", {"depth": 2})).eval()
    theirs: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2, img_size=64).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))
        theirs.set_input_size(img_size=96)  # type: ignore[operator]
        larger = torch.randn(2, 3, 96, 96)
        torch.testing.assert_close(ours(larger), theirs(larger), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_size", "views", "why", "sizes"),
    [
        ("vit_tiny_patch16_224", 50, 50, r"Input height \(50\) should be divisible", [48, 64]),
        ("vit_tiny_patch16_224", 8, 8, r"Input height \(8\) should be divisible", [16]),
        ("eva02_tiny_patch14_224", 50, 50, r"Input height \(50\) should be divisible", [42, 56]),
        ("swin_tiny_patch4_window7_224", 96, 50, r"Input height \(50\) should be divisible", [48, 56]),
        ("mixer_s16_224", 64, 96, r"Input height \(96\) doesn't match model \(64\)", [64]),
        ("levit_128s", 64, 96, "The size of tensor", [64]),
        pytest.param("efficientformer_l1", 64, 64, "The size of tensor", [196], marks=pytest.mark.slow),
        pytest.param("inception_v3", 32, 32, "Calculated padded", [80], marks=pytest.mark.slow),
    ],
)
def test_a_size_that_does_not_suit_names_the_nearest_that_do(
    name: str, image_size: int, views: int, why: str, sizes: list[int]
) -> None:
    which = "sizes that it takes are" if len(sizes) > 1 else "size that it takes is"
    which += " " + " and ".join(map(str, sizes))
    with pytest.raises(InputError, match=rf"^image_size {views} does not suit backbone {name} \({why}.* {which} px$"):
        width(image_size, name, views)
    for size in sizes:  # the advice is good
        assert width(size if views == image_size else image_size, name, size) > 0


@pytest.mark.parametrize("arguments", [{"colour": "red"}, {"layers": 3}, {"channels": "many"}, {"block": "big"}])
def test_arguments_that_do_not_fit_are_named(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"timm model resnet18 does not accept backbone_args .*"):
        build_backbone(info(arguments=arguments))


def test_without_arguments_an_error_of_timm_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr("timm.create_model", broken)
    with pytest.raises(TypeError, match="a bug"):
        build_backbone(info())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no backbone at .*nowhere"):
        load_backbone(tmp_path / "nowhere.safetensors")


def test_a_file_of_another_maker_is_told_from_ours(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="has no adco metadata, so its network is unknown: use --backbone"):
        load_backbone(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.safetensors is not a safetensors file"):
        load_backbone(tmp_path / "text.safetensors")


def test_the_public_name_is_the_same_function() -> None:
    assert adco.load_backbone is load_backbone


def test_embeddings_have_unit_norm_in_every_precision() -> None:
    encoder = Encoder(build_backbone(info(arguments=tiny.NETWORK)), mlp(16, 32, 16))
    images = torch.randn(6, 3, 32, 32)
    embeddings = encoder(images)
    assert embeddings.shape == (6, 16)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(6))
    with torch.autocast("cpu", torch.bfloat16):
        halved = encoder(images)
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved.norm(dim=1), torch.ones(6))
    assert encoder.double()(images.double()).dtype == torch.float64


def test_the_projector_is_the_papers() -> None:
    projector = mlp(16, 2048, 128)
    assert [type(layer) for layer in projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(weights.shape) for weights in projector.parameters()] == [
        (2048, 16),
        (2048,),
        (128, 2048),
        (128,),
    ]


def test_rows_of_no_length_become_zero_without_gradient_and_nan_is_not_hidden() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-6, 0.0]], requires_grad=True)
    found = unit(x)
    torch.testing.assert_close(found.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad[0].abs().sum() > 0
    assert not x.grad[1:].any()
    assert unit(torch.tensor([[float("nan"), 1.0]])).isnan().all()
