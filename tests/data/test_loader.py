import gc
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from adco.data.batch import Batch
from adco.data.loader import Assignment, Loader, Order
from adco.data.sources.arrays import ArraySource
from adco.data.views import View

IMAGES = 53
VIEWS = [View(size=8), View(size=8), View(size=5, scale=(0.1, 0.4))]


@pytest.fixture(scope="module")
def source() -> ArraySource:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8, 3), np.uint8)
    return ArraySource("noise", pixels, None, ())


def places(order: Order, epochs: int = 1) -> list[Assignment]:
    return [place for _ in range(epochs) for (place,) in order]


def batches(loader: Loader, number: int) -> list[Batch]:
    """As Lightning takes them: epoch after epoch, and none past the last one wanted."""
    found: list[Batch] = []
    while len(found) < number:
        for batch in loader:
            found.append(batch)
            if len(found) == number:
                break
    return found


def assert_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert [batch.position for batch in found] == [batch.position for batch in expected]
    for batch, other in zip(found, expected, strict=True):
        assert torch.equal(batch.indices, other.indices)
        assert len(batch.views) == len(VIEWS)
        assert all(torch.equal(x, y) for x, y in zip(batch.views, other.views, strict=True))


@pytest.mark.parametrize("batch_size", [1, 7, 8, 53])
def test_an_epoch_shows_each_image_at_most_once_and_leaves_out_less_than_a_batch(batch_size: int) -> None:
    order = Order(IMAGES, batch_size=batch_size, seed=0)
    for epoch in range(3):
        found = places(order)
        assert len(found) == len(order) == IMAGES // batch_size
        assert {place.epoch for place in found} == {epoch}
        seen = np.concatenate([place.indices for place in found])
        assert len(np.unique(seen)) == len(seen) == len(order) * batch_size


def test_every_image_has_its_turn_over_the_epochs() -> None:
    order = Order(IMAGES, batch_size=10, seed=0)
    assert len(np.unique(np.concatenate([place.indices for place in places(order, 10)]))) == IMAGES


def test_epochs_and_seeds_differ() -> None:
    orders = [np.concatenate([p.indices for p in places(Order(IMAGES, batch_size=8, seed=s), 2)]) for s in range(2)]
    first, second = np.split(orders[0], 2)
    assert (first != second).any()
    assert (orders[0] != orders[1]).any()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_each_batch(world_size: int) -> None:
    whole = places(Order(IMAGES, batch_size=12, seed=5), 2)
    ranks = [Order(IMAGES, batch_size=12, seed=5, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [places(order, 2) for order in ranks]
    for batch, *parts in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), batch.indices)
        assert {(part.position, part.epoch) for part in parts} == {(batch.position, batch.epoch)}


@pytest.mark.parametrize("accumulate", [2, 3])
def test_an_epoch_is_whole_steps(accumulate: int) -> None:
    """Fifty-three images in batches of 4: thirteen, of which steps of two take twelve."""
    order = Order(IMAGES, batch_size=4, accumulate=accumulate, seed=0)
    assert len(order) == 12
    together = places(Order(IMAGES, batch_size=4 * accumulate, seed=0), 2)
    found = places(order, 2)
    assert [place.position for place in found] == list(range(24))
    np.testing.assert_array_equal(
        np.concatenate([place.indices for place in found]), np.concatenate([place.indices for place in together])
    )


def test_the_position_counts_on_over_epochs_and_is_never_reset() -> None:
    order = Order(IMAGES, batch_size=10, seed=0)
    assert [place.position for place in places(order, 3)] == list(range(15))
    assert order.position == 15
    next(iter(order))  # who iterates may stop before exhaustion
    assert order.position == 16
    assert [place.position for place in places(order)] == [16, 17, 18, 19]


@pytest.mark.parametrize("position", range(12))
def test_an_order_goes_on_anywhere(position: int) -> None:
    expected = places(Order(IMAGES, batch_size=10, seed=0), 3)[position:]
    order = Order(IMAGES, batch_size=10, seed=0, position=position)
    found: list[Assignment] = []
    while len(found) < len(expected):
        found += places(order)
    for place, other in zip(found, expected, strict=True):
        assert (place.position, place.epoch) == (other.position, other.epoch)
        np.testing.assert_array_equal(place.indices, other.indices)


