"""The momentum encoder is a copy, frozen, and follows as an exponential moving average."""

import copy

import pytest
import torch
from torch import Tensor, nn

from adco.models.encoder import Encoder, mlp
from adco.models.momentum import MomentumEncoder


class Small(nn.Sequential):
    """A backbone of one convolution, with BatchNorm."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(Small(), mlp(4, 6, 5)).double()


def images(seed: int) -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(encoder: nn.Module) -> nn.Module:
    """As training leaves it: other weights, other running statistics."""
    trained = copy.deepcopy(encoder)
    for seed in range(3):
        trained(images(seed))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    return trained


def test_starts_equal_projector_and_buffers_included(encoder: Encoder) -> None:
    """From weights that no new construction would have."""
    trained = moved(encoder)
    pair = MomentumEncoder(trained)
    assert list(pair.encoder.state_dict()) == list(trained.state_dict())
    for name, value in trained.state_dict().items():
        assert torch.equal(pair.encoder.state_dict()[name], value), name
    assert any("projector" in name for name in pair.encoder.state_dict())
    assert torch.equal(pair(images(9)), trained(images(9)))


def test_shares_nothing_and_is_frozen(encoder: Encoder) -> None:
    pair = MomentumEncoder(encoder)
    assert not any(parameter.requires_grad for parameter in pair.parameters())
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    mine = {tensor.data_ptr() for tensor in pair.state_dict().values()}
    assert mine.isdisjoint(tensor.data_ptr() for tensor in encoder.state_dict().values())
    assert not pair(images(0)).requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.999, 1.0])
def test_update_is_the_moving_average(encoder: Encoder, momentum: float) -> None:
    pair = MomentumEncoder(encoder)
    trained = moved(encoder)
    expected = {name: parameter.detach().clone() for name, parameter in pair.encoder.named_parameters()}
    followed = {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}
    for _ in range(3):
        pair.update(trained, momentum)
        expected = {name: momentum * slow + (1 - momentum) * followed[name] for name, slow in expected.items()}
    for name, parameter in pair.encoder.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-15, atol=1e-15)
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, followed[name])


def test_running_statistics_are_its_own(encoder: Encoder) -> None:
    pair = MomentumEncoder(encoder)
    trained = moved(encoder)
    buffers = {name: buffer.clone() for name, buffer in pair.encoder.named_buffers()}
    pair.update(trained, 0.9)
    for name, buffer in pair.encoder.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    others = {name: buffer.clone() for name, buffer in trained.named_buffers()}
    pair(images(5))
    for name, buffer in trained.named_buffers():
        assert torch.equal(buffer, others[name]), name
    for name, buffer in pair.encoder.named_buffers():
        assert not torch.equal(buffer, buffers[name]), name


def test_batch_statistics_in_train_mode(encoder: Encoder) -> None:
    """An image's embedding depends on its company: that is why keys are shuffled."""
    pair = MomentumEncoder(encoder).train()
    assert not torch.allclose(pair(images(0)), torch.cat([pair(images(0)[:4]), pair(images(0)[4:])]))
