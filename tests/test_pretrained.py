"""Weights of other programs, under their own names: they are found, and give the same features."""

import argparse
import importlib
import re
import shutil
import sys
import types
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision  # type: ignore[import-untyped]
from safetensors.torch import save_file
from timm.data import constants
from torch import Tensor, nn

import adco
from adco.config.load import pretrain_settings
from adco.config.resolve import resolve
from adco.config.weights import known_backbone
from adco.data.sources.open import open_source
from adco.errors import InputError
from adco.models.backbone import BackboneInfo, build_backbone, save_backbone
from adco.models.pretrained import copy_weights, load_weights
from adco.training.build import make_first_method

State = dict[str, Any]
RESNET18 = BackboneInfo("resnet18", 96, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def resnet(seed: int) -> State:
    torch.manual_seed(seed)
    return dict(torchvision.models.resnet18().state_dict())


RIGHT, OTHER = resnet(0), resnet(1)  # the network that is to be loaded, and another one in the same file
QUEUE = {"queue": torch.randn(128, 16), "queue_ptr": torch.zeros(1, dtype=torch.int64)}


def under(prefix: str, state: State, heads: bool = True) -> State:
    return {prefix + name: tensor for name, tensor in state.items() if heads or not name.startswith("fc.")}


def numbered(state: State) -> State:
    """Return the state as `nn.Sequential` names the layers of a network without its classifier."""
    network = torchvision.models.resnet18()
    network.load_state_dict(state)
    return dict(nn.Sequential(*list(network.children())[:-1]).state_dict())


# Each as the project's code saves it: the keys of the file, the wrappers around the network, what else is in it.
FILES: dict[str, Callable[[], Any]] = {
    "torchvision": lambda: RIGHT,
    "MoCo and AdCo": lambda: {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": under("module.encoder_k.", OTHER) | under("module.encoder_q.", RIGHT) | under("module.", QUEUE),
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(64, 3, 7, 7)}}, "param_groups": [{"lr": 0.03}]},
    },
    "MoCo v3": lambda: {
        "state_dict": under("module.momentum_encoder.", OTHER) | under("module.base_encoder.", RIGHT),
        "scaler": {"scale": 65536.0},
    },
    "SimSiam": lambda: {
        "state_dict": under("module.encoder.", RIGHT) | {"module.predictor.0.weight": torch.randn(8, 16)}
    },
    "BYOL with numbered layers": lambda: {
        "online_network_state_dict": under("encoder.", numbered(RIGHT)),
        "target_network_state_dict": under("encoder.", numbered(OTHER)),
    },
    "lightly": lambda: {
        "state_dict": under("backbone_momentum.", numbered(OTHER))
        | under("backbone.", numbered(RIGHT))
        | {"projection_head.layers.0.weight": torch.randn(8, 512)},
        "callbacks": {},
        "global_step": 10,
    },
    "lightly-train": lambda: {
        "state_dict": under("train_model.embedding_model.wrapped_model._model.", RIGHT, heads=False),
        "ema": {"decay": 0.99},
    },
    "lightly-train with a teacher": lambda: {
        "state_dict": under("student_embedding_model.wrapped_model._model.", OTHER, heads=False)
        | under("teacher_embedding_model.wrapped_model._model.", RIGHT, heads=False),
    },
    "CaCo": lambda: {
        "knn_acc": 0.5,
        "state_dict": under("module.encoder_k.", OTHER) | under("module.encoder_q.", RIGHT),
        "Memory_Bank": {"W": torch.randn(128, 16), "v": torch.zeros(128, 16)},
    },
    "solo-learn": lambda: {
        "state_dict": under("momentum_backbone.", OTHER, heads=False)
        | under("backbone.", RIGHT, heads=False)
        | {"classifier.weight": torch.randn(10, 512)}
    },
    "stable-pretraining": lambda: {
        "state_dict": under("backbone.", RIGHT) | under("callbacks_modules.probe.", {"weight": torch.randn(10, 512)})
    },
    "DINO": lambda: {
        "student": under("module.backbone.", OTHER) | {"module.head.mlp.0.weight": torch.randn(8, 512)},
        "teacher": under("backbone.", RIGHT) | {"head.mlp.0.weight": torch.randn(8, 512)},
        "args": argparse.Namespace(arch="resnet18"),
    },
    "VISSL": lambda: {
        "classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", RIGHT), "heads": {}}}}
    },
    "a classifier in an attribute": lambda: {"model": under("net.encoder.", RIGHT), "epoch": torch.tensor(3)},
}


def features(network: nn.Module, size: int = 96) -> Tensor:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found: Tensor = network.eval()(images)
    return found


@pytest.fixture(scope="module")
def expected() -> Tensor:
    network = torchvision.models.resnet18()
    network.load_state_dict(RIGHT)
    network.fc = nn.Identity()
    return features(network)


