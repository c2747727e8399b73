"""Processes with a part of each batch do what one does with the whole: same losses, same adversaries, same encoder.

Run as a script, this file is the processes: it imports once, then forks a process for each rank of each layout.
"""

import math
import multiprocessing
import os
import socket
import subprocess
import sys
from collections import UserList
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from adco.adversaries import Adversaries
from adco.data.batch import Batch
from adco.methods.adco import AdCo
from adco.methods.byol import BYOL
from adco.methods.caco import CaCo
from adco.methods.method import Method, MethodArguments
from adco.methods.moco import MoCo
from adco.methods.simclr import SimCLR
from adco.methods.simsiam import SimSiam
from adco.models.encoder import Encoder, mlp
from adco.optim.players import Schedule
from adco.training.errors import NotFiniteError
from adco.training.module import Pretraining, finite_losses

IMAGES, SIDE, DIM, ADVERSARIES, STEPS = 8, 4, 6, 21, 3
# Where LOCAL_RANK of the second process is 0, a positive looked up by it is another image's.
LAYOUTS = {
    "one node": ({"devices": 2, "num_nodes": 1}, [{"LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}]),
    "two nodes": ({"devices": 1, "num_nodes": 2}, [{"NODE_RANK": "0"}, {"NODE_RANK": "1"}]),
    "two nodes of two": (
        {"devices": 2, "num_nodes": 2},
        [{"NODE_RANK": node, "LOCAL_RANK": local} for node in "01" for local in "01"],
    ),
}
VARIANTS: dict[str, dict[str, Any]] = {  # of AdCo
    "plain": {},
    "multi-crop": {"views": 3},
    "symmetric": {"symmetric": True},
    "symmetric multi-crop": {"views": 3, "symmetric": True},
    "warm start": {"warm_steps": 2},
    "positives alone": {"in_batch_negatives": False},
    "fewer adversaries than processes": {"adversaries": 3},
}
SETUPS = {"shuffled": (True, 1), "not shuffled": (False, 1), "accumulated": (False, 2)}  # batches of a step
BASELINES = ["caco", "caco plain", "moco", "moco plain", "moco of three keys", "simclr", "byol", "simsiam"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),  # Lightning's, of torch's
]


class Pixels(nn.Flatten):
    """A backbone with nothing to learn and no BatchNorm."""

    num_features = 3 * SIDE * SIDE


def make_batches(rank: int = 0, world_size: int = 1) -> list[Batch]:
    """A rank's share of batches that are the same for all."""
    generator = torch.Generator().manual_seed(1)
    share = slice(rank * IMAGES // world_size, (rank + 1) * IMAGES // world_size)
    whole = torch.randint(256, (STEPS, 3, IMAGES, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return [
        Batch([view[share] for view in views], torch.arange(IMAGES)[share], position)
        for position, views in enumerate(whole)
    ]


COMMON = MethodArguments(schedule=Schedule(peak=0.5, final=0.05, warmup_steps=0, steps=STEPS))


def make_adco(
    shuffle: bool, accumulate: int = 1, *, adversaries: int = ADVERSARIES, adversary_seed: int = 0, **variant: Any
) -> AdCo:
    torch.manual_seed(0)
    encoder = Encoder(Pixels(), mlp(Pixels.num_features, 12, DIM)).double()
    torch.manual_seed(adversary_seed)
    common = replace(COMMON, accumulate=accumulate)
    bank = Adversaries(adversaries, DIM)
    return AdCo(encoder, bank, common, ema_decay=0.9, groups=2, shuffle=shuffle, **variant).double()


def make_baseline(name: str) -> Method:
    """Without BatchNorm, whose statistics over ranks are torch's affair and on GPUs alone."""
    torch.manual_seed(0)
    encoder = Encoder(Pixels(), mlp(Pixels.num_features, 12, DIM))
    methods: dict[str, Callable[[], Method]] = {
        "caco": lambda: CaCo(encoder, Adversaries(19, DIM), COMMON),
        "caco plain": lambda: CaCo(encoder, Adversaries(19, DIM), COMMON, symmetric=False),
        "moco": lambda: MoCo(encoder, nn.functional.normalize(torch.randn(19, DIM)), COMMON, symmetric=True),
        "moco plain": lambda: MoCo(encoder, nn.functional.normalize(torch.randn(19, DIM)), COMMON, symmetric=False),
        "moco of three keys": lambda: MoCo(encoder, nn.functional.normalize(torch.randn(3, DIM)), COMMON),
        "simclr": lambda: SimCLR(encoder, COMMON),
        "byol": lambda: BYOL(encoder, mlp(DIM, 12, DIM), COMMON),
        "simsiam": lambda: SimSiam(encoder, mlp(DIM, 12, DIM), COMMON),
    }
    return methods[name]().double()


def with_views(batches: list[Batch], count: int = 2) -> list[Batch]:
    return [batch._replace(views=batch.views[:count]) for batch in batches]


class Losses(L.Callback):
    """All losses of each batch."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append([loss.item() for loss in outputs["losses"].values()])


def train(method: Method, batches: list[Batch], **trainer_arguments: Any) -> dict[str, Tensor]:
    """Losses [steps, 2], the number of rows of each bank here, and all weights of all processes after the last step."""
    losses = Losses()
    trainer = L.Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=1,
        callbacks=[losses],
        accumulate_grad_batches=method.accumulate,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_arguments,
    )
    trainer.fit(Pretraining(method), UserList(batches))
    names = {weight: name for name, weight in method.named_parameters()}
    whole = {names[bank.weight]: bank.of_all_ranks() for bank in method.banks()}
    rows = torch.tensor([len(bank.weight) for bank in method.banks()])
    return {"losses": torch.tensor(losses.values, dtype=torch.float64), "rows": rows, **method.state_dict(), **whole}


def warm_start(method: AdCo, rank: int, world_size: int) -> dict[str, Tensor]:
    """The adversaries before and after. Three batches of eight images hold fresh views of the same images."""
    before = method.adversaries.weight.detach().clone()
    method.warm_start(make_batches(rank, world_size))
    return {"before": before, "after": method.adversaries.weight.detach().clone()}


def refused_weights(broken: bool) -> list[bool]:
    """Whether weights are refused in this process: at first, and when the last process has some that are not finite."""
    module = Pretraining(make_adco(shuffle=False))
    refused = []
    for _ in range(2):
        try:
            finite_losses(1, {"losses": {"loss": torch.tensor(1.0)}}, module)
        except NotFiniteError:
            refused.append(True)
        else:
            refused.append(False)
        if broken:
            next(module.parameters()).data.fill_(math.inf)
    return refused


def be_rank(folder: Path, layout: str, rank: int, port: int) -> None:
    """What one of several processes does."""
    devices, environment = LAYOUTS[layout]
    size = len(environment)
    ours = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "LOCAL_RANK": "0"}
    os.environ.update({**ours, **environment[rank]})
    torch.set_num_threads(1)
    batches = make_batches(rank, size)
    found = {
        f"{name}, {setup}": train(make_adco(*arguments, **variant), batches, strategy="ddp", **devices)
        for setup, arguments in SETUPS.items()
        for name, variant in VARIANTS.items()
    }
    for name in BASELINES:
        found[name] = train(make_baseline(name), with_views(batches), strategy="ddp", **devices)
    found["not finite"] = {"refused": torch.tensor(refused_weights(rank == size - 1))}  # the process group is still up
    for shuffle in (True, False):
        found[f"warm start, shuffle {shuffle}"] = warm_start(make_adco(shuffle, adversary_seed=rank), rank, size)
    torch.save(found, folder / f"{layout}, rank {rank}.pt")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ranks_of(layout: str) -> range:
    return range(len(LAYOUTS[layout][1]))


def launch(folder: Path) -> int:
    """All ranks of all layouts; returns how many of them failed."""
    context = multiprocessing.get_context("fork")
    processes = []
    for layout in LAYOUTS:
        port = free_port()
        processes += [context.Process(target=be_rank, args=(folder, layout, rank, port)) for rank in ranks_of(layout)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sum(process.exitcode != 0 for process in processes)


Found = dict[str, list[dict[str, dict[str, Tensor]]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each rank of each layout found."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return {
        layout: [torch.load(folder / f"{layout}, rank {rank}.pt") for rank in ranks_of(layout)] for layout in LAYOUTS
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_processes_train_like_one(found: Found, layout: str, setup: str, variant: str) -> None:
    _, accumulate = SETUPS[setup]
    one = train(make_adco(False, accumulate, **VARIANTS[variant]), make_batches())
    ranks = [rank[f"{variant}, {setup}"] for rank in found[layout]]
    rows = [int(rank["rows"]) for rank in ranks]
    assert sum(rows) == int(one["rows"])
    assert max(rows) - min(rows) <= 1
    assert_like_one(ranks, one)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_processes_train_a_baseline_like_one(found: Found, layout: str, name: str) -> None:
    one = train(make_baseline(name), with_views(make_batches()))
    ranks = [rank[name] for rank in found[layout]]
    rows = torch.stack([rank["rows"] for rank in ranks])  # none, or of the only bank
    assert torch.equal(rows.sum(0), one["rows"])
    assert rows.numel() == 0 or rows.max() - rows.min() <= 1
    assert_like_one(ranks, one)


def assert_like_one(ranks: list[dict[str, Tensor]], one: dict[str, Tensor]) -> None:
    losses = torch.stack([rank["losses"] for rank in ranks])
    torch.testing.assert_close(losses.mean(0), one["losses"], rtol=0, atol=1e-12)
    assert not torch.allclose(losses[0], losses[1])  # each had images of its own
    for name in set(one) - {"losses", "rows"}:
        assert all(torch.equal(ranks[0][name], other[name]) for other in ranks[1:]), name
        torch.testing.assert_close(ranks[0][name], one[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_processes_end_when_the_weights_of_one_are_not_finite(found: Found, layout: str) -> None:
    assert [rank["not finite"]["refused"].tolist() for rank in found[layout]] == [[False, True]] * len(found[layout])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_warm_start_leaves_all_ranks_alike_and_no_row_random(found: Found, layout: str, shuffle: bool) -> None:
    one = warm_start(make_adco(shuffle=False), 0, 1)
    ranks = [rank[f"warm start, shuffle {shuffle}"] for rank in found[layout]]
    assert not torch.equal(ranks[0]["before"], ranks[1]["before"])
    assert torch.equal(ranks[0]["after"], ranks[1]["after"])
    torch.testing.assert_close(ranks[0]["after"].norm(dim=1), torch.ones(ADVERSARIES, dtype=torch.float64))
    for rank in ranks:
        assert not (rank["after"] == rank["before"]).all(1).any()
    # Each batch's keys stand in rank order, as they do in one process.
    assert math.ceil(ADVERSARIES / IMAGES) == STEPS
    torch.testing.assert_close(ranks[0]["after"], one["after"])


if __name__ == "__main__":
    sys.exit(launch(Path(sys.argv[1])))
