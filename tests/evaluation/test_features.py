"""Feature extraction leaves the backbone as it found it, and returns the source's images in their order."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from adco.data import views
from adco.data.sources.arrays import ArraySource
from adco.data.sources.folder import FolderSource
from adco.data.sources.paths import Paths
from adco.data.sources.reading import Reading
from adco.evaluation.extract import BATCH, extract_features, images_at_once, pixel_features
from adco.evaluation.features import Features

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Flat(nn.Module):
    """A backbone whose features are its input."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def array_source(n: int = 21, side: int = 8, labels: NDArray[np.int64] | None = None) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return ArraySource("made", images, np.arange(n) % 3 if labels is None else labels, ("a", "b", "c"))


def folder_source(root: Path, images: NDArray[np.uint8]) -> FolderSource:
    names = [f"{number:03}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(root / name)
    paths = Paths.below(root, "".join(f"{name}\0" for name in names).encode())
    return FolderSource("files", paths, 8, 8, np.arange(len(images)) % 3, ("a", "b", "c"), ())


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm2d(4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def extract(
    module: nn.Module, source: ArraySource | FolderSource, *, batch_size: int = 512, image_size: int = 8
) -> Features:
    return extract_features(module, source, image_size=image_size, mean=MEAN, std=STD, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 4, 21, 512])
def test_features_are_those_of_normalised_images_in_order(batch_size: int) -> None:
    source = array_source()
    expected = (source.images.astype(np.float64) / 255 - MEAN) / STD
    found = extract(Flat(), source, batch_size=batch_size)
    assert found.features.dtype == torch.float32
    assert found.labels.dtype == torch.int64
    np.testing.assert_allclose(found.features, expected.transpose(0, 3, 1, 2).reshape(21, -1), atol=1e-5)
    np.testing.assert_array_equal(found.labels, np.arange(21) % 3)


def test_files_decoded_by_threads_come_in_order(tmp_path: Path) -> None:
    source = array_source(n=150)
    files = folder_source(tmp_path, source.images)
    pixels = views.test_view(files.load(range(150)), 8).permute(0, 2, 3, 1).double() / 255
    expected = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).flatten(1)
    found = extract(Flat(), files, batch_size=70)
    torch.testing.assert_close(found.features.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(found.labels, torch.arange(150) % 3)


@pytest.mark.filterwarnings("ignore:.*cannot be read")
@pytest.mark.parametrize("batch_size", [40, 33, 1])
def test_damaged_images_at_the_end_are_left_out_with_any_channels(tmp_path: Path, batch_size: int) -> None:
    """Images are decoded 32 at once, so here the damaged one is alone in its part of a batch, or in its batch."""
    source = folder_source(tmp_path, np.random.default_rng(0).integers(0, 256, (33, 8, 8, 3), np.uint8))
    grey = source.read_as(Reading(1))
    (tmp_path / "032.png").write_bytes(b"no image")
    features = extract_features(
        Flat(), grey, image_size=8, mean=(0.5,), std=(0.5,), batch_size=batch_size, max_unreadable=0.1
    )
    expected = np.stack([np.asarray(Image.open(path).convert("L")) for path in sorted(tmp_path.glob("*.png"))[:32]])
    np.testing.assert_allclose(features.features, expected.reshape(32, -1) / 127.5 - 1, atol=1e-6)
    assert features.labels.tolist() == [number % 3 for number in range(32)]


def test_a_training_backbone_is_left_bit_for_bit_as_it_was() -> None:
    module = backbone().train()
    inner = module.get_submodule("2")
    inner.eval()  # a part frozen by its owner stays frozen
    module.get_submodule("0").requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [child.training for child in module.modules()]
    extract(module, array_source())
    assert [child.training for child in module.modules()] == flags
    assert True in flags
    assert False in flags
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert [parameter.requires_grad for parameter in module.parameters()] == [False, False] + 4 * [True]


def test_the_backbone_runs_in_eval_mode_without_gradients() -> None:
    module = backbone().train()
    source = array_source()
    first, second = extract(module, source), extract(module, source, batch_size=5)  # no dropout, no batch statistics
    torch.testing.assert_close(first.features, second.features)
    assert not first.features.requires_grad
    assert not first.features.is_inference()  # a probe trains on them


def test_flags_return_even_when_the_backbone_fails() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(5, 1, 1)).train()
    with pytest.raises(RuntimeError):
        extract(module, array_source())
    assert all(child.training for child in module.modules())


def test_threads_share_the_cores_and_leave_them_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads with batches of their own have two of four cores each; 200 images pass in four parts."""
    seen: list[tuple[int, int]] = []

    class Looks(Flat):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((len(images), torch.get_num_threads()))
            return super().forward(images)

    monkeypatch.setattr("adco.evaluation.extract.cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        extract(Looks(), array_source(n=200))
        assert seen == [(64, 2)] * 3 + [(8, 2)]
        with ThreadPoolExecutor(1) as later:
            assert [torch.get_num_threads(), later.submit(torch.get_num_threads).result()] == [4, 4]
    finally:
        torch.set_num_threads(before)


def test_large_images_take_no_more_memory_of_a_gpu_at_once() -> None:
    """A batch of 224 px passes at once; of twice the side, a quarter of it, and of any size at least one image."""
    gpu = torch.device("cuda")
    sides = (32, 224, 448, 10_000)
    assert [min(BATCH, images_at_once(gpu, side)) for side in sides] == [BATCH, BATCH, BATCH // 4, 1]
    assert {images_at_once(torch.device("cpu"), side) for side in sides} == {64}


def test_half_precision_features_become_float32() -> None:
    class Half(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).bfloat16()

    assert extract(Half(), array_source()).features.dtype == torch.float32


def test_read_only_labels_are_welcome() -> None:
    labels = np.zeros(21, np.int64)
    labels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract(Flat(), array_source(labels=labels)).labels.sum() == 0


@pytest.mark.parametrize(("image_size", "side"), [(8, 8), (16, 16), (64, 32), (224, 32)])
def test_pixels_are_in_0_1_and_at_most_32_px_wide(image_size: int, side: int) -> None:
    source = array_source(side=8)
    found = pixel_features(source, image_size)
    assert found.features.shape == (21, 3 * side * side)
    assert found.features.min() >= 0
    assert found.features.max() <= 1
    if side == 8:
        np.testing.assert_allclose(found.features, source.images.transpose(0, 3, 1, 2).reshape(21, -1) / 255, rtol=1e-6)


def test_unlabelled_empty_and_diverged_are_refused() -> None:
    source = array_source()
    unlabelled = ArraySource("wild", source.images, None, ())
    with pytest.raises(ValueError, match="wild has no labels"):
        extract(Flat(), unlabelled)
    with pytest.raises(ValueError, match="wild has no labels"):
        pixel_features(unlabelled, 8)
    with pytest.raises(ValueError, match="no images"):
        extract(Flat(), source.subset([]))
    diverged = nn.BatchNorm2d(3)
    nn.init.constant_(diverged.bias, torch.nan)
    with pytest.raises(ValueError, match="21 of 21 images are NaN"):
        extract(nn.Sequential(diverged, Flat()), source)
    with pytest.raises(ValueError, match=r"must return features \[B, F\]"):
        extract(nn.Identity(), source)


def test_no_bar_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    extract(Flat(), array_source(), batch_size=2)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
