"""AdCo through Lightning against the NumPy reference, in float64; its pairs of views; its warm start."""

import math
from collections import UserList
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import reference
from adco.adversaries import Adversaries
from adco.data.batch import Batch
from adco.methods.adco import AdCo, view_pairs
from adco.methods.method import MethodArguments
from adco.models.encoder import Encoder
from adco.optim.players import Schedule
from adco.training.bare import BareTraining
from adco.training.module import Pretraining

IMAGES, SIDE, DIM, ADVERSARIES, STEPS = 6, 3, 5, 7, 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),  # Lightning's, of torch's
]


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Pixels(nn.Flatten):
    """A backbone with nothing to learn."""

    num_features = 3 * SIDE * SIDE


def linear_encoder() -> Encoder:
    return Encoder(Pixels(), nn.Linear(Pixels.num_features, DIM, bias=False))


def weight_of(encoder: nn.Module) -> Tensor:
    (weight,) = encoder.parameters()
    return weight.detach()


@dataclass(frozen=True)
class Variant:
    views: int
    symmetric: bool


VARIANTS = {
    "plain": Variant(2, False),
    "symmetric": Variant(2, True),
    "multi-crop": Variant(4, False),
    "symmetric multi-crop": Variant(4, True),
}
WEIGHT_DECAY = 0.01
SETTINGS: dict[str, Any] = {
    "temperature": 0.12,
    "adversary_temperature": 0.05,
    "ema_decay": 0.9,  # far from 1, to be seen in three steps
    "adversary_learning_rate": 3.0,
    "adversary_weight_decay": 0.02,
}


def make_batches(views: int, count: int = STEPS, images: int = IMAGES) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    shape = images, 3, SIDE, SIDE
    return [
        Batch(
            [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in range(views)],
            torch.arange(images),
            position,
        )
        for position in range(count)
    ]


def make_adco(variant: Variant, accumulate: int = 1, **changed: Any) -> AdCo:
    torch.manual_seed(0)
    adversaries = Adversaries(ADVERSARIES, DIM)
    adversaries.fill(torch.randn(ADVERSARIES, DIM))  # lengths other than one
    schedule = Schedule(peak=0.5, final=0.05, warmup_steps=0, steps=STEPS)
    common = MethodArguments(schedule=schedule, weight_decay=WEIGHT_DECAY, accumulate=accumulate, mean=MEAN, std=STD)
    return AdCo(linear_encoder(), adversaries, common, **asdict(variant), **{"groups": 2, **SETTINGS, **changed})


