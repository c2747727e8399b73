"""Defaults that depend on the data: the paper's at its scale, and what each rule promises for a short run."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import tiny
from adco.adversaries import adversarial_info_nce
from adco.config import defaults
from adco.config.networks import is_transformer
from adco.config.pretrain import PretrainSettings
from adco.config.registry import METHODS, settings_of
from adco.config.resolve import resolve_for_images
from adco.methods.adco import AdCoSettings
from adco.methods.byol import BYOLSettings

IMAGENET = 1_281_167


@dataclass
class Published:
    optimizer: str
    learning_rate: float
    weight_decay: float
    warmup_epochs: float
    method: dict[str, Any]


# Each method's paper, at 224 px, 200 epochs and batches of 256, for which the papers scale their rates.
PUBLISHED = {
    "adco": Published(
        "sgd",
        0.03,
        1e-4,
        0,
        {
            "ema_decay": 0.999,
            "projector_norm": False,
            "adversaries": 8192,
            "adversary_learning_rate": 3.0,
            "adversary_weight_decay": 1e-4,
            "temperature": 0.12,
            "adversary_temperature": 0.02,
            "final_learning_rate": 6e-4,
            "warm_start": True,
            "warm_start_trains": True,
            "in_batch_negatives": True,
        },
    ),
    "caco": Published(
        *("sgd", 0.03, 1e-4, 0),
        {
            "ema_decay": 0.99,
            "projector_norm": False,
            "bank": 65_536,
            "bank_learning_rate": 3.0,
            "temperature": 0.08,
            "final_learning_rate": 6e-4,
        },
    ),
    "moco": Published("sgd", 0.03, 1e-4, 0, {"ema_decay": 0.999, "projector_norm": False, "queue": 65_536}),
    "simclr": Published("lars", 0.3, 1e-6, 10, {"temperature": 0.1, "final_learning_rate": 0.0}),
    "byol": Published("lars", 0.2, 1.5e-6, 10, {"ema_decay": 0.996}),
    "simsiam": Published("sgd", 0.05, 1e-4, 0, {}),
}


def resolved(count: int, method: str = "adco", side: int = 32, **given: Any) -> PretrainSettings[None]:
    return resolve_for_images(settings_of(method)(method=method, **given), tiny.black(count, side, side))


@pytest.mark.parametrize("method", METHODS)
def test_at_the_papers_scale_they_are_the_papers(method: str) -> None:
    settings, paper = resolved(IMAGENET, method, side=256), PUBLISHED[method]
    assert (settings.batch_size, settings.epochs, settings.image_size) == (256, 200, 224)
    assert (settings.optimizer, settings.warmup_epochs) == (paper.optimizer, paper.warmup_epochs)
    assert settings.learning_rate == pytest.approx(paper.learning_rate)
    assert settings.weight_decay == pytest.approx(paper.weight_decay)
    assert {name: getattr(settings, name) for name in paper.method} == pytest.approx(paper.method)


def test_constants_of_short_runs_end_where_runs_are_long() -> None:
    names = ("optimizer", "projector_norm", "temperature", "adversary_temperature", "adversary_learning_rate")
    paper = ("sgd", False, 0.12, 0.02, 3.0)
    long, short = resolved(defaults.LONG // 200), resolved(defaults.LONG // 200 - 1)
    assert tuple(getattr(long, name) for name in names) == paper
    assert all(getattr(short, name) != value for name, value in zip(names, paper, strict=True))


def test_large_batches_are_no_short_runs() -> None:
    """SimCLR's 8 192 and BYOL's 4 096 make few steps of as many images."""
    simclr, byol = resolved(IMAGENET, "simclr", batch_size=8192), resolved(IMAGENET, "byol", batch_size=4096)
    assert (simclr.optimizer, byol.optimizer) == ("lars", "lars")
    assert [simclr.learning_rate, byol.learning_rate] == pytest.approx([9.6, 3.2])
    assert isinstance(byol, BYOLSettings)
    assert byol.ema_decay == 0.996


@pytest.mark.parametrize("count", [20, 100, 257, 1_000, 5_000, 50_000])
@pytest.mark.parametrize("epochs", [1, 20, 200])
def test_a_run_on_few_images_has_steps_and_rows_to_fill(count: int, epochs: int) -> None:
    settings = resolved(count, epochs=epochs)
    assert isinstance(settings, AdCoSettings)
    assert settings.batch_size
    assert settings.adversaries
    per_epoch = count // settings.batch_size
    assert settings.batch_size <= count
    assert per_epoch >= 8 or settings.batch_size == min(32, defaults.power_of_two(count))
    assert settings.adversaries <= count
    steps_to_fill = settings.adversaries / settings.batch_size
    assert steps_to_fill <= max(1, per_epoch * epochs / 4)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_given_stays(method: str) -> None:
    given: dict[str, Any] = {
        "batch_size": 64,
        "optimizer": "sgd",
        "learning_rate": 0.7,
        "weight_decay": 0.0,
        "warmup_epochs": 3.0,
    }
    settings = resolved(1_000, method, **given)
    assert {name: getattr(settings, name) for name in given} == given


def test_the_momentum_encoder_averages_over_a_share_of_the_run() -> None:
    assert [defaults.ema_decay(steps, 0.999) for steps in (60, 2_000, 20_000, 200_000, 1_000_000)] == pytest.approx(
        [0.9, 0.9, 0.99, 0.999, 0.999]
    )


def test_adversaries_of_a_short_run_are_slower_the_more_steps_it_has() -> None:
    rates = [defaults.adversary_learning_rate(8192, 10_000, steps) for steps in (1, 80, 200, 800, 90_000)]
    assert rates == pytest.approx([0.75, 0.75, 0.3, 0.075, 0.075])
    assert defaults.adversary_learning_rate(8192, defaults.LONG, 100_000) == 3.0


def test_fewer_adversaries_turn_as_far_in_a_step() -> None:
    """Where all rows share the softmax alike, a step turns each by rate · (share / K) / τ: the same for every K."""
    turns, seen = [], 1_000
    for count in (512, 4096, 8192):
        rows = torch.nn.functional.normalize(torch.ones(count, 2, dtype=torch.float64)).requires_grad_()
        queries = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        loss = adversarial_info_nce(queries, -queries, rows, temperature=0.1, adversary_temperature=0.1)
        loss.adversary.backward()  # type: ignore[no-untyped-call]
        assert rows.grad is not None
        turns.append(float(rows.grad.norm(dim=1).mean()) * defaults.adversary_learning_rate(count, seen, steps=10))
    assert turns == pytest.approx([turns[0]] * 3, rel=1e-3)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_run_that_ends_with_its_warm_start_is_warned_of(symmetric: bool) -> None:
    settings: Any = resolved(1_000, batch_size=32, adversaries=64, symmetric=symmetric)
    (warning,) = settings.warnings(steps=2)
    assert "fills 64 adversaries in 2 steps, and the run has 2: they are never trained" in warning
    assert list(settings.warnings(steps=3)) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_vision_transformer_at_the_papers_scale_has_moco_v3s_optimizer(method: str) -> None:
    """AdamW, 1.5e-4 for 256 images, weight decay 0.1, 40 epochs of warm-up, a fixed patch projection: 2104.02057."""
    for backbone in ("vit_small_patch16_224", "swin_tiny_patch4_window7_224"):
        settings = resolved(IMAGENET, method, side=256, backbone=backbone, batch_size=4096, epochs=300)
        assert (settings.optimizer, settings.weight_decay, settings.warmup_epochs) == ("adamw", 0.1, 40)
        assert settings.learning_rate == pytest.approx(2.4e-3)
        assert settings.fixed_patches is True
    assert resolved(IMAGENET, method, side=256, backbone="convnext_tiny").fixed_patches is False
    assert resolved(IMAGENET, method, side=256, backbone="convnext_tiny").optimizer == PUBLISHED[method].optimizer


@pytest.mark.parametrize("method", METHODS)
def test_a_vision_transformer_in_a_short_run_has_muon_with_smaller_steps(method: str) -> None:
    transformer, cnn = resolved(1_000, method, backbone="vit_small_patch16_224"), resolved(1_000, method)
    assert (transformer.optimizer, transformer.fixed_patches) == ("muon", False)
    assert transformer.learning_rate == pytest.approx(settings_of(method).MUON_LEARNING_RATE / 5)
    assert cnn.learning_rate == settings_of(method).MUON_LEARNING_RATE


@pytest.mark.parametrize(
    ("backbone", "is_one"),
    [
        *((name, True) for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "beit_base_patch16_224")),
        *(
            (name, True)
            for name in ("swin_tiny_patch4_window7_224", "crossvit_tiny_240", "vit_tiny_patch16_224.augreg_in21k")
        ),
        *((name, False) for name in ("resnet18", "convnext_tiny", "maxvit_tiny_tf_224", "mixer_s16_224", "pvt_v2_b0")),
        *((name, False) for name in ("no_such_network", "resnet18.no_such_tag")),
    ],
)
def test_transformers_are_known_by_name(backbone: str, is_one: bool) -> None:
    assert is_transformer(backbone) is is_one
