"""Numbers in words."""

import pytest

from adco.words import counted


@pytest.mark.parametrize(("number", "words"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs")])
def test_one_is_singular(number: int, words: str) -> None:
    assert counted(number, "epoch") == words


def test_a_plural_may_be_given() -> None:
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
