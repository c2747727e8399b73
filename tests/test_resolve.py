"""What is chosen for the images: the size of the views and the stem."""

import warnings
from dataclasses import dataclass

import pytest

import tiny
from adco.config.resolve import resolve, resolve_for_images
from adco.config.topics import Stem
from adco.methods.adco import AdCoSettings


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (8, 8),
        (28, 28),
        (50, 50),
        (64, 64),
        (65, 64),
        (95, 64),
        (96, 96),
        (100, 96),
        (223, 192),
        (224, 224),
        (2000, 224),
    ],
)
def test_the_default_size_is_one_that_networks_like_and_enlarges_nothing(side: int, expected: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolved = resolve_for_images(AdCoSettings(), tiny.black(300, side, side + 7))
    assert (resolved.image_size, resolved.test_image_size) == (expected, expected)


def test_a_size_above_the_images_enlarges_them_with_a_warning() -> None:
    with pytest.warns(
        UserWarning, match=r"image_size 96 is larger than the images of black, .* 65 px: they are enlarged"
    ):
        assert resolve_for_images(AdCoSettings(image_size=96), tiny.black(300, 65, 65)).image_size == 96


def test_small_crops_are_still_held_to_the_size_of_the_views() -> None:
    with pytest.raises(ValueError, match="small_crops has a size of 80: it must be at most image_size 64"):
        resolve_for_images(AdCoSettings(small_crops=[(80, 0.1, 0.2)]), tiny.black(300, 65, 65))


@pytest.mark.parametrize(
    ("asked", "image_size", "expected"),
    [
        ("auto", 64, "cifar"),
        ("auto", 65, "standard"),
        ("standard", 32, "standard"),
        ("cifar", 96, "cifar"),
    ],
)
def test_the_stem_goes_by_the_size_of_the_views_unless_it_is_chosen(
    asked: Stem, image_size: int, expected: Stem
) -> None:
    settings = AdCoSettings(stem=asked, image_size=image_size, test_image_size=image_size + 8)
    assert resolve_for_images(settings, tiny.black(300, 300, 300)).stem == expected


def test_a_method_that_leaves_a_setting_of_its_own_unset_is_told_to_its_author() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Forgetful(AdCoSettings[None]):
        further: float | None = None

    with pytest.raises(TypeError, match=r"further has no value: .*Forgetful.choose returns no value"):
        resolve(Forgetful(data="photos", accelerator="cpu"), tiny.black(300, 32, 32))