@pytest.mark.slow
@pytest.mark.parametrize("program", FILES)
def test_weights_of_a_program_give_its_features(program: str, expected: Tensor, tmp_path: Path) -> None:
    torch.save(FILES[program](), tmp_path / "file.pth.tar")
    backbone = build_backbone(RESNET18)
    loaded = load_weights(backbone, RESNET18, str(tmp_path / "file.pth.tar"))
    assert (loaded.share, loaded.missing) == (1, [])
    torch.testing.assert_close(features(backbone), expected, atol=1e-6, rtol=0)


def test_weights_of_timm_and_norms_stay_as_loaded(tmp_path: Path) -> None:
    network: Any = timm.create_model("resnet50", num_classes=10)
    nn.init.uniform_(network.bn1.weight)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    info = BackboneInfo("resnet50", 96, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    backbone = build_backbone(info)
    assert "left out: fc (2 tensors)" in str(load_weights(backbone, info, str(tmp_path / "model.safetensors")))
    network.reset_classifier(0)
    torch.testing.assert_close(features(backbone), features(network), atol=1e-6, rtol=0)


def test_a_vision_transformer_of_torchvision_gives_its_features_also_at_another_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(64, 16, 12, 3, 192, 768, num_classes=10)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    network.heads = nn.Identity()
    for size in (64, 96):
        info = BackboneInfo("vit_tiny_patch16_224", size, (0.5,) * 3, (0.2,) * 3, {"img_size": size})
        backbone = build_backbone(info)
        loaded = load_weights(backbone, info, str(tmp_path / "vit.pth"))
        assert (loaded.share, loaded.missing, loaded.left_out) == (1, [], ["heads.head.weight", "heads.head.bias"])
        if size == 64:
            torch.testing.assert_close(features(backbone, 64), features(network, 64), atol=1e-6, rtol=0)
        assert features(backbone, size).shape == (2, 192)


CONVNEXT = (  # timm's names → those of ConvNeXt's authors
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d)\.blocks\.(\d)\.", r"stages.\1.\2."),
    (r"conv_dw\.", "dwconv."),
    (r"mlp\.fc(\d)\.", r"pwconv\1."),
    (r"^head\.norm\.", "norm."),
)


def test_names_of_the_original_authors_are_converted_under_a_prefix_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
    network = timm.create_model("convnext_tiny", num_classes=0, **small)
    theirs = {}
    for name, tensor in network.state_dict().items():
        for ours, original in CONVNEXT:
            name = re.sub(ours, original, name)
        theirs[f"student.backbone.{name}"] = tensor
    assert "student.backbone.downsample_layers.1.1.weight" in theirs
    torch.save({"model": theirs}, tmp_path / "convnext.pth")
    info = BackboneInfo("convnext_tiny", 64, (0.5,) * 3, (0.2,) * 3, small, "standard")
    backbone = build_backbone(info)
    loaded = load_weights(backbone, info, str(tmp_path / "convnext.pth"))
    assert (loaded.share, loaded.missing) == (1, [])
    torch.testing.assert_close(features(backbone, 64), features(network, 64), atol=1e-6, rtol=0)


def test_a_dinov2_checkpoint_with_registers_gives_its_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 56}
    name = "vit_small_patch14_reg4_dinov2"
    network = timm.create_model(name, num_classes=0, **small)
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.1)
    theirs = dict(network.state_dict())
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["mask_token"] = torch.zeros(1, 32)
    theirs["pos_embed"] = torch.cat(
        [torch.zeros(1, 1, 32), theirs["pos_embed"]], 1
    )  # theirs has one for the class token
    torch.save(theirs, tmp_path / "dinov2.pth")
    info = BackboneInfo(name, 56, (0.5,) * 3, (0.2,) * 3, small)
    backbone = build_backbone(info)
    loaded = load_weights(backbone, info, str(tmp_path / "dinov2.pth"))
    assert (loaded.share, loaded.missing) == (1, [])
    torch.testing.assert_close(features(backbone, 56), features(network, 56), atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "source", "size"),
    [
        ("deit3_small_patch16_224", "deit", 96),  # the class has no position
        ("vit_relpos_small_patch16_224", "vision_transformer_relpos", 96),
        ("swin_tiny_patch4_window7_224", "swin_transformer", 96),
        pytest.param("beit_base_patch16_224", "beit", 96, marks=pytest.mark.slow),  # 86 million weights
    ],
)
def test_positions_are_resampled_for_another_size_as_timm_does(name: str, source: str, size: int) -> None:
    torch.manual_seed(0)
    given = BackboneInfo(name, 224, (0.5,) * 3, (0.2,) * 3)
    weights = {
        key: torch.randn_like(tensor) if "pos" in key and tensor.is_floating_point() else tensor
        for key, tensor in build_backbone(given).state_dict().items()
    }
    backbone = build_backbone(replace(given, image_size=size))
    convert = getattr(importlib.import_module(f"timm.models.{source}"), "checkpoint_filter_fn", None)
    expected = convert(dict(weights), backbone) if convert else weights
    assert str(copy_weights(backbone, weights, "file")) == "100 % of the backbone"
    for key, tensor in backbone.state_dict().items():
        if "pos" in key and key in expected:
            torch.testing.assert_close(tensor, expected[key], msg=key)
    assert features(backbone, size).isfinite().all()


