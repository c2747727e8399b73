"""What the processor can do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def multiplies_bf16() -> bool:
    """Return whether the processor has instructions that multiply bf16; without them, bf16 is slower than float32."""
    supported = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask() for ask in supported if ask)


@contextmanager
def bf16_products(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in bf16, and add up the products in float32, where the surroundings allow it.

    They do inside of bf16 autocast on a processor that multiplies bf16. Elsewhere, nothing changes.

    Args:
        device: of the matrices.
    """
    if not (
        device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and multiplies_bf16()
    ):
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