class Losses(L.Callback):
    """Both losses of each batch."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append([outputs["losses"][name].item() for name in ("loss", "loss_adversary")])


def train(method: AdCo, batches: list[Batch], **trainer_arguments: Any) -> list[list[float]]:
    losses = Losses()
    trainer = L.Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=1,
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_arguments,
    )
    trainer.fit(Pretraining(method), UserList(batches))  # of a list, Lightning takes each element for a loader
    return losses.values


def array(x: Tensor) -> NDArray[np.float64]:
    return np.asarray(x.detach().numpy().copy(), np.float64)


def pixels(view: Tensor) -> NDArray[np.float64]:
    """[n, 3, S, S] uint8 → [n, 3·S·S], of mean 0 and standard deviation 1 per channel."""
    images = view.numpy().astype(np.float64)
    for channel in range(3):
        images[:, channel] = (images[:, channel] / 255 - MEAN[channel]) / STD[channel]
    return images.reshape(len(images), -1)


@pytest.mark.parametrize("in_batch", [True, False], ids=["in-batch", "adversaries alone"])
@pytest.mark.parametrize("name", VARIANTS)
def test_three_steps_equal_the_reference(name: str, in_batch: bool) -> None:
    variant = VARIANTS[name]
    method = make_adco(variant, in_batch_negatives=in_batch)
    game = reference.Game(
        array(weight_of(method.encoder)),
        array(method.adversaries.weight),
        symmetric=variant.symmetric,
        in_batch=in_batch,
        learning_rate=0.5,
        final_learning_rate=0.05,
        steps=STEPS,
        weight_decay=WEIGHT_DECAY,
        **SETTINGS,
    )
    batches = make_batches(variant.views)
    expected = [game.play([pixels(view) for view in batch.views]) for batch in batches]
    losses = train(method, batches)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(array(weight_of(method.encoder)), game.encoder.weight, rtol=0, atol=1e-10)
    np.testing.assert_allclose(array(method.adversaries.weight), game.bank.weight, rtol=0, atol=1e-10)
    np.testing.assert_allclose(array(weight_of(method.momentum_encoder)), game.slow, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_accumulated_halves_equal_the_whole(name: str) -> None:
    """Where no loss looks across images and the encoder has no BatchNorm. One momentum update a step, not a batch."""
    variant = VARIANTS[name]
    batches = make_batches(variant.views)
    halves = [
        Batch([view[half] for view in batch.views], batch.indices[half], 2 * batch.position + number)
        for batch in batches
        for number, half in enumerate((slice(0, 3), slice(3, 6)))
    ]
    whole = make_adco(variant, in_batch_negatives=False)
    train(whole, batches)
    parts = make_adco(variant, in_batch_negatives=False, accumulate=2)
    train(parts, halves, accumulate_grad_batches=2)
    for one, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_pairs_of_query_and_key() -> None:
    assert view_pairs(2, keys=1) == [(1, 0)]
    assert view_pairs(2, keys=2) == [(1, 0), (0, 1)]
    assert view_pairs(4, keys=1) == [(1, 0), (2, 0), (3, 0)]
    assert view_pairs(4, keys=2) == [(1, 0), (2, 0), (3, 0), (0, 1), (2, 1), (3, 1)]


def test_views_are_normalised_in_the_dtype_of_the_weights() -> None:
    view = make_batches(2)[0].views[0]
    exact = make_adco(VARIANTS["plain"]).prepare(view)
    np.testing.assert_allclose(exact.flatten(1).numpy(), pixels(view), rtol=1e-14)
    torch.set_default_dtype(torch.float32)
    single = make_adco(VARIANTS["plain"])
    assert single.prepare(view).dtype == torch.float32
    assert single.double().prepare(view).dtype == torch.float64


def test_the_step_tells_queries_and_keys_of_the_same_images() -> None:
    method = make_adco(VARIANTS["symmetric multi-crop"])
    batch = make_batches(4)[0]
    step = method.step(batch)
    torch.testing.assert_close(step.queries, method.encoder(method.prepare(batch.views[1])))
    torch.testing.assert_close(step.keys, method.encoder(method.prepare(batch.views[0])))  # still equal weights
    assert not step.queries.requires_grad
    assert not step.keys.requires_grad
    assert list(step.losses) == ["loss", "loss_adversary"]


def test_only_two_players_are_stepped() -> None:
    method = make_adco(VARIANTS["plain"])
    encoder, bank = BareTraining(method).optimizer.param_groups
    assert encoder["params"] == list(method.encoder.parameters())
    assert bank["params"] == [method.adversaries.weight]
    assert [group["lr"] for group in (encoder, bank)] == [0.5, 3.0]
    assert [group["maximize"] for group in (encoder, bank)] == [False, True]
    assert [group["momentum"] for group in (encoder, bank)] == [0.9, 0.9]
    assert [group["weight_decay"] for group in (encoder, bank)] == [0.01, 0.02]


@pytest.mark.parametrize("images", [2, 3, 7, 20])
def test_warm_start_fills_every_row_with_keys(images: int) -> None:
    """Also where the bank is larger than all batches of a pass: a view more of the same images."""
    method = make_adco(VARIANTS["plain"])
    initial = method.adversaries.weight.detach().clone()
    batches = make_batches(2, count=math.ceil(ADVERSARIES / images), images=images)
    method.warm_start(batches)
    keys = torch.cat([method.encoder(method.prepare(batch.views[0])) for batch in batches])
    torch.testing.assert_close(method.adversaries.weight.detach(), keys[:ADVERSARIES].detach())
    assert not (method.adversaries.weight == initial).all(1).any()
    assert torch.equal(weight_of(method.encoder), weight_of(make_adco(VARIANTS["plain"]).encoder))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_warm_start_that_trains_leaves_the_adversaries_no_momentum(accumulate: int) -> None:
    warm_steps = math.ceil(ADVERSARIES / (4 * accumulate))
    method = make_adco(VARIANTS["plain"], warm_steps=warm_steps, accumulate=accumulate, adversary_weight_decay=0.0)
    train = BareTraining(method)
    batches = make_batches(2, count=(warm_steps + 1) * accumulate, images=4)
    for batch in batches[:-accumulate]:
        train(batch)
    assert (train.optimizer.state[method.adversaries.weight]["momentum_buffer"] == 0).all()
    filled = method.adversaries.weight.detach().clone()
    for batch in batches[-accumulate:]:
        train(batch)
    moved = filled + SETTINGS["adversary_learning_rate"] * method.adversaries.weight.grad
    torch.testing.assert_close(method.adversaries.weight.detach(), moved)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_warm_start_that_trains_fills_the_rows_step_by_step_then_copies_the_encoder(accumulate: int) -> None:
    """Against the keys themselves; the encoder moves meanwhile, the adversaries do not, and then they do."""
    images, warm_steps = 4, math.ceil(ADVERSARIES / (4 * accumulate))
    method = make_adco(VARIANTS["plain"], warm_steps=warm_steps, accumulate=accumulate)
    train = BareTraining(method)
    initial, keys = weight_of(method.encoder).clone(), []
    for batch in make_batches(2, count=(warm_steps + 1) * accumulate, images=images):
        if batch.position == warm_steps * accumulate:
            filled = method.adversaries.weight.detach().clone()
            encoder = weight_of(method.encoder).clone()
        keys.append(train(batch)["keys"].detach())
        if batch.position == warm_steps * accumulate:
            torch.testing.assert_close(weight_of(method.momentum_encoder.encoder), encoder)
    torch.testing.assert_close(filled, torch.cat(keys)[:ADVERSARIES])
    assert not torch.equal(encoder, initial)
    assert not torch.equal(method.adversaries.weight.detach(), filled)
