"""What every method keeps, on a few digits: it learns, does not collapse, resumes bit by bit, and repeats its curve.

A new method is a line in METHODS; `python tests/methods/test_contract.py METHOD` then writes its golden curve.
"""

import copy
import io
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn

from adco.adversaries import Adversaries
from adco.data.batch import Batch
from adco.data.draws import uniform
from adco.data.sources.arrays import ArraySource
from adco.evaluation.extract import extract_features
from adco.methods.adco import AdCo
from adco.methods.byol import BYOL
from adco.methods.caco import CaCo
from adco.methods.method import Method, MethodArguments
from adco.methods.moco import MoCo
from adco.methods.simclr import SimCLR
from adco.methods.simsiam import SimSiam
from adco.models.encoder import Encoder, mlp
from adco.optim.players import Schedule
from adco.training.bare import BareTraining

IMAGES, BATCH, SIDE = 256, 32, 8
GOLDEN_STEPS, GOLDEN = 20, Path(__file__).parent  # golden_METHOD.json
MEAN, STD = (0.3, 0.3, 0.3), (0.38, 0.38, 0.38)


def common(peak: float = 0.1, steps: int = 60) -> MethodArguments:
    """What all methods are built with."""
    return MethodArguments(
        schedule=Schedule(peak=peak, final=peak / 50, warmup_steps=0, steps=steps), mean=MEAN, std=STD
    )


class Small(nn.Sequential):
    """A backbone of two convolutions, with BatchNorm."""

    num_features = 24

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def make_adco(**changed: Any) -> AdCo:
    return AdCo(
        Encoder(Small(), mlp(24, 32, 16)),
        Adversaries(64, 16),
        common(steps=30),
        ema_decay=0.9,
        groups=2,
        **changed,
    )


def make_caco() -> CaCo:
    projector = mlp(24, 32, 16, batch_norm=True, output_norm=True)
    method = CaCo(
        Encoder(Small(), projector), Adversaries(64, 16), common(), ema_decay=0.9, groups=2, bank_learning_rate=0.3
    )
    method.warm_start(make_batches("caco", 2))
    return method


def make_moco(symmetric: bool) -> MoCo:
    queue = torch.from_numpy(uniform(1, draws=40 * 16)).view(40, 16) - 0.5  # 40 rows: no multiple of the batch
    return MoCo(
        Encoder(Small(), mlp(24, 32, 16)),
        nn.functional.normalize(queue.to(torch.get_default_dtype())),
        common(peak=0.2),
        symmetric=symmetric,
        ema_decay=0.9,
        groups=2,
    )


def make_byol() -> BYOL:
    projector, predictor = mlp(24, 32, 16, batch_norm=True), mlp(16, 32, 16, batch_norm=True)
    return BYOL(Encoder(Small(), projector), predictor, common(), ema_decay=0.9)


def make_simsiam() -> SimSiam:
    projector = mlp(24, 32, 32, 16, batch_norm=True, output_norm=True)
    return SimSiam(Encoder(Small(), projector), mlp(16, 8, 16, batch_norm=True), common())


def make_simclr(peak: float) -> SimCLR:
    projector = mlp(24, 32, 16, batch_norm=True, output_norm=True)
    return SimCLR(Encoder(Small(), projector), common(peak))


METHODS: dict[str, Callable[[], Method]] = {
    "adco": make_adco,
    "adco-symmetric": lambda: make_adco(symmetric=True),
    "adco-multicrop": lambda: make_adco(views=3),
    "adco-muon": make_adco,
    "caco": make_caco,
    "moco": lambda: make_moco(symmetric=False),
    "moco-symmetric": lambda: make_moco(symmetric=True),
    "simclr": lambda: make_simclr(0.1),
    "simclr-lars": lambda: make_simclr(20.0),
    "byol": make_byol,
    "simsiam": make_simsiam,
}
# In MoCo, muon moves the embeddings away from the single point where they start here; SGD does not in 60 steps. In CaCo
# the BatchNorm of the projector does: at a single point, all images would have the same row of the bank as positive.
OPTIMIZERS = {"adco-muon": "muon", "caco": "muon", "moco": "muon", "moco-symmetric": "muon", "simclr-lars": "lars"}
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order; and threads cost more than they give on 8-pixel images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def digits() -> Tensor:
    """[256, 3, 8, 8] uint8."""
    images = load_digits().images[:IMAGES] * (255 / 16)
    return torch.from_numpy(images.astype(np.uint8))[:, None].expand(-1, 3, -1, -1)


def make_batches(name: str, count: int, start: int = 0) -> Iterator[Batch]:
    """Views of digits, moved by up to a pixel and tinted: functions of the position alone."""
    images = digits()
    views = 3 if "multicrop" in name else 2
    for position in range(start, start + count):
        numbers = torch.arange(BATCH * position, BATCH * (position + 1)) % IMAGES
        draws = torch.from_numpy(uniform(position, np.arange(views)[:, None], np.arange(BATCH), draws=5))  # [V, n, 5]
        yield Batch([changed(images[numbers], of_view) for of_view in draws], numbers, position)


def changed(images: Tensor, draws: Tensor) -> Tensor:
    """[n, 3, 8, 8] by [n, 5] → [n, 3, 8, 8]."""
    first = (3 * draws[:, :2]).long()  # [n, 2] in 0..2: the crop's corner in the padded image
    rows, columns = (first[:, side, None] + torch.arange(SIDE) for side in range(2))  # [n, 8]
    padded = nn.functional.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # [n, 10, 10, 3]
    moved = padded[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]  # [n, 8, 8, 3]
    tinted = moved * (0.5 + 0.5 * draws[:, None, None, 2:])
    return tinted.to(torch.uint8).permute(0, 3, 1, 2)


