"""Each export is loaded by the line that it prints, in another process that cannot import adco."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import adco
from adco.cli.main import run as command
from adco.exporting.export import Exported
from adco.exporting.registry import format_of
from adco.models.backbone import BackboneInfo, build_backbone, save_backbone
from adco.models.classifier import CLASSIFIER, Classifier, save_classifier
from adco.runs.directory import RunDirectory
from tiny import NETWORK, SETTINGS

pytestmark = pytest.mark.slow  # other processes, which import torch

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SERVER = """
import json, os, sys
sys.modules["adco"] = None  # importing it, or a module of it, fails from now on
import numpy, timm, torch
for name in json.loads(sys.argv[1]):
    __import__(name)
for request in sys.stdin:
    child = os.fork()
    if not child:
        folder, work = json.loads(request)
        os.chdir(folder)
        for number, (line, arrays) in enumerate(work):
            images = numpy.load(f"{number}-images.npy")
            names = {"images": images if arrays else torch.from_numpy(images)}
            with torch.no_grad():
                exec(line, names)
            numpy.save(f"{number}-features.npy", numpy.asarray(names["features"]))
        assert not [name for name in sys.modules if name.startswith("adco.")]
        sys.exit()
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""
Elsewhere = Callable[[list[tuple[str, NDArray[Any]]]], list[NDArray[Any]]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that starts others, which have imported what exports need but adco, and the file of what they say.

    Not onnxruntime: its threads would be missing in the others.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    source = Path(adco.__file__).parents[1]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != source]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    packages = [name for name in ("torchvision", "transformers") if find_spec(name)]
    command = [sys.executable, "-c", SERVER, json.dumps(packages)]
    pipe = subprocess.PIPE
    with (
        (folder / "said").open("w") as said,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=said, text=True
        ) as process,
    ):
        yield process, folder / "said"


@pytest.fixture
def elsewhere(server: tuple[subprocess.Popen[str], Path], tmp_path: Path) -> Elsewhere:
    """A function that returns the features that each line gives of its images, in another process, without adco."""
    process, said = server

    def features(lines: list[tuple[str, NDArray[Any]]]) -> list[NDArray[Any]]:
        for number, (_, images) in enumerate(lines):
            np.save(tmp_path / f"{number}-images.npy", images)
        work = [(line, "onnxruntime" in line) for line, _ in lines]
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps((str(tmp_path), work)), file=process.stdin, flush=True)
        assert process.stdout.readline() == "0\n", said.read_text()
        return [np.load(tmp_path / f"{number}-features.npy") for number in range(len(lines))]

    return features


def pixels(channels: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (5, channels, size, size), np.uint8)


def normalised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (pixels / 255 - mean) / std of images of any number of channels up to three."""
    mean, std = (np.reshape(values[: images.shape[1]], (1, -1, 1, 1)) for values in (MEAN, STD))
    result: NDArray[np.float32] = ((images / 255 - mean) / std).astype(np.float32)
    return result


def weights_of(info: BackboneInfo, folder: Path) -> Path:
    """Save a backbone whose BatchNorm has seen images, so that none of its layers is as it is initialised."""
    torch.manual_seed(0)
    backbone = build_backbone(info).train()
    shape = (8, len(info.mean), info.image_size, info.image_size)
    with torch.no_grad():
        for _ in range(3):
            backbone(torch.randn(shape))
        for parameter in backbone.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_backbone(folder / "w.safetensors", backbone, info)
    return folder / "w.safetensors"


def installed(*formats: str) -> list[str]:
    """Return the formats whose packages are installed."""
    return [name for name in formats if all(find_spec(package) for package in format_of(name).PACKAGES)]


# Each network, and the formats in which it may be a case of its own.
NETWORKS = {
    "resnet": (BackboneInfo("resnet18", 96, MEAN, STD, NETWORK), ["timm", "hf", "onnx", "torch"]),
    "resnet of torchvision": (BackboneInfo("resnet18.a1_in1k", 64, MEAN, STD, stem="standard"), ["torchvision"]),
    "resnet of torchvision with CIFAR stem": (BackboneInfo("resnet18", 32, MEAN, STD), ["torchvision"]),
    "vit": (BackboneInfo("test_vit", 64, MEAN, STD), ["timm", "hf", "onnx", "torch"]),
    "convnext": (BackboneInfo("test_convnext", 96, MEAN, STD), ["timm", "onnx", "torch"]),
    # Its weights have the same shapes as without the CIFAR stem.
    "convnext with CIFAR stem": (BackboneInfo("test_convnext", 32, MEAN, STD), ["timm", "hf"]),
    "grey images": (BackboneInfo("resnet18", 32, MEAN[:1], STD[:1], NETWORK | {"in_chans": 1}), ["timm", "onnx"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_the_same_in_every_format(name: str, tmp_path: Path, elsewhere: Elsewhere) -> None:
    info, formats = NETWORKS[name]
    formats = installed(*formats)
    weights = weights_of(info, tmp_path)
    images = normalised(pixels(len(info.mean), info.image_size))
    exports = [adco.export(weights=weights, to=to, out=tmp_path / f"model{format_of(to).SUFFIX}") for to in formats]
    found = elsewhere([(export.line, images) for export in exports])
    backbone, _ = adco.load_backbone(weights)
    with torch.no_grad():
        expected = backbone(torch.from_numpy(images)).numpy()
    assert expected.std(0).max() > 1e-3  # they differ between images
    for to, features in zip(formats, found, strict=True):
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=to)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of 8 px, and so with the CIFAR stem."""
    out = tmp_path_factory.mktemp("runs") / "small"
    return adco.pretrain(data="few", epochs=1, out=out, mean=MEAN, std=STD, **SETTINGS)


