"""Views against torchvision and Pillow."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from adco.data import views
from adco.data.images import Images
from adco.data.pixels import crop_box
from adco.data.views import Draws, View, views_of

Array = NDArray[np.uint8]
SIDE = 64
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
IDENTITY = (1.0, 1.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def photos() -> list[Array]:
    """Two photographs of 427 × 640 px."""
    return list(load_sample_images().images)


@pytest.fixture(scope="module")
def images(photos: list[Array]) -> Array:
    """[64, 64, 64, 3] pieces of both."""
    corners = [(top, left) for top in range(0, 320, 80) for left in range(0, 560, 70)]
    return np.stack([photo[top : top + SIDE, left : left + SIDE] for photo in photos for top, left in corners])


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(view: View, n: int = 10_000, seed: int = 0) -> Draws:
    return views.draw(view, seed, np.zeros(n, np.int64), np.arange(n), 0)


def boxes(scale: tuple[float, float], height: int, width: int, n: int = 10_000) -> NDArray[np.int64]:
    u = drawn(View(scale=scale), n).crop
    return np.array([crop_box(height, width, row) for row in u])


def fixed(
    n: int,
    factors: tuple[float, float, float, float] = IDENTITY,
    order: tuple[int, int, int, int] = (0, 1, 2, 3),
    grayscale: bool = False,
    sigma: float = 0.0,
    flip: bool = False,
) -> Draws:
    """The same parameters for n square images, none cropped."""
    return Draws(
        crop=np.tile([1.0] * 20 + [0.0] * 2, (n, 1)),
        flip=np.full(n, flip),
        jitter=np.full(n, True),
        order=np.tile(order, (n, 1)),
        factors=np.tile(factors, (n, 1)),
        grayscale=np.full(n, grayscale),
        sigma=np.full(n, sigma),
    )


def rendered(images: Images, draws: Draws, size: int = SIDE) -> Tensor:
    """[B, 3, S, S] in 0..255."""
    (found,) = views.render(images, [View(size=size)], [draws])
    return found.float()


def as_tensor(images: Array) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


# Boxes


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.05, 0.3)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (200, 300), (40, 300), (300, 40)])
def test_boxes_are_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    top, left, h, w = boxes(scale, height, width, n=50_000).T
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    theirs = [RandomResizedCrop.get_params(blank, list(scale), [3 / 4, 4 / 3]) for _ in range(5_000)]  # theirs is slow
    their_top, their_left, their_h, their_w = np.array(theirs).T
    for mine, other in [
        (h * w, their_h * their_w),
        (w / h, their_w / their_h),
        (top, their_top),
        (left, their_left),
        (h, their_h),
        (left + w / 2, their_left + their_w / 2),
    ]:
        assert stats.ks_2samp(mine, other).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 50), (50, 2), (7, 9)])
def test_boxes_lie_inside_however_small_the_image(height: int, width: int) -> None:
    top, left, h, w = boxes((0.01, 1.0), height, width).T
    assert min(top.min(), left.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h).max() <= height
    assert (left + w).max() <= width


# Draws


def test_operations_are_drawn_as_often_as_asked() -> None:
    view = View(jitter_probability=0.8, grayscale_probability=0.2, blur_probability=0.5, flip_probability=0.3)
    draws = drawn(view)
    for chosen, probability in [
        (draws.jitter, 0.8),
        (draws.grayscale, 0.2),
        (draws.sigma > 0, 0.5),
        (draws.flip, 0.3),
    ]:
        assert stats.binomtest(int(chosen.sum()), len(chosen), probability).pvalue > 1e-3
    both = np.stack([draws.jitter, draws.grayscale, draws.sigma > 0, draws.flip]).astype(float)
    assert np.abs(np.corrcoef(both) - np.eye(4)).max() < 4 / np.sqrt(10_000)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_never_and_always(probability: float) -> None:
    view = View(
        jitter_probability=probability,
        grayscale_probability=probability,
        blur_probability=probability,
        flip_probability=probability,
    )
    draws = drawn(view)
    for chosen in (draws.jitter, draws.grayscale, draws.sigma > 0, draws.flip):
        assert (chosen == bool(probability)).all()


def test_factors_and_sigma_are_uniform_in_their_range() -> None:
    draws = drawn(View(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1, blur_probability=1.0))
    for factor, (low, high) in zip(draws.factors.T, [(0.6, 1.4), (0.7, 1.3), (0.8, 1.2), (-0.1, 0.1)], strict=True):
        assert stats.kstest(factor, "uniform", (low, high - low)).pvalue > 1e-3
    assert stats.kstest(draws.sigma, "uniform", (0.1, 1.9)).pvalue > 1e-3


def test_every_order_of_colours_is_as_frequent() -> None:
    orders, counts = np.unique(drawn(View()).order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_views_of_an_image_differ_by_view_epoch_and_seed(images: Array) -> None:
    some, zeros = images[:4], np.zeros(4, np.int64)
    view, numbers = View(size=16), np.arange(4)
    first, second = views_of(some, [view, view], 0, zeros, numbers)
    (later,) = views_of(some, [view], 0, zeros + 1, numbers)
    (other,) = views_of(some, [view], 1, zeros, numbers)
    for x in (second, later, other):
        assert (first != x).flatten(1).any(1).all()
    assert torch.equal(first, views_of(some, [view], 0, zeros, numbers)[0])


# Colours


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.9, 1.0, 1.4, 2.0])
@pytest.mark.parametrize(
    ("number", "theirs"),
    [(BRIGHTNESS, TF.adjust_brightness), (CONTRAST, TF.adjust_contrast), (SATURATION, TF.adjust_saturation)],
)
def test_colours_are_torchvisions(images: Array, number: int, theirs: object, factor: float) -> None:
    assert callable(theirs)
    factors = list(IDENTITY)
    factors[number] = factor
    mine = rendered(images, fixed(len(images), factors=(factors[0], factors[1], factors[2], factors[3])))
    exact = theirs(as_tensor(images).float() / 255, factor) * 255
    assert (mine - exact).abs().max() <= 1
    in_bytes = torch.stack([theirs(image, factor) for image in as_tensor(images)]).float()
    assert (mine - in_bytes).abs().mean() < 2


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.03, 0.0, 0.05, 0.1, 0.4])
def test_hue_is_torchvisions(images: Array, shift: float) -> None:
    mine = rendered(images, fixed(len(images), factors=(1.0, 1.0, 1.0, shift)))
    assert (mine - TF.adjust_hue(as_tensor(images).float() / 255, shift) * 255).abs().max() <= 1
    in_bytes = torch.stack([TF.adjust_hue(image, shift) for image in as_tensor(images)]).float()
    assert (mine - in_bytes).abs().mean() < 2


def test_grey_is_torchvisions(images: Array) -> None:
    mine = rendered(images, fixed(len(images), grayscale=True))
    theirs = TF.rgb_to_grayscale(as_tensor(images), num_output_channels=3).float()  # cut, not rounded
    assert (mine - theirs).abs().max() <= 1
    assert torch.equal(mine[:, 0], mine[:, 1])
    assert torch.equal(mine[:, 0], mine[:, 2])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_colours_change_in_the_order_drawn_and_grey_comes_last(images: Array, order: tuple[int, int, int, int]) -> None:
    factors = (1.4, 0.6, 1.4, 0.1)
    functions = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
    x = as_tensor(images).float() / 255
    for number in order:
        x = functions[number](x, factors[number])
    mine = rendered(images, fixed(len(images), factors, order))
    assert (mine - x * 255).abs().max() <= 1
    grey = rendered(images, fixed(len(images), factors, order, grayscale=True))
    assert (grey - TF.rgb_to_grayscale(x, 3) * 255).abs().max() <= 1


def test_images_that_are_not_jittered_keep_their_colours(images: Array) -> None:
    draws = replace(fixed(len(images), factors=(0.6, 0.6, 0.6, 0.1)), jitter=np.arange(len(images)) % 2 == 0)
    changed = (rendered(images, draws) != as_tensor(images)).flatten(1).any(1)
    assert changed.tolist() == draws.jitter.tolist()


# Crops, flips, blur


def test_crops_of_arrays_are_pillows(images: Array) -> None:
    scale = (0.1, 1.0)
    draws, found = drawn(View(scale=scale), n=len(images)), boxes(scale, SIDE, SIDE, n=len(images))
    for size in (24, 64, 96):
        as_they_are = replace(fixed(len(images)), crop=draws.crop, flip=draws.flip)
        mine = rendered(images, as_they_are, size)
        for x, image, (top, left, h, w), mirrored in zip(mine, images, found, draws.flip, strict=True):
            crop = Image.fromarray(image[top : top + h, left : left + w])
            theirs = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR), np.float32)
            theirs = theirs[:, ::-1] if mirrored else theirs
            difference = np.abs(x.permute(1, 2, 0).numpy() - theirs)
            assert difference.mean() < 0.5
            assert difference.max() <= 2  # Pillow rounds between its two passes


def test_photographs_are_treated_as_arrays_are(images: Array) -> None:
    draws = drawn(View(), n=len(images))
    assert torch.equal(rendered(images, draws, 48), rendered(iter(images), draws, 48))


def test_photographs_of_any_size_are_cropped_each_in_its_own(photos: list[Array]) -> None:
    tall = [photos[0], np.array(Image.fromarray(photos[1]).resize((50, 200)))]
    draws = replace(fixed(2), crop=drawn(View(scale=(0.05, 0.1)), n=2).crop)
    found = rendered(tall, draws, 20)
    for x, image, crop in zip(found, tall, draws.crop, strict=True):
        height, width, _ = image.shape
        top, left, h, w = crop_box(height, width, crop)
        theirs = Image.fromarray(image[top : top + h, left : left + w]).resize((20, 20), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(x.permute(1, 2, 0), np.asarray(theirs, np.float32), atol=2)


def test_flip_mirrors(images: Array) -> None:
    assert torch.equal(rendered(images, fixed(64, flip=True)), as_tensor(images).flip(3).float())
    assert torch.equal(rendered(images, fixed(64)), as_tensor(images).float())


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_torchvisions(images: Array, sigma: float) -> None:
    mine = rendered(images, fixed(len(images), sigma=sigma))
    width = 2 * math.ceil(3 * sigma) + 1
    theirs = TF.gaussian_blur(as_tensor(images).float(), [width, width], [sigma, sigma])
    assert (mine - theirs).abs().max() <= 0.51


def test_blur_fits_views_smaller_than_its_kernel() -> None:
    x = np.full((3, 4, 4, 3), 77, np.uint8)
    assert (rendered(x, fixed(3, sigma=2.0), 4) == 77).all()


# What else is in the batch, and who computes it, changes nothing


@pytest.mark.parametrize("size", [8, 24, 33])
@pytest.mark.parametrize("photographs", [False, True])
def test_an_image_alone_is_the_image_in_a_batch(images: Array, photographs: bool, size: int) -> None:
    view, seed = View(size=size), 3
    epochs, numbers = np.full(64, 7), np.arange(100, 164)
    batch = list(images) if photographs else images
    (together,) = views_of(batch, [view], seed, epochs, numbers)
    for i in range(64):
        (alone,) = views_of(batch[i : i + 1], [view], seed, epochs[i : i + 1], numbers[i : i + 1])
        assert torch.equal(alone[0], together[i])


@pytest.mark.usefixtures("_threads")
def test_any_number_of_threads_renders_the_same(images: Array) -> None:
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(views_of(images, [View(size=56)], 0, np.zeros(64, np.int64), np.arange(64))[0])
        assert torch.get_num_threads() == threads
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_type_of_numbers_changes_nothing(images: Array, dtype: torch.dtype) -> None:
    view, zeros, numbers = View(size=24), np.zeros(64, np.int64), np.arange(64)
    (expected,) = views_of(images, [view], 0, zeros, numbers)
    torch.set_default_dtype(dtype)  # as training in 64 bits does
    try:
        (found,) = views_of(images, [view], 0, zeros, numbers)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_rendering_leaves_the_images_untouched(images: Array) -> None:
    before = images.copy()
    views_of(images, [View(size=32)] * 2, 0, np.zeros(64, np.int64), np.arange(64))
    np.testing.assert_array_equal(images, before)


# Test time


def test_images_of_the_size_asked_for_stay_as_they_are(images: Array) -> None:
    assert torch.equal(views.test_view(images, SIDE), as_tensor(images))
    assert torch.equal(views.test_view(list(images), SIDE), as_tensor(images))


@pytest.mark.parametrize("size", [28, 56, 224])
def test_other_images_are_resized_and_cropped_in_the_centre(photos: list[Array], size: int) -> None:
    """As in the ImageNet protocol; sizes are such that torchvision, which rounds to whole pixels, has none to round."""
    wide = [photo[:256, :320] for photo in photos]
    found = views.test_view(wide, size).float()
    for x, image in zip(found, wide, strict=True):
        theirs = TF.center_crop(TF.resize(Image.fromarray(image), size * 256 // 224), [size, size])
        difference = (x - torch.from_numpy(np.array(theirs)).permute(2, 0, 1)).abs()
        assert difference[:, 1:-1, 1:-1].max() <= 1  # the outermost pixels do not see what is cut off


def test_arrays_and_photographs_are_tested_alike(images: Array) -> None:
    assert torch.equal(views.test_view(images, 40), views.test_view(list(images), 40))
