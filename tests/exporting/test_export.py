"""What is refused, what is replaced, and what files say of themselves."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import adco
from adco.cli.main import run as command
from adco.errors import AdcoError, InputError
from adco.exporting import export as exporting
from adco.exporting.network import Network
from adco.exporting.registry import FORMATS
from adco.exporting.torch_program import TorchProgram
from adco.models.backbone import BackboneInfo, build_backbone, save_backbone
from tiny import NETWORK

INFO = BackboneInfo("resnet18", 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), NETWORK)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What an export needs of a run."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").write_text("method: adco\n")
    torch.manual_seed(0)
    save_backbone(path / "backbone.safetensors", build_backbone(INFO), INFO)
    return path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "to is missing: give one of timm, hf, torchvision, onnx, torch"),
        ({"to": "onxx"}, "to 'onxx' must be one of timm, hf, torchvision, onnx, torch"),
        ({"to": "timm", "half": True}, "half is not for --to timm: leave it out"),
        ({"to": "torch", "half": True}, "half is not for --to torch: leave it out"),
        ({"to": "torchvision", "normalize": True}, "normalize is not for --to torchvision: leave it out"),
        (
            {"to": "torchvision"},
            f"to torchvision: it has no resnet18 with backbone_args {NETWORK}; use --to timm, onnx or torch",
        ),
        ({"to": "torch", "backbone": "resnet18"}, "backbone resnet18 has random weights: give --weights"),
        ({"to": "torch", "weights": "w.pth"}, "take either the run RUN or backbone and weights by name, not both"),
        ({"to": "torch", "out": "network.pt"}, "out 'network.pt' must end with .pt2"),
        ({"to": "torch", "image_size": 0}, "image_size 0 must be at least 1"),
    ],
)
def test_what_is_impossible_is_refused_and_nothing_is_written(
    settings: dict[str, object], message: str, run: Path
) -> None:
    before = sorted(run.parent.rglob("*"))
    with pytest.raises(InputError) as error:
        adco.export(run, **settings)  # type: ignore[arg-type]
    assert str(error.value).replace(str(run), "RUN").startswith(message)
    assert "\n" not in str(error.value)
    assert sorted(run.parent.rglob("*")) == before


def test_torchvision_is_for_its_resnets(tmp_path: Path) -> None:
    info = BackboneInfo("test_vit", 64, INFO.mean, INFO.std)
    save_backbone(tmp_path / "w.safetensors", build_backbone(info), info)
    with pytest.raises(InputError, match=r"to torchvision is for ResNets: resnet18, .* for test_vit$"):
        adco.export(weights=tmp_path / "w.safetensors", to="torchvision")


@pytest.mark.parametrize(("to", "advice"), [("onnx", "pip install 'adco[onnx]'"), ("hf", "pip install transformers")])
def test_a_missing_package_is_named(to: str, advice: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"^to {to} needs .*: ") as error:
        adco.export(run, to=to)
    assert advice in str(error.value)


def test_only_an_earlier_export_of_the_run_is_replaced(run: Path, tmp_path: Path) -> None:
    first = adco.export(run, to="timm")
    assert first.path == run / "export" / "resnet18-timm"
    (first.path / "old").touch()
    assert adco.export(run, to="timm").path == first.path
    assert sorted(path.name for path in first.path.iterdir()) == [
        "config.json",
        "for_transformers.py",
        "load.py",
        "model.safetensors",
    ]
    mine = tmp_path / "mine"
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"^out '.*mine' exists: delete it, or choose another --out$"):
        adco.export(run, to="timm", out=mine)
    assert mine.read_text() == "mine"


class Wrong(TorchProgram):
    """Writes other weights than those of the backbone."""

    def write(self, network: Network, path: Path) -> None:
        with torch.no_grad():
            changed = Network(backbone=build_backbone(INFO).eval(), info=INFO, image_size=INFO.image_size)
        super().write(changed, path)


@pytest.mark.slow
def test_an_export_with_other_features_is_not_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: a format of one's own is a class and a line in FORMATS."""
    monkeypatch.setitem(FORMATS, "wrong", Wrong)
    with pytest.raises(AdcoError, match=r"^resnet18.pt2 was not written: loaded again, its features differ .*$"):
        adco.export(run, to="wrong")
    assert list((run / "export").iterdir()) == []


@pytest.mark.slow
def test_a_torch_program_says_what_images_it_takes(run: Path) -> None:
    export = adco.export(run, to="torch")
    files = dict.fromkeys(("images", "resize", "mean", "std", "backbone"), "")
    torch.export.load(export.path, extra_files=files)
    values = f"mean {[round(x, 6) for x in INFO.mean]} and std {[round(x, 6) for x in INFO.std]}"
    assert export.images == f"[N, 3, 32, 32] float32, (pixels / 255 - mean) / std with {values}, RGB"
    assert files["images"] == export.images
    assert (json.loads(files["mean"]), json.loads(files["std"])) == (list(INFO.mean), list(INFO.std))
    assert json.loads(files["backbone"])["name"] == "resnet18"
    assert "centre crop of 32 px" in files["resize"]


@pytest.mark.slow
def test_an_onnx_file_says_what_images_it_takes(run: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    export = adco.export(run, to="onnx", normalize=True)
    assert export.path.name == "resnet18-normalize.onnx"
    model = onnxruntime.InferenceSession(export.path)
    facts = model.get_modelmeta().custom_metadata_map
    assert facts["images"] == export.images == "[N, 3, 32, 32] uint8, pixels, RGB"
    assert json.loads(facts["mean"]) == list(INFO.mean)
    (images,), (features,) = model.get_inputs(), model.get_outputs()
    assert (images.type, images.shape) == ("tensor(uint8)", ["N", 3, 32, 32])
    assert (features.type, features.shape) == ("tensor(float)", ["N", 16])


def test_timms_folder_says_what_images_it_takes(run: Path) -> None:
    export = adco.export(run, to="timm", image_size=40)
    config = json.loads((export.path / "config.json").read_text())["pretrained_cfg"]
    assert (config["mean"], config["std"]) == (list(INFO.mean), list(INFO.std))
    assert config["input_size"] == [3, 40, 40]
    assert int(40 / config["crop_pct"]) == 45  # of 40 * 256 / 224 = 45.7, as timm rounds


@pytest.mark.parametrize(
    ("name", "size", "changed"),
    [
        ("resnet18", 32, True),
        ("resnet18", 96, False),
        ("convnext_atto", 32, True),
        ("vgg11", 32, False),
        ("test_vit", 32, False),
    ],
)
def test_a_stem_that_timm_knows_needs_no_code(name: str, size: int, changed: bool) -> None:
    info = BackboneInfo(name, size, INFO.mean, INFO.std)
    with torch.device("meta"):
        network = Network(backbone=build_backbone(info), info=info, image_size=size)
    assert network.has_cifar_stem == changed


@pytest.mark.slow
def test_the_newest_run_and_the_size_of_a_backbone_by_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "last")
    monkeypatch.chdir(tmp_path)
    assert command(["export", "--to", "torch"]) == 0
    assert capsys.readouterr().out.startswith("runs/last/export/resnet18.pt2: written, and loaded again: ")
    torch.manual_seed(0)
    network: nn.Module = build_backbone(BackboneInfo("test_vit", 160, (0.5,) * 3, (0.5,) * 3))
    torch.save(network.state_dict(), "vit.pth")
    assert command(["export", "--to", "torch", "--backbone", "test_vit", "--weights", "vit.pth"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("images: [N, 3, 160, 160] float32")
    assert Path("test_vit.pt2").is_file()
