"""Check an export: load it as its user will, and compare its output with the network's own."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adco.errors import AdcoError
from adco.exporting.format import Format
from adco.exporting.network import Network

TOLERANCE, TOLERANCE_HALF = 1e-4, 3e-2  # see docs/decisions.md


def measure_difference(kind: Format, network: Network, path: Path) -> float:
    """Return the largest difference of an export's output from the network's own, as a share of the largest value.

    The images are noise, in batches of several sizes.

    Args:
        kind: the format.
        network: what was exported.
        path: where it was written.

    Raises:
        AdcoError: the difference is larger than rounding explains.
    """
    largest = torch.zeros(())
    for count in (1, 3):
        images = network.images(count)
        expected = network.outputs(images)
        difference = (_loaded_outputs(kind, network, path, images) - expected).abs().max()
        largest = torch.maximum(largest, difference / expected.abs().max().clamp(min=1e-9))
    tolerance = TOLERANCE_HALF if network.half else TOLERANCE
    if not largest <= tolerance:  # also if it is NaN
        raise AdcoError(
            f"{path.name} was not written: loaded again, its {network.output} differ from the network's by "
            f"{largest:.1g} of the largest, and at most {tolerance:g} is accepted"
        )
    return float(largest)


def _loaded_outputs(kind: Format, network: Network, path: Path, images: Tensor) -> Tensor:
    """Return the output that the format's line gives."""
    names: dict[str, Any] = {"images": images.numpy() if kind.TAKES_ARRAYS else images}
    with silence(), torch.no_grad():
        exec(kind.line(network, path), names)
    return torch.as_tensor(names[network.output])


@contextmanager
def silence() -> Iterator[None]:
    """Silence other programs inside the block: their warnings, progress bars and prints."""
    with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
