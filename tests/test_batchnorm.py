"""Shuffled groups: rows come back in order, and batch statistics are those of the group."""

import copy
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny
from adco.config.pretrain import Devices
from adco.config.registry import settings_of
from adco.config.resolve import resolve_for_images
from adco.data.batch import Batch
from adco.data.draws import permutation
from adco.methods.method import MethodArguments
from adco.methods.moco import MoCo
from adco.models.batchnorm import forward_groups, forward_shuffled, group_sizes, named_has_batch_norm
from adco.models.encoder import Encoder, mlp
from adco.optim.players import Schedule
from adco.training.trainer import SyncBatchNorm


def normalise(x: Tensor) -> Tensor:
    """BatchNorm in train mode, without its weights."""
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 20), groups=st.integers(1, 25), across_ranks=st.booleans(), seed=st.integers(0, 1000))
def test_without_batchnorm_nothing_happens(n: int, groups: int, across_ranks: bool, seed: int) -> None:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    order = torch.from_numpy(permutation(seed, length=n))
    assert torch.equal(forward_groups(torch.sin, x, groups), x.sin())
    assert torch.equal(forward_shuffled(torch.sin, x, groups, order, across_ranks), x.sin())


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), groups=st.integers(1, 40))
def test_groups_differ_by_one_image_at_most(n: int, groups: int) -> None:
    """Twenty-five images in eight groups: none is alone, as one would be in groups of four."""
    sizes = group_sizes(n, groups)
    assert sum(sizes) == n
    assert len(sizes) == min(groups, n)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("across_ranks", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_statistics_are_those_of_the_shuffled_groups(groups: int, across_ranks: bool) -> None:
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.from_numpy(permutation(1, length=12))
    layer = nn.BatchNorm1d(4).double()
    found = forward_shuffled(layer, x, groups, order, across_ranks)
    size = 12 // groups
    for group in range(groups):
        members = order[group * size : (group + 1) * size]
        torch.testing.assert_close(found[members].detach(), normalise(x[members]))
    plain = forward_groups(nn.BatchNorm1d(4).double(), x, groups)
    assert torch.allclose(found, plain) == (groups == 1)  # another company than in the images' own order


def test_running_statistics_see_every_group() -> None:
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    layer = nn.BatchNorm1d(2)
    forward_groups(layer, x, 3)
    mean = torch.zeros(2)
    for part in (x[:2], x[2:4], x[4:]):
        mean = 0.9 * mean + 0.1 * part.mean(0)
    torch.testing.assert_close(layer.running_mean, mean)


@pytest.mark.parametrize(
    ("network", "arguments", "expected"),
    [
        *((name, {}, True) for name in ("resnet18", "resnet10t", "regnetx_002", "vgg11_bn", "levit_128s", "unknown")),
        *(
            (name, {}, False)
            for name in ("vit_tiny_patch16_224", "convnext_atto", "vgg11", "nfnet_f0", "mixer_s16_224")
        ),
        ("resnet18", {"norm_layer": "groupnorm"}, False),
    ],
)
def test_batchnorm_is_known_by_name(network: str, arguments: dict[str, Any], expected: bool) -> None:
    assert named_has_batch_norm(network, arguments) is expected


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnetx_002", "levit_128s"])
def test_a_batch_is_embedded_as_group_by_group(name: str) -> None:
    """Features, gradients and running statistics are those of one forward pass per group.

    LeViT normalises the tokens of all images; EfficientNet and RegNet have BatchNorms of timm.
    """
    size = 224 if name == "levit_128s" else 64
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0).double().train()
    reference = copy.deepcopy(network)
    x = torch.randn(11, 3, size, size, dtype=torch.float64)
    found = forward_groups(network, x, 3)
    expected = torch.cat([reference(part) for part in x.tensor_split(3)])
    torch.testing.assert_close(found, expected)
    torch.autograd.backward(found.square().sum())
    torch.autograd.backward(expected.square().sum())
    for weight, same in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, same.grad)
    statistics = [key for key in network.state_dict() if "running" in key]
    assert statistics
    for key in statistics:
        torch.testing.assert_close(network.state_dict()[key], reference.state_dict()[key])


def test_in_eval_mode_groups_share_the_running_statistics() -> None:
    layer = nn.BatchNorm1d(4).eval()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(forward_groups(layer, x, 3), layer(x))


@pytest.mark.parametrize("backbone_norm", [False, True])
@pytest.mark.parametrize("projector_norm", [False, True])
def test_queries_and_keys_are_normalised_in_groups(backbone_norm: bool, projector_norm: bool) -> None:
    """The embeddings are those of an encoder that embeds each group by itself."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), *([nn.BatchNorm1d(6)] if backbone_norm else []))
    encoder = Encoder(backbone, mlp(6, 8, 4, batch_norm=projector_norm, output_norm=projector_norm))
    common = MethodArguments(schedule=Schedule(peak=0.1, final=0.0, warmup_steps=0, steps=1))
    method = MoCo(encoder, torch.randn(8, 4), common, groups=3).double()
    reference = copy.deepcopy(method)
    images = torch.randint(0, 256, (12, 3, 2, 2), dtype=torch.uint8)
    batch = Batch([images, images], torch.arange(12), 0)
    found = method.embed_queries(images)
    expected = torch.cat([reference.encoder(reference.prepare(part)) for part in images.tensor_split(3)])
    torch.testing.assert_close(found, expected)
    keys = method.embed_keys(batch, 0)
    assert not keys.requires_grad
    order = torch.from_numpy(permutation(0, 0, 0, length=12))
    for group in order.tensor_split(3):
        with torch.no_grad():
            own = reference.momentum_encoder(reference.prepare(images[group]))
        torch.testing.assert_close(keys[group], own)


@pytest.mark.parametrize("method", ["adco", "moco"])
def test_auto_splits_only_where_there_is_batchnorm(method: str) -> None:
    def chosen(processes: int, **given: Any) -> tuple[Any, ...]:
        asked = resolve_for_images(settings_of(method)(method=method, **given), tiny.black(1000, 32, 32))
        devices = Devices(processes=processes, images_per_forward=64, can_sync_batch_norm=False)
        return tuple(asked.choose_for_devices(devices).values())

    vit: dict[str, Any] = {"backbone": "vit_tiny_patch16_224", "projector_norm": False}
    for processes, usual in ((1, ("split", 2)), (2, ("shuffle", 1))):
        assert chosen(processes, **vit) == ("none", 1)
        assert chosen(processes, **vit | {"projector_norm": True}) == usual
        assert chosen(processes, **vit | {"backbone": "resnet18"}) == usual
        assert chosen(processes, **vit | {"backbone": "resnet18", "batch_norm": "none"}) == ("none", 1)
    assert chosen(1, **vit | {"batch_norm": "split"}) == ("split", 2)  # what is given stays


@pytest.mark.parametrize("name", ["test_efficientnet", "regnety_002", "resnet18"])
def test_synchronised_layers_keep_their_activations(name: str) -> None:
    """In timm's EfficientNets and RegNets, a BatchNorm layer and its activation are one module."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0)
    x = torch.randn(2, 3, 64, 64)
    expected, names = network.eval()(x), list(network.state_dict())
    synchronised = SyncBatchNorm().apply(network)
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in synchronised.modules())
    assert list(synchronised.state_dict()) == names
    torch.testing.assert_close(synchronised(x), expected, rtol=0, atol=0)
