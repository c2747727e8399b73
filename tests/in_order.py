"""What each of several processes does when results are passed on in order.

A module of its own, as the processes import the function by name, and cannot import a file of tests.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from adco.errors import InputError
from adco.ranks import together


def pass_on(environment: dict[str, str], out: str) -> None:
    """Pass on the items of lists of all lengths up to 8, then of lists of 7 of which one fails."""
    os.environ.update(environment)

    def results(items: Sequence[int], failing: int) -> Iterator[int]:
        for item in items:
            if item == failing:
                raise InputError(f"item {item}")
            yield item

    found: list[object] = []
    with together(int(environment["WORLD_SIZE"]), "cpu") as group:
        for count, failing in [*((count, -1) for count in range(9)), *((7, failing) for failing in range(7))]:
            passed: list[object] = []
            try:
                for item in group.in_order(results(group.share(range(count)), failing)):
                    passed.append(item)
            except InputError as error:
                passed.append((str(error), error.on_first_rank_only))
            found.append(passed)
        found += [group.gather(group.rank), group.decided_by_first(lambda: f"by {group.rank}")]
    Path(out).write_text(repr(found))
