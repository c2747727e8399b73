"""On a GPU everything does what it does on a CPU: losses, training, evaluation, and errors of one line."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import adco
from adco.adversaries import adversarial_info_nce
from adco.comparison.plan import Row
from adco.comparison.timing import time_rows
from adco.config.load import pretrain_settings
from adco.data.draws import uniform
from adco.evaluation.knn import knn_scores
from adco.evaluation.linear import fit_linear_probe
from adco.runs.directory import RunDirectory
from adco.training.errors import NotEnoughMemoryError
from adco.training.rehearsal import dry_run
from gpu.runs import METHODS, SETTINGS, losses, trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, shown to the tests by ADCO_GPU=1")


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Convolutions in full float32, and sums in the same order each time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("in_batch", [True, False])
def test_the_loss_and_its_gradients_are_those_of_float64(in_batch: bool) -> None:
    shapes = {"queries": (96, 32), "keys": (96, 32), "adversaries": (5000, 32)}
    given = {
        name: torch.from_numpy(uniform(place, draws=rows * width)).view(rows, width) - 0.5
        for place, (name, (rows, width)) in enumerate(shapes.items())
    }
    found = []
    for device, dtype in (("cuda", torch.float32), ("cpu", torch.float64)):
        inputs = [tensor.to(device, dtype) for tensor in given.values()]
        inputs[:2] = [torch.nn.functional.normalize(tensor) for tensor in inputs[:2]]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        pair = adversarial_info_nce(
            *inputs, temperature=0.12, adversary_temperature=0.02, first_positive=0, in_batch_negatives=in_batch
        )
        sum(pair).backward()  # type: ignore[union-attr]
        found.append([*pair, *(tensor.grad for tensor in inputs)])
    for ours, truth in zip(*found, strict=True):
        scale = truth.detach().abs().max().item()
        np.testing.assert_allclose(ours.detach().cpu().numpy(), truth.detach().numpy(), rtol=1e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("name", METHODS)
def test_training_does_what_it_does_on_a_cpu(name: str, tmp_path: Path, exact: None) -> None:
    """The first steps: later, differences of rounding grow to some hundredths."""
    on_cpu, on_gpu = (losses(trained(tmp_path / place, place, **METHODS[name])) for place in ("cpu", "gpu"))
    assert len(on_gpu) == len(on_cpu)
    np.testing.assert_allclose(on_gpu[0], on_cpu[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(on_gpu[1], on_cpu[1], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_has_the_same_bits(name: str, workers: int, tmp_path: Path, exact: None) -> None:
    more = {**METHODS[name], "precision": "auto", "workers": workers, "keep_every": 1}
    run = trained(tmp_path / "run", "gpu", **more)
    weights, records = run.backbone.read_bytes(), losses(run)
    adco.pretrain(resume=run.path / "checkpoints" / "epoch-1.ckpt")
    assert losses(run) == records
    assert run.backbone.read_bytes() == weights


@pytest.mark.parametrize("name", METHODS)
def test_learns_in_the_precision_of_the_gpu(name: str, tmp_path: Path) -> None:
    run = trained(
        tmp_path / "run",
        "auto",
        **{**METHODS[name], "precision": "auto", "optimizer": "muon", "epochs": 6, "stop_when_collapsed": False},
    )
    assert run.read_config()["precision"] == "bf16-mixed"
    on_gpu, on_cpu = (adco.evaluate("knn", run.path, floors=False, device=device)["top1"] for device in ("cuda", "cpu"))
    assert on_gpu > 25  # chance: 10
    assert abs(on_gpu - on_cpu) < 1.5


def test_embeddings_and_a_fine_tuned_classifier_are_those_of_a_cpu(tmp_path: Path, exact: None) -> None:
    run = trained(tmp_path / "run", "gpu", **METHODS["adco"])
    ours, theirs = (adco.embed(run.path, data="digits", device=device) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(ours.embeddings, theirs.embeddings, atol=1e-3 * np.abs(theirs.embeddings).max())
    tuned = []
    for place in ("cuda", "cpu"):
        adco.finetune(run.path, data="digits", epochs=3, device=place, out=str(tmp_path / place))
        tuned.append(json.loads((tmp_path / place / "results" / "finetune-digits.json").read_text())["top1"])
    assert abs(tuned[0] - tuned[1]) < 2
    on_gpu, on_cpu = (
        adco.evaluate("linear", run.path, floors=False, device=device)["top1"] for device in ("cuda", "cpu")
    )
    assert abs(on_gpu - on_cpu) < 2


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "lars"])
def test_each_optimizer_steps_as_on_a_cpu(optimizer: str, tmp_path: Path, exact: None) -> None:
    more = {**METHODS["simclr"], "optimizer": optimizer}
    on_cpu, on_gpu = (losses(trained(tmp_path / place, place, **more)) for place in ("cpu", "gpu"))
    np.testing.assert_allclose(on_gpu[:2], on_cpu[:2], rtol=5e-3)


@pytest.mark.parametrize("name", ["adco", "caco", "moco", "byol"])
def test_a_run_in_float16_is_resumed_with_the_same_bits(name: str, tmp_path: Path, exact: None) -> None:
    """As on GPUs without bf16. The factor of the gradients, also of the negatives', is part of a checkpoint."""
    run = trained(tmp_path / "run", "gpu", **{**METHODS[name], "precision": "16-mixed", "epochs": 4, "keep_every": 2})
    weights, records = run.backbone.read_bytes(), losses(run)
    adco.pretrain(resume=run.path / "checkpoints" / "epoch-2.ckpt")
    assert losses(run) == records
    assert run.backbone.read_bytes() == weights