def test_positions_that_cannot_be_resampled_are_refused_in_words() -> None:
    given = BackboneInfo("pit_ti_224", 224, (0.5,) * 3, (0.2,) * 3)
    weights = build_backbone(given).state_dict()
    with pytest.raises(
        InputError, match=r"pos_embed has shape \[1, 64, 27, 27\] in the weights and .*; it depends on the --image_size"
    ):
        copy_weights(build_backbone(replace(given, image_size=96)), weights, "file")


def test_input_channels_are_adapted_as_timm_does(tmp_path: Path) -> None:
    torch.save(RIGHT, tmp_path / "three.pth")
    info = BackboneInfo("resnet18", 96, (0.5,), (0.2,), {"in_chans": 1})
    backbone = build_backbone(info)
    load_weights(backbone, info, str(tmp_path / "three.pth"))
    torch.testing.assert_close(backbone.state_dict()["conv1.weight"], RIGHT["conv1.weight"].sum(1, keepdim=True))


def settings_of_omegaconf(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return an object that refers to itself, of a package that is not installed when the file is read."""
    module = types.ModuleType("omegaconf")
    module.DictConfig = type("DictConfig", (), {"__module__": "omegaconf"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omegaconf", module)
    settings = module.DictConfig()
    settings.parent = settings
    settings.values = {"lr": 0.1}
    return settings


def test_objects_of_training_programs_are_not_built_and_modules_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Tensor
) -> None:
    network = torchvision.models.resnet18()
    network.load_state_dict(RIGHT)
    content = {
        "hyper_parameters": settings_of_omegaconf(monkeypatch),
        "best": np.float64(0.7),
        "folder": Path("runs"),
        "counts": defaultdict(list, {"a": [1]}),
        "model": network,
    }
    torch.save(content, tmp_path / "whole.ckpt")
    monkeypatch.delitem(sys.modules, "omegaconf")
    backbone = build_backbone(RESNET18)
    loaded = load_weights(backbone, RESNET18, str(tmp_path / "whole.ckpt"))
    assert (loaded.share, loaded.prefix) == (1, "model.")
    torch.testing.assert_close(features(backbone), expected, atol=1e-6, rtol=0)
    assert "omegaconf" not in sys.modules


class Executes:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('executed')",)


def truncated(path: Path) -> None:
    torch.save(RIGHT, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: torch.save({"model": RIGHT, "hook": Executes()}, path),
            r"without executing code.*builtins\.exec",
        ),
        (truncated, "cannot be read: PytorchStreamReader"),
        *(
            (lambda path, text=text: path.write_text(text), "cannot be read: it is neither a file that torch.save")
            for text in ("hello", "version https://git-lfs.github.com/spec/v1", "<!DOCTYPE html>", "")
        ),
        (
            lambda path: torch.save(RIGHT | {"bn1.bias": torch.full([64], torch.nan)}, path),
            "bn1.bias has values .*not fin",
        ),
        (
            lambda path: torch.save([RIGHT, Executes()], path, _use_new_zipfile_serialization=False),
            r"without executing code in it: it asks for \w*\.?exec;",
        ),
        (
            lambda path: torch.save({name: x for name, x in RIGHT.items() if "running" not in name}, path),
            "lack statistics of BatchNorm",
        ),
        (lambda path: torch.save({"epoch": 3}, path), "0 % .* there is no tensor in it"),
        (lambda path: torch.save(torchvision.models.resnet34().state_dict(), path), "larger network.* layer1.2.conv1"),
        (
            lambda path: torch.save(timm.create_model("regnetx_002").state_dict(), path),
            r"conv1.weight .*nearest",
        ),
        (
            lambda path: torch.save(RIGHT | {"conv1.weight": torch.randn(64, 3, 3, 3)}, path),
            r"conv1.weight has shape \[64, 3, 3, 3\] in the weights and \[64, 3, 7, 7\] in the backbone; a stem of an",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "file.pth")
    backbone = build_backbone(RESNET18)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(InputError, match=message) as raised:
        load_weights(backbone, RESNET18, str(tmp_path / "file.pth"))
    assert "\n" not in str(raised.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # of torch
@pytest.mark.parametrize(
    ("kind", "converted"),
    [
        ("int8, strided, on cpu", lambda x: x.to(torch.int8)),
        ("bool, strided, on cpu", lambda x: x > 0),
        ("complex64, strided, on cpu", lambda x: x.to(torch.complex64)),
        ("float8_e4m3fn, strided, on cpu", lambda x: x.to(torch.float8_e4m3fn)),
        ("float32, sparse_coo, on cpu", lambda x: x.to_sparse()),
        ("float32, strided, on meta", lambda x: x.to("meta")),
    ],
)
@pytest.mark.parametrize("names", [{"conv1.weight"}, RIGHT.keys()])
def test_tensors_that_are_no_weights_are_one_line(
    kind: str, converted: Callable[[Tensor], Tensor], names: Any, tmp_path: Path
) -> None:
    torch.save({name: converted(x) if name in names else x for name, x in RIGHT.items()}, tmp_path / "file.pth")
    with pytest.raises(InputError, match=rf"are unusable: conv1.weight is {kind}, not dense floats of 16, 32 or 64 b"):
        load_weights(build_backbone(RESNET18), RESNET18, str(tmp_path / "file.pth"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({name: x.to(dtype) for name, x in RIGHT.items()}, tmp_path / "file.pth")
    backbone = build_backbone(RESNET18)
    load_weights(backbone, RESNET18, str(tmp_path / "file.pth"))
    assert torch.equal(backbone.state_dict()["conv1.weight"], RIGHT["conv1.weight"].to(dtype).float())


def test_what_is_known_of_the_backbone_is_in_its_file_wherever_it_is_copied(tmp_path: Path) -> None:
    info = BackboneInfo("resnet18", 8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), {"layers": [1, 1, 1, 1]}, "cifar")
    save_backbone(tmp_path / "copied.safetensors", build_backbone(info), info)
    assert known_backbone(str(tmp_path / "copied.safetensors")) == {
        "backbone": "resnet18",
        "backbone_args": {"layers": [1, 1, 1, 1]},
        "stem": "cifar",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "test_image_size": 8,
    }
    save_file(RIGHT, tmp_path / "foreign.safetensors")
    assert known_backbone(str(tmp_path / "foreign.safetensors")) == {}
    assert known_backbone(str(tmp_path / "missing.safetensors")) == {}


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18.a1_in1k", constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD),
        ("vit_tiny_patch16_224.augreg_in21k", constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD),
        ("vit_base_patch16_clip_224.openai", constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
    ],
)
def test_images_are_normalised_as_for_timms_own_weights(name: str, mean: Any, std: Any) -> None:
    assert known_backbone("pretrained", name) == {"mean": mean, "std": std}
    assert known_backbone("pretrained", "unknown") == known_backbone("pretrained") == {}


TINY: dict[str, Any] = {
    "data": "digits",
    "batch_size": 360,
    "backbone_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "hidden": 16,
    "knn_images": 0,
    "accelerator": "cpu",
}


@pytest.mark.slow
def test_a_run_begins_from_the_weights_of_another_and_its_backbone_is_the_same(tmp_path: Path) -> None:
    """Also the momentum encoder's; and after a resume no weights are needed any more."""
    first = adco.pretrain(**TINY, epochs=1, mean=(0.4, 0.4, 0.4), out=tmp_path / "first")
    copied = shutil.copy(first / "backbone.safetensors", tmp_path / "copied.safetensors")
    further = {name: value for name, value in TINY.items() if name != "backbone_args"}
    asked = pretrain_settings(**further, epochs=1, weights=str(first))
    settings = resolve(asked, open_source("digits"))
    assert (settings.backbone_args, settings.stem, settings.mean) == (TINY["backbone_args"], "cifar", (0.4, 0.4, 0.4))
    state = make_first_method(settings, 4)[0].state_dict()
    before = adco.load_backbone(copied)[0].state_dict()
    for encoder in ("encoder", "momentum_encoder.encoder"):
        assert all(torch.equal(state[f"{encoder}.backbone.{name}"], tensor) for name, tensor in before.items())
    second = adco.pretrain(**further, epochs=1, weights=copied, out=tmp_path / "second")
    Path(copied).unlink()
    adco.pretrain(resume=second, epochs=2)
    after = adco.load_backbone(second / "backbone.safetensors")[0].state_dict()
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])
    alone = adco.evaluate("knn", weights=first, data="digits")
    assert alone["top1"] == adco.evaluate("knn", first)["top1"]


@pytest.mark.slow
def test_weights_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    torch.save(RIGHT, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"conv1.weight has shape \[64, 3, 7, 7\] in the weights"):
        adco.pretrain(data="digits", weights=tmp_path / "w.pth", stem="cifar", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
