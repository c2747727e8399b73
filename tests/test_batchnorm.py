"""Shuffled groups: rows come back in order, and batch statistics are those of the group."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from adco.data.draws import permutation
from adco.models.batchnorm import forward_groups, forward_shuffled


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
    sizes: list[int] = []

    def count(part: Tensor) -> Tensor:
        sizes.append(len(part))
        return part

    forward_groups(count, torch.zeros(n, 1), groups)
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
    assert layer.num_batches_tracked == 3
    mean = torch.zeros(2)
    for part in (x[:2], x[2:4], x[4:]):
        mean = 0.9 * mean + 0.1 * part.mean(0)
    torch.testing.assert_close(layer.running_mean, mean)