def test_the_command_prints_the_line_for_a_run(
    small_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: Elsewhere,
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = []
    for to in installed("timm", "hf", "onnx", "torch"):
        assert command(["export", str(small_run), "--to", to]) == 0
        lines.append(capsys.readouterr().out.splitlines()[-1])
    backbone, info = adco.load_backbone(small_run / "backbone.safetensors")
    images = normalised(pixels(3, info.image_size))
    with torch.no_grad():
        expected = backbone(torch.from_numpy(images)).numpy()
    for features in elsewhere([(line, images) for line in lines]):
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_pixels_are_normalised_where_that_is_built_in(small_run: Path, tmp_path: Path, elsewhere: Elsewhere) -> None:
    exports: list[Exported] = [adco.export(small_run, to="torch", normalize=True, out=tmp_path / "n.pt2")]
    if installed("onnx"):
        exports += [
            adco.export(small_run, to="onnx", normalize=True, half=half, out=tmp_path / f"{half}.onnx")
            for half in (False, True)
        ]
    backbone, info = adco.load_backbone(small_run / "backbone.safetensors")
    images = pixels(3, info.image_size)
    found = elsewhere([(export.line, images) for export in exports])
    with torch.no_grad():
        expected = backbone(torch.from_numpy(normalised(images))).numpy()
    for features, tolerance in zip(found, (1e-5, 1e-5, 1e-2), strict=False):
        np.testing.assert_allclose(features, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_a_classifier_can_be_added_in_timm(small_run: Path, tmp_path: Path, elsewhere: Elsewhere) -> None:
    """Also with the CIFAR stem: the weights are loaded, except those of the new layer."""
    export = adco.export(small_run, to="timm", out=tmp_path / "folder")
    line = export.line.replace("pretrained=True)", "pretrained=True, num_classes=7)")
    line += "; assert features.shape == (5, 7)"
    line += "; features = model.forward_head(model.forward_features(images), pre_logits=True)"
    backbone, info = adco.load_backbone(small_run / "backbone.safetensors")
    images = normalised(pixels(3, info.image_size))
    (features,) = elsewhere([(line, images)])
    with torch.no_grad():
        expected = backbone(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# Each network with a classifier, and the formats in which it may be a case of its own.
CLASSIFIERS = {
    "resnet with CIFAR stem": (BackboneInfo("resnet18", 32, MEAN, STD, NETWORK), ["timm", "hf", "onnx", "torch"]),
    "resnet of torchvision": (BackboneInfo("resnet18", 64, MEAN, STD, stem="standard"), ["torchvision", "hf"]),
    "vit": (BackboneInfo("test_vit", 64, MEAN, STD), ["timm", "torch"]),
    "convnext": (BackboneInfo("test_convnext", 96, MEAN, STD), ["timm", "onnx"]),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_fine_tuned_run_is_exported_with_its_classifier(name: str, tmp_path: Path, elsewhere: Elsewhere) -> None:
    info, formats = CLASSIFIERS[name]
    formats = installed(*formats)
    backbone, _ = adco.load_backbone(weights_of(info, tmp_path))
    images = normalised(pixels(3, info.image_size))
    with torch.no_grad():
        features = backbone(torch.from_numpy(images)).numpy()
    classes = ("zebra", "cat", "ünïcode")
    head = torch.nn.Linear(features.shape[1], len(classes))
    run = RunDirectory.create(tmp_path / "tuned")
    run.write_config({"command": "finetune"})
    save_classifier(run.path / CLASSIFIER, Classifier(backbone, head, classes, info))
    exports = [adco.export(run.path, to=to, out=tmp_path / f"c{format_of(to).SUFFIX}") for to in formats]
    assert {export.classes for export in exports} == {classes}
    weight, bias = (parameter.detach().numpy() for parameter in head.parameters())
    expected = features @ weight.T + bias
    found = elsewhere([(f"{export.line}; features = logits", images) for export in exports])
    for to, logits in zip(formats, found, strict=True):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=to)
    folders = [export.path / "config.json" for export in exports if export.path.is_dir()]
    assert all(json.loads(file.read_text())["label_names"] == list(classes) for file in folders)


@pytest.mark.parametrize("name", ["resnet18", "test_convnext"])
def test_weights_of_a_cifar_stem_are_never_loaded_into_another(name: str, tmp_path: Path, elsewhere: Elsewhere) -> None:
    weights = weights_of(BackboneInfo(name, 32, MEAN, STD), tmp_path)
    export = adco.export(weights=weights, to="timm", out=tmp_path / "folder")
    line = f"""
import timm
try:
    timm.create_model({f"local-dir:{export.path}"!r}, pretrained=True)
except RuntimeError as error:
    features = numpy.array(str(error))
"""
    (error,) = elsewhere([(f"import numpy{line}", pixels(3, 32))])
    assert str(error) == f"Unknown model ({name}_cifar_stem)"
