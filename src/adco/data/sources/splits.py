"""Stratified choices of images: held-out test splits for data that has none, and draws of a few labelled images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from adco.data.draws import permutation


def hold_out(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices to keep and those to hold out.

    A fifth of each class is held out, but at least one image if the class has two or more. Images without a class, with
    the label −1, are kept. The choice is deterministic.
    """
    generator = np.random.default_rng(0)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        members = generator.permutation(np.flatnonzero(labels == label))
        held_out[members[: max(len(members) // 5, int(len(members) > 1))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def draw_of_each_class(labels: NDArray[np.int64], count: Callable[[int], int], *key: int) -> NDArray[np.int64]:
    """Return the indices of some images of each class, in ascending order.

    The same key gives the same order of a class's images, and the first ones are taken. A draw of fewer images is
    therefore part of a draw of more images with the same key.

    Args:
        labels: [n], the class of each image; images without a class, with the label −1, are never drawn.
        count: how many images to draw from a class of a given size, at most all of them.
        key: non-negative integers, such as (seed, number of the draw).
    """
    chosen = [np.empty(0, np.int64)]
    for label in np.unique(labels[labels >= 0]).tolist():
        members = np.flatnonzero(labels == label)
        chosen.append(members[permutation(*key, label, length=len(members))[: count(len(members))]])
    return np.sort(np.concatenate(chosen))
