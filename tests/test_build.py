"""Settings reach what is trained: the method, its players and the views. Each value here differs from every default."""

from typing import Any

import pytest
import torch

import tiny
from adco.config.load import pretrain_settings
from adco.config.pretrain import Resolved
from adco.config.resolve import resolve
from adco.data.views import View
from adco.methods.adco import AdCo
from adco.methods.method import Method
from adco.methods.query_key import QueryKeyMethod
from adco.training.build import make_method, make_views

COMMON: dict[str, Any] = {
    "data": "few",
    "batch_size": 20,
    "accumulate": 2,
    "epochs": 7,
    "warmup_epochs": 1.5,
    "learning_rate": 0.011,
    "final_learning_rate": 0.003,
    "backbone_rate": 0.7,
    "weight_decay": 0.013,
    "optimizer": "sgd",
    "seed": 17,
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "dim": 24,
    **tiny.SETTINGS,
}
QUERY_KEY = {"ema_decay": 0.77, "batch_norm": "split", "split_groups": 5}
ADCO: dict[str, Any] = {
    "method": "adco",
    **QUERY_KEY,
    "adversaries": 50,
    "temperature": 0.31,
    "adversary_temperature": 0.17,
    "adversary_learning_rate": 0.9,
    "adversary_weight_decay": 0.021,
    "in_batch_negatives": False,
    "small_crops": [[6, 0.11, 0.55], [5, 0.12, 0.66]],
}
OWN: dict[str, dict[str, Any]] = {
    "adco": ADCO,
    "moco": {"method": "moco", **QUERY_KEY, "queue": 60, "temperature": 0.31},
    "caco": {"method": "caco", **QUERY_KEY, "bank": 50, "temperature": 0.31, "bank_learning_rate": 0.9},
    "simclr": {"method": "simclr", "temperature": 0.31},
    "byol": {"method": "byol", "ema_decay": 0.77},
    "simsiam": {"method": "simsiam", "predictor_hidden": 12},
}
ATTRIBUTES = ("temperature", "adversary_temperature", "ema_decay", "in_batch_negatives")  # of the settings' names
SHAPES = {  # of the parameters whose size is a setting
    "adco": {"adversaries.weight": (50, 24)},
    "moco": {"queue": (60, 24)},
    "caco": {"bank.weight": (50, 24)},
    "simclr": {},
    "byol": {},
    "simsiam": {"predictor.0.weight": (12, 24)},
}
STEPS = 10  # of an epoch


def resolved(**settings: Any) -> Resolved:
    return resolve(pretrain_settings(**{**COMMON, **settings}), tiny.black(100, 8, 8))


def method(**settings: Any) -> Method:
    return make_method(resolved(**settings), STEPS)


@pytest.mark.parametrize("name", OWN)
def test_a_method_has_its_settings(name: str) -> None:
    built = method(**OWN[name])
    expected = {key: value for key, value in OWN[name].items() if key in ATTRIBUTES}
    assert {key: getattr(built, key) for key in expected} == expected
    weights = dict(built.named_parameters())
    assert {key: tuple(weights[key].shape) for key in SHAPES[name]} == SHAPES[name]
    if isinstance(built, QueryKeyMethod):
        assert (built.groups, built.shuffle) == (5, False)


@pytest.mark.parametrize("name", OWN)
def test_a_method_has_the_settings_of_all_methods(name: str) -> None:
    built = method(**OWN[name])
    assert (built.accumulate, built.seed) == (2, 17)
    view = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1), torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1)
    torch.testing.assert_close(built.prepare(view), (view / 255 - mean) / std)


@pytest.mark.parametrize("name", OWN)
def test_the_players_have_the_settings(name: str) -> None:
    """The peak of the schedule comes after 1.5 epochs of 10 steps, its end after 7."""
    built = method(**OWN[name])
    first, second, *others = players = built.players()
    trained = [set(player.parameters) for player in players]
    assert sum(map(len, trained)) == len(set.union(*trained))
    assert set.union(*trained) == {weights for weights in built.parameters() if weights.requires_grad}
    assert trained[1] == set(built.encoder.backbone.parameters())
    for player, factor in ((first, 1.0), (second, 0.7)):
        assert player.weight_decay == 0.013
        assert player.learning_rate(15) == pytest.approx(factor * 0.011)
        assert player.learning_rate(70) == pytest.approx(factor * 0.003)
    rates = [player.learning_rate(15) for player in others]
    assert rates == {"adco": [0.9], "caco": [0.9], "simsiam": [0.011]}.get(name, [])
    decays = [player.weight_decay for player in others]
    assert decays == {"adco": [0.021], "caco": [0.0], "simsiam": [0.013]}.get(name, [])


@pytest.mark.parametrize("name", ["adco", "moco", "caco"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_both_views_are_keys_if_symmetric(name: str, symmetric: bool) -> None:
    built = method(**OWN[name], symmetric=symmetric)
    assert isinstance(built, QueryKeyMethod)
    assert built.num_key_views == 1 + symmetric


def test_each_small_crop_is_a_query_view() -> None:
    built = method(**ADCO)
    assert isinstance(built, AdCo)
    assert {query for query, _ in built.pairs} == {1, 2, 3}


def test_the_warm_start_lasts_until_all_adversaries_are_filled() -> None:
    built = method(**ADCO)
    assert isinstance(built, AdCo)
    assert built.warm_steps == 3  # 50 adversaries, 20 images in a step


def test_the_views_have_the_settings() -> None:
    augmentation: dict[str, Any] = {
        "brightness": 0.31,
        "contrast": 0.32,
        "saturation": 0.33,
        "hue": 0.09,
        "jitter_probability": 0.34,
        "grayscale_probability": 0.35,
        "blur_probability": 0.36,
        "flip_probability": 0.37,
    }
    settings = resolved(**ADCO, **augmentation, image_size=7, crop_scale=[0.41, 0.81])
    full = View(size=7, scale=(0.41, 0.81), **augmentation)
    small = [View(size=6, scale=(0.11, 0.55), **augmentation), View(size=5, scale=(0.12, 0.66), **augmentation)]
    assert make_views(settings) == [full, full, *small]
