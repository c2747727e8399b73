import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from adco.data.draws import permutation, uniform

MANY = 20_000
KEYS: dict[str, tuple[NDArray[np.int64] | int, ...]] = {
    "seed": (np.arange(MANY), 3, 5, 0),
    "epoch": (0, np.arange(MANY), 5, 0),
    "image": (0, 3, np.arange(MANY), 0),
    "view": (0, 3, 5, np.arange(MANY)),
    "high bits": (0, 3, np.arange(MANY) << 40, 0),
}


@pytest.mark.parametrize("differing", KEYS)
def test_draws_are_uniform_whichever_part_of_the_key_differs(differing: str) -> None:
    u = uniform(*KEYS[differing], draws=4)
    assert u.shape == (MANY, 4)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("differing", KEYS)
def test_neighbouring_keys_and_draws_are_independent(differing: str) -> None:
    u = uniform(*KEYS[differing], draws=8)
    limit = 4 / np.sqrt(MANY)  # four standard errors of a correlation
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < limit
    assert np.abs(np.corrcoef(u.T) - np.eye(8)).max() < limit
    pairs, *_ = np.histogram2d(u[:-1, 0], u[1:, 0], bins=10)  # correlation alone would miss a lattice
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-3


def test_parts_of_a_key_are_not_interchangeable() -> None:
    drawn = {tuple(uniform(*key, draws=2)) for key in [(0, 1), (1, 0), (1,), (0, 0, 1), (1, 1), (0,), (0, 0)]}
    assert len(drawn) == 7


def test_no_two_keys_of_a_run_draw_the_same() -> None:
    epoch, image, view = np.meshgrid(np.arange(10), np.arange(2000), np.arange(2), indexing="ij")
    assert len(np.unique(uniform(7, epoch, image, view, draws=1))) == epoch.size


def test_a_draw_depends_on_its_key_alone() -> None:
    image = np.arange(100)
    whole = uniform(1, np.full(100, 2), image, 1, draws=5)
    np.testing.assert_array_equal(whole[::-1], uniform(1, 2, image[::-1], 1, draws=5))
    np.testing.assert_array_equal(whole[37:40], uniform(1, 2, image[37:40], 1, draws=5))
    np.testing.assert_array_equal(whole[37], uniform(1, 2, 37, 1, draws=5))
    np.testing.assert_array_equal(whole[:, :2], uniform(1, 2, image, 1, draws=2))


def test_draws_are_those_of_every_version() -> None:
    """A run that is resumed after an update goes on with the numbers it began with."""
    np.testing.assert_array_equal(uniform(0, 1, 2, 3, draws=2), [0.6708956949957134, 0.15990885405334454])
    np.testing.assert_array_equal(permutation(0, 1, length=6), [4, 1, 5, 3, 2, 0])


def test_permutations_hold_everything_once() -> None:
    for epoch in range(5):
        np.testing.assert_array_equal(np.sort(permutation(3, epoch, length=101)), np.arange(101))


def test_permutations_differ_by_epoch_and_seed_alone() -> None:
    orders = [tuple(permutation(seed, epoch, length=50)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert orders == [tuple(permutation(seed, epoch, length=50)) for seed in range(3) for epoch in range(3)]


def test_every_image_comes_everywhere() -> None:
    places = np.array([permutation(0, epoch, length=10) for epoch in range(2000)])
    for column in places.T:
        assert stats.chisquare(np.bincount(column, minlength=10)).pvalue > 1e-4
