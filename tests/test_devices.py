"""What is asked of torch beyond its public names."""

import torch

from adco.devices import best_precision, training_device


def test_torch_still_tells_what_a_cpu_multiplies() -> None:
    """Private functions: without them, a CPU with bf16 would silently train in float32, in twice the time."""
    assert all(hasattr(torch.cpu, name) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def test_a_cpu_is_what_it_is_asked_to_be() -> None:
    assert training_device("cpu") == torch.device("cpu")
    assert best_precision("cpu") in ("bf16-mixed", "32-true")