class Run(BareTraining):
    """Training that can be stopped, saved and resumed anywhere."""

    def __init__(self, name: str, method: Method) -> None:
        super().__init__(method, OPTIMIZERS.get(name, "sgd"))

    def save(self) -> bytes:
        file = io.BytesIO()
        torch.save([part.state_dict() for part in (self.method, self.optimizer, self.schedule)], file)
        return file.getvalue()

    def resume(self, saved: bytes) -> None:
        states = torch.load(io.BytesIO(saved), weights_only=True)
        for part, state in zip((self.method, self.optimizer, self.schedule), states, strict=True):
            part.load_state_dict(state)


def made(name: str, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return METHODS[name]()


def separation(queries: Tensor, keys: Tensor) -> float:
    """How much nearer a query is to its own key than to another's, mean cosines."""
    cosines = queries @ keys.T  # [n, n]
    others = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    return float(cosines.diag().mean() - others.mean())


@every_method
def test_learns_and_does_not_collapse(name: str) -> None:
    """A loss may rise in a game; what must grow is the distance of positives from negatives."""
    run = Run(name, made(name))
    separations, spreads = [], []
    for batch in make_batches(name, run.method.schedule.steps):
        outputs = run(batch)
        assert outputs["loss"].isfinite()
        queries = outputs["queries"]
        torch.testing.assert_close(queries.norm(dim=1), torch.ones(BATCH))
        separations.append(separation(queries, outputs["keys"]))
        spreads.append(float(queries.std(0, correction=0).mean()) * queries.shape[1] ** 0.5)
    assert np.mean(separations[-5:]) > np.mean(separations[:5]) + 0.05
    assert spreads[-1] > 0.2  # the monitor's alarm


@every_method
def test_resumes_bit_by_bit(name: str) -> None:
    """From weights, optimizer and schedule alone, into a method that began elsewhere."""
    first = Run(name, made(name))
    for batch in make_batches(name, 5):
        first(batch)
    saved = first.save()
    resumed = Run(name, made(name, seed=1))
    resumed.resume(saved)
    for batch in make_batches(name, 5, start=5):
        expected, found = first(batch), resumed(batch)
        for loss, value in expected["losses"].items():
            assert torch.equal(found["losses"][loss], value), (batch.position, loss)
    assert resumed.schedule.get_last_lr() == first.schedule.get_last_lr()
    for weight, value in first.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[weight], value), weight


@every_method
def test_evaluation_changes_nothing(name: str) -> None:
    """Neither weights nor buffers nor the mode: in the middle of training, the next steps are as if it had not been."""
    run, untouched = Run(name, made(name)), Run(name, made(name))
    images = digits()[:20].permute(0, 2, 3, 1).contiguous().numpy()
    source = ArraySource("digits", images, np.arange(20) % 2, ("even", "odd"))
    for batch in make_batches(name, 3):
        before = copy.deepcopy(run.method.state_dict())
        extract_features(run.method.encoder.backbone, source, image_size=SIDE, mean=MEAN, std=STD, progress=False)
        for weight, value in before.items():
            assert torch.equal(run.method.state_dict()[weight], value), weight
        assert all(module.training for module in run.method.modules())
        assert torch.equal(run(batch)["loss"], untouched(batch)["loss"])


@every_method
def test_a_step_moves_each_player_and_nothing_else(name: str) -> None:
    """What no player owns changes by the momentum encoder or a queue alone: it has no gradient."""
    run = Run(name, made(name))
    batches = make_batches(name, 2)
    run(next(batches))
    owned = [parameter for player in run.method.players() for parameter in player.parameters]
    before = [parameter.detach().clone() for parameter in owned]
    run(next(batches))
    assert all(not torch.equal(parameter, value) for parameter, value in zip(owned, before, strict=True))
    ids = {id(parameter) for parameter in owned}
    assert len(ids) == len(owned)
    for weight, parameter in run.method.named_parameters():
        assert parameter.requires_grad == (id(parameter) in ids), weight
        assert (parameter.grad is not None) == (id(parameter) in ids), weight


def golden_curve(name: str) -> dict[str, list[float]]:
    """The losses of twenty float64 steps from weights that owe nothing to a random generator."""
    torch.set_default_dtype(torch.float64)
    try:
        method = made(name)
        for weight, parameter in method.named_parameters():  # the same in an encoder and its momentum copy
            if weight == "queue":  # its rows are no weights
                continue
            if parameter.ndim > 1:
                draws = torch.from_numpy(uniform(*parameter.shape, draws=parameter.numel())).view_as(parameter)
                parameter.data = (draws - 0.5) * (12 / parameter[0].numel()) ** 0.5
            elif weight.endswith("bias"):
                parameter.data.zero_()
        run = Run(name, method)
        steps = [run(batch)["losses"] for batch in make_batches(name, GOLDEN_STEPS)]
    finally:
        torch.set_default_dtype(torch.float32)
    return {loss: [step[loss].item() for step in steps] for loss in steps[0]}


@every_method
def test_golden_curve(name: str) -> None:
    """Twenty steps as they were when the curve was written: any change of the mathematics shows."""
    expected = json.loads((GOLDEN / f"golden_{name}.json").read_text())
    found = golden_curve(name)
    assert list(found) == list(expected)
    for loss, values in expected.items():
        np.testing.assert_allclose(found[loss], values, rtol=0, atol=1e-9, err_msg=loss)


if __name__ == "__main__":
    for method in sys.argv[1:]:
        (GOLDEN / f"golden_{method}.json").write_text(json.dumps(golden_curve(method), indent=1) + "\n")