def test_a_batch_is_what_its_place_says(source: ArraySource) -> None:
    batch, *_ = batches(Loader(source, VIEWS, Order(IMAGES, batch_size=10, seed=0)), 1)
    assert [tuple(view.shape) for view in batch.views] == [(10, 3, 8, 8), (10, 3, 8, 8), (10, 3, 5, 5)]
    assert {view.dtype for view in batch.views} == {torch.uint8}
    assert (batch.views[0] != batch.views[1]).any()
    assert batch.indices.tolist() == places(Order(IMAGES, batch_size=10, seed=0))[0].indices.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_anywhere_with_any_number_of_workers(source: ArraySource, workers: int) -> None:
    expected = batches(Loader(source, VIEWS, Order(IMAGES, batch_size=10, seed=0)), 12)
    assert_same(batches(Loader(source, VIEWS, Order(IMAGES, batch_size=10, seed=0), workers=workers), 12), expected)
    resumed = Loader(source, VIEWS, Order(IMAGES, batch_size=10, seed=0), workers=workers)
    resumed.start_at(7)
    assert_same(batches(resumed, 5), expected[7:])


def test_ranks_make_the_views_that_one_process_would(source: ArraySource) -> None:
    whole = batches(Loader(source, VIEWS, Order(IMAGES, batch_size=10, seed=0)), 6)
    shares = [
        batches(Loader(source, VIEWS, Order(IMAGES, batch_size=10, seed=0, rank=rank, world_size=2)), 6)
        for rank in range(2)
    ]
    for batch, first, second in zip(whole, *shares, strict=True):
        for view, one, other in zip(batch.views, first.views, second.views, strict=True):
            assert torch.equal(view, torch.cat([one, other]))


def test_the_state_is_the_position_alone(source: ArraySource) -> None:
    loader = Loader(source, VIEWS, Order(IMAGES, batch_size=10, seed=0))
    assert loader.state_dict() == {}
    loader.load_state_dict({})
    assert loader.order.position == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_garbage_collection_in_workers_leaves_the_memory_of_the_training_process_alone(
    source: ArraySource, workers: int
) -> None:
    class Frozen(ArraySource):
        """Images that are white where the objects of before are exempt from garbage collection."""

        def load(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
            return np.full_like(super().load(indices), 255 * (gc.get_freeze_count() > before + 1000))

    before = gc.get_freeze_count()
    view = View(size=8, jitter_probability=0, blur_probability=0)
    loader = Loader(Frozen("f", source.images, None, ()), [view], Order(IMAGES, batch_size=10, seed=0), workers=workers)
    (batch,) = batches(loader, 1)
    assert (batch.views[0] == (255 if workers else 0)).all()


def test_it_counts_how_long_it_is_waited_for(source: ArraySource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not how long the training takes between two batches."""
    now = 0.0

    class Slow(ArraySource):
        def load(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
            nonlocal now
            now += 2
            return super().load(indices)

    monkeypatch.setattr("adco.data.loader.time.perf_counter", lambda: now)
    loader = Loader(Slow("slow", source.images, None, ()), VIEWS, Order(IMAGES, batch_size=10, seed=0))
    for number, _ in enumerate(loader, start=1):
        assert loader.waited == 2 * number
        now += 5


@pytest.mark.slow
def test_a_process_ends_while_its_loader_has_workers() -> None:
    """They ignore SIGTERM, which Python sends its children before it waits for them."""
    lines = """
import numpy as np
from adco.data.loader import Loader, Order
from adco.data.sources.arrays import ArraySource
from adco.data.views import View
source = ArraySource("black", np.zeros((64, 8, 8, 3), np.uint8), None, ())
batches = iter(Loader(source, [View(size=8)], Order(64, batch_size=8, seed=0), workers=1))
next(batches)
raise SystemExit(3)
"""
    ended = subprocess.run([sys.executable, "-c", lines], capture_output=True, timeout=100)
    assert ended.returncode == 3
