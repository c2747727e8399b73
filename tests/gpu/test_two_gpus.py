"""Two GPUs do what one does: training, BatchNorm, evaluation, a run that goes on, and a full memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import adco
from adco.runs.directory import RunDirectory
from gpu.runs import METHODS, SETTINGS, losses, trained

pytestmark = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two GPUs, shown to the tests by ADCO_GPU=1"
)


def python(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)


def command(*arguments: str) -> None:
    done = python("-m", "adco", *arguments)
    assert done.returncode == 0, done.stderr


def flags(**settings: Any) -> list[str]:
    return [
        f"--{name}={json.dumps(value) if isinstance(value, list | dict) else value}" for name, value in settings.items()
    ]


@pytest.mark.parametrize("name", METHODS)
def test_two_gpus_are_one(name: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, **METHODS[name], "precision": "32-true", "accelerator": "gpu", "epochs": 1}
    del settings["backbone_args"]
    found = []
    for devices in (1, 2):
        out = tmp_path / str(devices)
        command("pretrain", *flags(**settings), f"--devices={devices}", f"--out={out}")
        found.append(losses(RunDirectory(out)))
    np.testing.assert_allclose(found[0], found[1], rtol=2e-2)  # BatchNorm sees half of the images


SYNCHRONISED = """
import copy, timm, torch, torch.distributed as dist
from adco.launcher import local_rank
from adco.ranks import _connect
from adco.training.trainer import SyncBatchNorm
_connect("gpu")
torch.backends.cudnn.allow_tf32 = False
torch.manual_seed(0)
device = torch.device("cuda", local_rank())
torch.cuda.set_device(device)
network = timm.create_model("test_efficientnet", num_classes=0).to(device)
images = torch.randn(16, 3, 64, 64).to(device)
own = slice(8 * dist.get_rank(), 8 * dist.get_rank() + 8)
expected = copy.deepcopy(network)(images)[own]
found = SyncBatchNorm().apply(network)(images[own])
torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
"""


def test_batch_norm_over_two_gpus_is_that_of_all_images(tmp_path: Path) -> None:
    """In a network of timm whose BatchNorm layers contain their activations."""
    (tmp_path / "script.py").write_text(SYNCHRONISED)
    done = python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("name", ["adco", "caco", "moco"])
def test_a_run_goes_on_on_another_number_of_gpus(name: str, before: int, after: int, tmp_path: Path) -> None:
    """Each holds a part of the negatives, and a checkpoint has all. Without BatchNorm, the weights are the same."""
    network = {"backbone": "test_vit", "backbone_args": {"patch_size": 4}, "projector_norm": False}
    settings = {**SETTINGS, **METHODS[name], **network, "precision": "64-true", "accelerator": "gpu", "keep_every": 1}
    run = RunDirectory(tmp_path / "run")
    settings |= {"learning_rate": 3e-4, "stop_when_collapsed": False}
    command("pretrain", *flags(**settings), f"--devices={before}", f"--out={run.path}")
    expected = load_file(run.backbone)
    kept = run.path / "checkpoints" / "epoch-1.ckpt"
    command("pretrain", f"--resume={kept}", f"--devices={after}")
    torch.testing.assert_close(load_file(run.backbone), expected, rtol=0, atol=1e-8)


def test_two_gpus_evaluate_embed_and_fine_tune_as_one(tmp_path: Path) -> None:
    run = str(trained(tmp_path / "run", "gpu", **METHODS["adco"]).path)
    embeddings, top1 = [], []
    for devices in (1, 2):
        out, tuned = tmp_path / f"{devices}.npz", tmp_path / f"tuned-{devices}"
        command("embed", run, "--data=digits", f"--out={out}", f"--devices={devices}")
        command("evaluate", "knn", run, "--data=digits", f"--devices={devices}")
        command("evaluate", "linear_sgd", run, "--data=digits", "--epochs=2", f"--devices={devices}")
        command("finetune", run, "--data=digits", "--epochs=2", f"--out={tuned}", f"--devices={devices}")
        embeddings.append(np.load(out)["embeddings"])
        files = [Path(run) / "results" / f"{kind}-digits.json" for kind in ("knn", "linear_sgd")]
        top1.append([json.loads(file.read_text())["top1"] for file in [*files, *(tuned / "results").glob("*.json")]])
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-3 * np.abs(embeddings[0]).max())
    np.testing.assert_allclose(top1[0], top1[1], atol=3)


def test_the_gpu_that_is_named_is_the_only_one_that_is_used(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "gpu", **METHODS["adco"], devices=1).path
    tuned, second = str(tmp_path / "tuned"), {**SETTINGS, "accelerator": "gpu", "devices": "1,"}
    timed = {name: value for name, value in second.items() if name != "epochs"}
    uses: dict[str, Callable[[], Any]] = {
        "embed": lambda: adco.embed(run, data="digits", device="cuda:1"),
        "knn": lambda: adco.evaluate("knn", run, data="digits", device="cuda:1"),
        "linear_sgd": lambda: adco.evaluate("linear_sgd", run, data="digits", epochs=1, device="cuda:1", devices=1),
        "finetune": lambda: adco.finetune(run, data="digits", epochs=1, device="cuda:1", devices=1, out=tuned),
        "pretrain": lambda: adco.pretrain(**second, out=str(tmp_path / "second")),
        "minutes": lambda: adco.pretrain(**timed, minutes=0.05, out=str(tmp_path / "timed")),
    }
    for name, use in uses.items():
        with torch.cuda.device(0):
            for gpu in (0, 1):
                torch.cuda.reset_peak_memory_stats(gpu)
            before = [torch.cuda.memory_allocated(gpu) for gpu in (0, 1)]
            use()
            peaks = [torch.cuda.max_memory_allocated(gpu) for gpu in (0, 1)]
        assert peaks[0] == before[0], name
        assert peaks[1] > before[1], name


FULL = """
import numpy as np, torch, adco
for gpu in range(2):
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction(4e9 / total, gpu)
images = np.random.default_rng(0).integers(0, 255, (256, 224, 224, 3), np.uint8)
network = dict(backbone="resnet18", image_size=224, method="simsiam", precision="32-true")
adco.pretrain(data=images, batch_size=256, epochs=1, knn_images=0, accelerator="gpu", devices=2, out="run", **network)
"""


def test_a_full_memory_ends_both_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FULL)
    done = python("script.py", cwd=tmp_path)
    assert done.returncode != 0
    assert "a forward pass of 128 images of 224 px is too much: take a higher --accumulate" in done.stderr
