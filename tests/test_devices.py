"""What is asked of torch beyond its public names."""

import pytest
import torch

from adco.devices import best_precision, devices_of, training_device
from program import torchrun


def test_torch_still_tells_what_a_cpu_multiplies() -> None:
    """Private functions: without them, a CPU with bf16 would silently train in float32, in twice the time."""
    assert all(hasattr(torch.cpu, name) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def test_a_cpu_is_what_it_is_asked_to_be() -> None:
    assert training_device("cpu") == torch.device("cpu")
    assert best_precision("cpu") in ("bf16-mixed", "32-true")


def test_gpus_are_chosen_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lightning chooses them for the run itself; without numbers, it is the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_device("auto", "1,") == training_device("gpu", "1,3") == torch.device("cuda:1")
    assert training_device("auto", 2) == training_device("auto") == torch.device("cuda")
    assert training_device("cpu", "1,") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert training_device("gpu", "1,3") == torch.device("cuda:3")


def test_one_process_trains_on_the_device_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """For Lightning, the text "1," is the device 1 and the number 1 is any one device."""
    assert devices_of(torch.device("cuda:1"), 1) == "1,"
    assert devices_of(torch.device("cpu"), 1) == devices_of(torch.device("cpu:0"), 1) == 1
    assert devices_of(torch.device("cuda:0"), 4) == 4
    for name, value in torchrun(1, 4)[2].items():
        monkeypatch.setenv(name, value)
    assert devices_of(torch.device("cuda:2"), 4) == "auto"
