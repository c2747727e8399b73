"""Views by a function of the user."""

import random
import signal
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import v2  # type: ignore[import-untyped]

import adco
import tiny
from adco.data.augment import seeded
from adco.data.batch import normalize
from adco.data.views import View, views_of
from adco.training.errors import Interrupted
from adco.training.saving import StopOnSignal

PIPELINE = v2.Compose([v2.ToImage(), v2.RandomResizedCrop(8), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4)])


def of_torchvision(image: NDArray[np.uint8]) -> Tensor:
    """A pipeline that draws from torch's generator, and noise from NumPy's and Python's."""
    view: Tensor = PIPELINE(image).float() / 255 * random.uniform(0.9, 1.0)
    noise = np.random.normal(0, 0.02, (3, 8, 8))  # noqa: NPY002
    return torch.clamp(view + torch.from_numpy(noise).float(), 0, 1)


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 12, 10, 3), np.uint8)


def viewed(indices: list[int], seed: int = 0, epoch: int = 0) -> list[Tensor]:
    numbers = np.array(indices)
    views = [View(size=8, augment=of_torchvision)] * 2
    return views_of(IMAGES[indices], views, seed, np.full(len(indices), epoch), numbers)


def test_views_are_functions_of_seed_epoch_image_and_number() -> None:
    torch.manual_seed(1)
    first, second = viewed([0, 1, 2, 3])
    torch.manual_seed(2)
    again, _ = viewed([3, 1])
    assert torch.equal(again, first[[3, 1]])
    others = [second, viewed([0, 1, 2, 3], seed=1)[0], viewed([0, 1, 2, 3], epoch=1)[0]]
    assert all(not torch.equal(other, first) for other in others)


def test_generators_are_left_as_they_were() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    expected = drawn(), drawn()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    first = drawn()
    viewed([0, 1])
    with pytest.raises(KeyError), seeded(1, 2):
        raise KeyError
    assert (first, drawn()) == expected


def test_a_function_may_change_the_image_it_gets() -> None:
    def spoil(image: NDArray[np.uint8]) -> Tensor:
        view = torch.from_numpy(image[:8, :8].copy()).permute(2, 0, 1)
        image[:] = 0
        return view

    first, second = views_of(IMAGES[:1], [View(size=8, augment=spoil)] * 2, 0, np.zeros(1, int), np.zeros(1, int))
    assert torch.equal(first, second)
    np.testing.assert_array_equal(first[0].permute(1, 2, 0), IMAGES[0, :8, :8])


def test_floats_in_0_to_1_are_normalized_as_bytes_are() -> None:
    views = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    floats = views.float() / 255
    before = floats.clone()
    results = [normalize(these, mean, std, torch.contiguous_format) for these in (views, floats)]
    torch.testing.assert_close(*results)
    assert torch.equal(floats, before)


SETTINGS: dict[str, Any] = {
    **tiny.SETTINGS,
    "data": "few",
    "adversaries": 32,
    "batch_size": 24,
    "epochs": 2,
    "image_size": 8,
    "knn_images": 0,
}


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_any_workers_and_a_resume_give_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        adco.pretrain(**SETTINGS, workers=workers, augment=of_torchvision, out=str(tmp_path / f"{workers}"))
        for workers in (0, 2)
    ]
    receive = StopOnSignal.on_train_batch_end

    def hook(self: StopOnSignal, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
        receive(self, trainer, module, outputs, batch, index)

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "on_train_batch_end", hook)
        with pytest.raises(Interrupted):
            adco.pretrain(**SETTINGS, augment=of_torchvision, out=str(stopped))
    with pytest.raises(ValueError, match="augment is none, but the run began with of_torchvision: give the same"):
        adco.pretrain(resume=stopped)
    runs.append(adco.pretrain(resume=stopped, augment=of_torchvision))
    plain = adco.pretrain(**SETTINGS, out=str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="augment is of_torchvision, but the run began with none"):
        adco.pretrain(resume=plain, epochs=3, augment=of_torchvision)
    weights = [load_file(run / "backbone.safetensors") for run in (*runs, plain)]
    for name, expected in weights[0].items():
        assert torch.equal(weights[1][name], expected)
        assert torch.equal(weights[2][name], expected)
    assert not torch.equal(weights[3]["conv1.weight"], weights[0]["conv1.weight"])


@pytest.mark.parametrize(
    ("augment", "settings", "message"),
    [
        (lambda image: image, {}, r"augment returns a ndarray: it must be a tensor \[3, 8, 8\] \(image_size is 8\)"),
        (lambda image: torch.zeros(3, 9, 9), {}, r"augment returns torch.float32 \[3, 9, 9\]: it must be"),
        (lambda image: torch.zeros(3, 8, 8, dtype=torch.int32), {}, r"returns torch.int32 \[3, 8, 8\]: it must be"),
        (lambda image: torch.full((3, 8, 8), 200.0), {}, r"returns floats from 200 to 200: they must be in \[0, 1\]"),
        (lambda image: torch.linspace(-2, 2, 192).view(3, 8, 8), {}, "floats from -2 to 2: .* the normalization"),
        (lambda image: torch.full((3, 8, 8), torch.nan), {}, "returns floats from nan to nan"),
        ("flip", {}, "augment 'flip' is not a function"),
        (of_torchvision, {"minutes": 1.0, "epochs": None}, "minutes 1 is measured with the package's views"),
        (of_torchvision, {"small_crops": [[6, 0.1, 0.4]]}, "augment makes the two views of full size"),
    ],
)
def test_what_is_no_augmentation_is_one_line(
    tmp_path: Path, augment: Any, settings: dict[str, Any], message: str
) -> None:
    given = {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}
    with pytest.raises(ValueError, match=message) as error:
        adco.pretrain(**given, augment=augment, out=str(tmp_path / "run"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
