"""What is special to each other method: CaCo's bank, MoCo's queue, BYOL's target, SimSiam's stop-gradient; their heads
and defaults.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiny
from adco.adversaries import Adversaries
from adco.config.pretrain import Devices, PretrainSettings
from adco.config.resolve import resolve
from adco.data.batch import Batch
from adco.errors import InputError
from adco.methods.byol import BYOL, BYOLSettings
from adco.methods.caco import CaCo, CaCoSettings
from adco.methods.method import MethodArguments
from adco.methods.moco import MoCo, MoCoSettings
from adco.methods.simclr import SimCLR, SimCLRSettings
from adco.methods.simsiam import SimSiam, SimSiamSettings
from adco.models.encoder import Encoder
from adco.models.momentum import rising_decay
from adco.optim.players import Schedule
from adco.training.build import make_method

IMAGES, SIDE, DIM = 6, 4, 5
PIXELS = 3 * SIDE * SIDE
SCHEDULE = Schedule(peak=0.1, final=0.0, warmup_steps=0, steps=10)
COMMON = MethodArguments(schedule=SCHEDULE)


def linear_encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(nn.Flatten(), nn.Linear(PIXELS, DIM, bias=False)).double()


def weight_of(module: nn.Module) -> nn.Parameter:
    (weight,) = module.parameters()
    return weight


def make_batch(position: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(position)
    views = torch.randint(256, (2, IMAGES, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return Batch(list(views), torch.arange(IMAGES), position)


def flat(view: Tensor) -> np.ndarray:
    return view.flatten(1).double().numpy()


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


# CaCo


def make_caco(rows: int, **changed: Any) -> CaCo:
    method = CaCo(linear_encoder(), Adversaries(rows, DIM), COMMON, groups=1, **changed).double()
    with torch.no_grad():  # of any norm
        method.bank.weight.copy_(torch.randn(rows, DIM, generator=torch.Generator().manual_seed(1)))
    return method


@pytest.mark.parametrize("symmetric", [True, False])
def test_caco_equals_loops_and_positives_cooperate(symmetric: bool) -> None:
    """Loss and the bank's gradient: of a row it is 1 − p times a query for which it is the positive, else p times."""
    method = make_caco(9, symmetric=symmetric, ema_decay=0.8)
    batch, tau = make_batch(), 0.08
    losses = method.step(batch).losses
    weight, bank = weight_of(method.encoder).detach().numpy(), method.bank.weight.detach().numpy()
    rows, norms = unit(bank), np.linalg.norm(bank, axis=1)
    embedded = [unit(flat(view) @ weight.T) for view in batch.views]  # the momentum encoder is still equal
    total, ascent = 0.0, np.zeros_like(bank)
    for view in range(1 + symmetric):
        for query, key in zip(embedded[1 - view], embedded[view], strict=True):
            positive = max(range(len(rows)), key=lambda row: float(key @ rows[row]))
            exponents = [math.exp(float(query @ row) / tau) for row in rows]
            shares = [exponent / sum(exponents) for exponent in exponents]
            total -= math.log(shares[positive]) / IMAGES
            for row, share in enumerate(shares):
                force = 1 - share if row == positive else share
                tangent = query - (query @ rows[row]) * rows[row]
                ascent[row] += force * tangent / (norms[row] * tau * IMAGES)
    assert float(losses["loss"].detach()) == pytest.approx(total / (1 + symmetric), rel=1e-9)
    assert float(losses["loss_bank"].detach()) == pytest.approx(total, rel=1e-9)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert method.bank.weight.grad is not None
    np.testing.assert_allclose(method.bank.weight.grad.numpy(), ascent, atol=1e-12)


def test_a_bank_of_fewer_rows_than_processes_is_refused() -> None:
    devices = Devices(processes=4, images_per_forward=64, can_sync_batch_norm=False)
    CaCoSettings(bank=4).choose_for_devices(devices)
    with pytest.raises(InputError, match=r"^bank 3 must be at least 4, a row for each process$"):
        CaCoSettings(bank=3).choose_for_devices(devices)


def test_the_losses_of_caco_reach_one_player_each() -> None:
    method = make_caco(9)
    losses = method.step(make_batch()).losses
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert method.bank.weight.grad is None or not method.bank.weight.grad.any()
    own = weight_of(method.encoder).grad
    assert own is not None
    before = own.clone()
    losses["loss_bank"].backward()  # type: ignore[no-untyped-call]
    assert torch.equal(own, before)