def test_a_run_of_a_gpu_goes_on_on_a_cpu(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "gpu", **METHODS["adco"])
    adco.pretrain(resume=run.path, accelerator="cpu", epochs=3)
    assert run.records()[-1]["epoch"] == 2
    assert run.is_finished


def test_the_cost_of_a_run_is_that_on_the_gpu(tmp_path: Path) -> None:
    settings = {**SETTINGS, **METHODS["adco"], "accelerator": "gpu"}
    told = dry_run(pretrain_settings(**settings))
    assert torch.cuda.get_device_name() in told
    assert "GB of cuda at the peak" in told
    del settings["epochs"]
    assert RunDirectory(adco.pretrain(**settings, minutes=0.05, out=str(tmp_path / "run"))).is_finished


def test_what_was_timed_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison times all rows, and other processes train them on the same GPU."""
    monkeypatch.setattr("adco.comparison.timing.peak_megabytes", lambda settings: None)
    network: dict[str, Any] = {
        "data": "digits",
        "backbone": "resnet18",
        "stem": "standard",
        "image_size": 128,
        "batch_size": 256,
    }
    rows = [Row(name, pretrain_settings(**network, **METHODS[name], workers=0)) for name in ("moco", "adco")]
    torch.cuda.reset_peak_memory_stats()
    with warnings.catch_warnings(action="ignore"):  # the images are enlarged
        time_rows(rows, lambda words: None, steps=1)
    assert torch.cuda.max_memory_reserved() > 2**30
    assert torch.cuda.memory_reserved() < 2**28  # cuBLAS keeps some


def test_neighbours_duplicates_and_probes_are_those_of_a_cpu(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "gpu", **METHODS["adco"]).path
    few: dict[str, Any] = {"labels_per_class": [5], "label_shares": [], "draws": 3}
    near, copies, top1 = [], [], []
    for device in ("cuda", "cpu"):
        near.append(adco.neighbors(run, data="few", device=device).similarities)
        copies.append(adco.duplicates(run, data="few", device=device).choice)
        probed = adco.probe(run, data="digits", device=device, **few)["networks"]["this backbone"]
        top1.append(probed[0]["mean"])
    np.testing.assert_allclose(near[0], near[1], atol=2e-3)
    assert abs(copies[0].threshold - copies[1].threshold) < 0.01
    assert abs(top1[0] - top1[1]) < 2


def test_features_that_pass_through_the_gpu_in_blocks_give_the_same(exact: None) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(3000) % 5
    features = torch.randn(3000, 16, generator=draw) + torch.randn(5, 16, generator=draw)[labels]
    places = (("cpu", 2**28), ("cuda", 2**28), ("cuda", 500 * 16))
    probes = [
        fit_linear_probe(features, labels, 5, candidates=[0.1], device=device, at_once=at_once)
        for device, at_once in places
    ]
    votes = [
        knn_scores(features, labels, features, 5, 20, device=device, bank_chunk=at_once // 16)
        for device, at_once in places
    ]
    for probe, scores in zip(probes[1:], votes[1:], strict=True):
        assert probe.weight.is_cuda
        assert scores.is_cuda
        np.testing.assert_allclose(probe.weight.cpu().numpy(), probes[0].weight.numpy(), atol=1e-3)
        np.testing.assert_allclose(scores.cpu().numpy(), votes[0].numpy(), atol=1e-3)


def test_full_memory_names_what_fits_and_it_does(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (256, 224, 224, 3), np.uint8)
    settings: dict[str, Any] = {
        **{"data": images, "backbone": "resnet18", "batch_size": 256, "epochs": 1, "image_size": 224},
        **{"accelerator": "gpu", "precision": "32-true", "knn_images": 0, "method": "simsiam"},
    }
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(8e9 / total)
    try:
        with pytest.raises(NotEnoughMemoryError, match=r"what fits is --accumulate \d+") as raised:
            adco.pretrain(**settings, out=str(tmp_path / "full"))
        assert "\n" not in str(raised.value)
        fits = int(str(raised.value).split("--accumulate ")[1].split(",")[0])
        adco.pretrain(**settings, accumulate=fits, out=str(tmp_path / "fits"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


CONNECT = """
import torch, torch.distributed as dist
from adco.ranks import _connect
_connect("gpu")
found = [None]
dist.broadcast_object_list(found, src=0)
sums = torch.ones(3, device="cuda")
dist.all_reduce(sums)
assert sums.device.type == "cuda" and sums.tolist() == [dist.get_world_size()] * 3
print(dist.get_backend(), dist.get_backend_config() if hasattr(dist, "get_backend_config") else "")
"""


def test_objects_go_by_the_cpu_and_gradients_by_the_gpu() -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571"}
    done = subprocess.run(
        [sys.executable, "-c", CONNECT], env={**os.environ, **alone}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_torchrun_starts_a_run_on_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--data=digits", "--epochs=1", "--batch_size=128", f"--out={out}", "--knn_images=0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "adco"]
    done = subprocess.run([*command, "pretrain", *flags], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert RunDirectory(out).is_finished
    assert torch.cuda.get_device_name() in done.stderr