def test_the_bank_is_warmed_up_with_the_encoder_and_then_constant() -> None:
    common = replace(COMMON, schedule=Schedule(peak=0.1, final=0.0, warmup_steps=4, steps=10))
    _, bank = CaCo(linear_encoder(), Adversaries(9, DIM), common, bank_learning_rate=3.0).players()
    assert [bank.learning_rate(step) for step in range(6)] == pytest.approx([0.6, 1.2, 1.8, 2.4, 3, 3])
    assert bank.maximize
    assert bank.weight_decay == 0


# MoCo


def make_moco(queue: int, **changed: Any) -> MoCo:
    rows = F.normalize(torch.randn(queue, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    return MoCo(linear_encoder(), rows, COMMON, groups=1, **changed).double()


@pytest.mark.parametrize("rows", [1, 4, 6, 7, 20])
def test_the_queue_is_first_in_first_out(rows: int) -> None:
    """Against a list: of lengths that the batch divides and does not, and shorter than a batch."""
    method = make_moco(rows)
    expected = [row.tolist() for row in method.queue]
    oldest = 0
    for number in range(9):
        keys = torch.full((IMAGES, DIM), float(number)) + torch.arange(IMAGES)[:, None] / 10
        method.enqueue(keys.double())
        for row in keys.double().tolist()[-rows:]:
            expected[oldest] = row
            oldest = (oldest + 1) % rows
        assert method.queue.tolist() == expected
        assert int(method.oldest) == oldest


def test_moco_equals_loops_and_its_own_keys_are_no_negatives() -> None:
    method = make_moco(7)
    weight = weight_of(method.encoder).detach().numpy()
    queue = method.queue.numpy().copy()
    for position in range(3):
        batch = make_batch(position)
        queries, keys = (unit(flat(view) @ weight.T) for view in reversed(batch.views))
        total = 0.0
        for query, key in zip(queries, keys, strict=True):
            total -= math.log(1 / (1 + sum(math.exp((query @ row - query @ key) / 0.2) for row in queue))) / IMAGES
        assert float(method.step(batch).losses["loss"].detach()) == pytest.approx(total, rel=1e-9)
        queue = np.concatenate([queue, keys])
        places = [(6 * position + number) % 7 for number in range(IMAGES)]  # where each key has gone
        queue = queue[:7]
        queue[places] = keys
    assert set(method.state_dict()) > {"queue", "oldest"}  # not lost on resuming


def test_symmetric_moco_is_the_mean_of_both_ways_and_keeps_both_keys() -> None:
    batch = make_batch()
    swapped = Batch(batch.views[::-1], batch.indices, 0)
    ways = [float(make_moco(20).step(way).losses["loss"].detach()) for way in (batch, swapped)]
    method = make_moco(20, symmetric=True)
    assert float(method.step(batch).losses["loss"].detach()) == pytest.approx(sum(ways) / 2, rel=1e-12)
    assert int(method.oldest) == 2 * IMAGES


# BYOL


def make_byol(accumulate: int = 1) -> BYOL:
    encoder = linear_encoder()
    predictor = nn.Linear(DIM, DIM, bias=False).double()
    common = MethodArguments(schedule=SCHEDULE, accumulate=accumulate)
    return BYOL(encoder, predictor, common, ema_decay=0.8).double()


def test_byol_equals_numpy_and_no_gradient_reaches_the_target() -> None:
    method = make_byol()
    weight, predict = weight_of(method.encoder), weight_of(method.predictor)
    batch = make_batch()
    loss = method.step(batch).losses["loss"]
    projections = [flat(view) @ weight.detach().numpy().T for view in batch.views]
    cosines = [
        (unit(projections[view] @ predict.detach().numpy().T) * unit(projections[1 - view])).sum(1).mean()
        for view in range(2)
    ]
    assert float(loss.detach()) == pytest.approx(4 - 2 * sum(cosines), rel=1e-12)
    loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert all(parameter.grad is None for parameter in method.target.parameters())


def test_the_target_starts_equal_and_follows_along_a_cosine_to_one() -> None:
    """1 − (1 − 0.8)(cos(π k/K) + 1)/2 after step k, once a step of two accumulated batches."""
    method = make_byol(accumulate=2)
    encoder, target = weight_of(method.encoder), weight_of(method.target)
    assert torch.equal(encoder, target)
    expected = encoder.detach().numpy().copy()
    for position in range(20):
        method.step(make_batch(position))
        if position and position % 2 == 0:
            m = 1 - 0.2 * (math.cos(math.pi * (position // 2 - 1) / 10) + 1) / 2
            expected = m * expected + (1 - m) * encoder.detach().numpy()
        np.testing.assert_allclose(target.numpy(), expected, atol=1e-12)
        with torch.no_grad():
            encoder.add_(torch.randn_like(encoder) * (position % 2))  # as an optimizer moves it
    assert rising_decay(0.8, 0, 10) == pytest.approx(0.8)
    assert rising_decay(0.8, 10, 10) == 1


# SimSiam


def test_simsiam_stops_the_gradient_through_the_second_of_each_pair() -> None:
    """Against finite differences of the loss with the second projections held where they are."""
    predictor = nn.Linear(DIM, DIM, bias=False).double()
    method = SimSiam(linear_encoder(), predictor, COMMON).double()
    batch = make_batch()
    x, predict = [flat(view) for view in batch.views], predictor.weight.detach().numpy()
    here = weight_of(method.encoder).detach().numpy()
    held = [unit(view @ here.T) for view in x]

    def loss(weight: np.ndarray) -> float:
        cosines = [(unit(x[v] @ weight.T @ predict.T) * held[1 - v]).sum(1).mean() for v in range(2)]
        return -float(np.mean(cosines))

    found = method.step(batch).losses["loss"]
    assert float(found.detach()) == pytest.approx(loss(here), rel=1e-12)
    found.backward()  # type: ignore[no-untyped-call]
    gradient = weight_of(method.encoder).grad
    assert gradient is not None
    for place in [(0, 0), (2, 7), (4, 40)]:
        moved = [here.copy() for _ in range(2)]
        moved[0][place] += 1e-7
        moved[1][place] -= 1e-7
        slope = (loss(moved[0]) - loss(moved[1])) / 2e-7
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_simsiams_predictor_keeps_its_learning_rate() -> None:
    method = SimSiam(linear_encoder(), nn.Linear(DIM, DIM), COMMON)
    encoder, predictor = method.players()
    assert [encoder.learning_rate(step) for step in (0, 10)] == [0.1, 0.0]
    assert [predictor.learning_rate(step) for step in (0, 10)] == [0.1, 0.1]


# Heads and defaults


def widths(head: nn.Module) -> list[Any]:
    """Of linear layers their output, with a plus for a bias; of other layers their name."""
    return [
        f"{layer.out_features}{'+' if layer.bias is not None else ''}"
        if isinstance(layer, nn.Linear)
        else {"BatchNorm1d": "BN", "ReLU": "ReLU"}[type(layer).__name__]
        for layer in head.children()
    ]


def built(settings: PretrainSettings[None]) -> Any:
    """With all that is chosen as for a long run on many images."""
    small = replace(settings, data="black", accelerator="cpu", backbone_args=tiny.NETWORK)
    return make_method(resolve(small, tiny.black(1_281_167, 32, 32)), steps_per_epoch=1)


def test_heads_are_the_papers() -> None:
    assert widths(built(MoCoSettings(queue=8, batch_norm="split")).encoder.projector) == ["2048+", "ReLU", "128+"]
    assert widths(built(SimCLRSettings()).encoder.projector) == ["2048", "BN", "ReLU", "128", "BN"]
    byol = built(BYOLSettings())
    assert widths(byol.encoder.projector) == widths(byol.predictor) == ["4096", "BN", "ReLU", "256+"]
    simsiam = built(SimSiamSettings())
    assert widths(simsiam.encoder.projector) == ["2048", "BN", "ReLU", "2048", "BN", "ReLU", "2048", "BN"]
    assert widths(simsiam.predictor) == ["512", "BN", "ReLU", "2048+"]


def test_momentum_copies_equal_their_source_at_the_start_heads_and_buffers_included() -> None:
    for copy, source in (
        (built(MoCoSettings(queue=8, batch_norm="split")), "momentum_encoder"),
        (built(BYOLSettings()), "target"),
    ):
        theirs = getattr(copy, source).encoder.state_dict()
        mine = copy.encoder.state_dict()
        assert list(theirs) == list(mine)
        assert all(torch.equal(theirs[name], mine[name]) for name in mine)


def test_simclr_contrasts_all_views_of_the_batch() -> None:
    method = SimCLR(linear_encoder(), COMMON, temperature=0.5).double()
    batch = make_batch()
    rows = unit(np.concatenate([flat(view) for view in batch.views]) @ weight_of(method.encoder).detach().numpy().T)
    total = 0.0
    for i, row in enumerate(rows):
        others = sum(math.exp(row @ other / 0.5) for j, other in enumerate(rows) if j != i)
        total -= math.log(math.exp(row @ rows[(i + IMAGES) % len(rows)] / 0.5) / others) / len(rows)
    assert float(method.step(batch).losses["loss"].detach()) == pytest.approx(total, rel=1e-12)
