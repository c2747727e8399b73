"""Adversaries divided among ranks, against all of them on every rank: bytes sent, time of a step, and memory.

    python benchmarks/shards.py

Two processes of one thread each, connected by gloo, train AdCo with adversaries of width D = 128 in float32. "whole" is
what DDP does by itself: every rank holds all K rows, and their gradients are summed over ranks. Both are timed in turns
in the same processes, with a linear encoder, so that a step is little but the loss and what is sent, and with a
ResNet-18 on 32 px. Ratios are medians over rounds.

Bytes are those that a rank sends in a step. They follow from the tensors that are passed to the collectives: of x bytes
on each of R ranks, an all-gather sends (R − 1) x, an all-reduce 2 (R − 1)/R x (a ring) and an all-to-all (R − 1)/R x.
For 64 GPUs, the same formulas are applied to the sizes of a step of the plain loss: one query and one key per image.

Memory is measured in further processes: the resident set after some steps, and its peak (Linux only).
"""

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from adco.adversaries import Adversaries
from adco.comparison.timing import relative_time
from adco.data.batch import Batch
from adco.methods.adco import AdCo
from adco.methods.method import MethodArguments
from adco.models.backbone import BackboneInfo, build_backbone
from adco.models.encoder import Encoder, mlp
from adco.optim.players import Schedule
from adco.shards import Rows
from adco.training.module import Pretraining
from adco.training.rehearsal import high_water
from measure import in_turns, save, show

RANKS, D, K = 2, 128, 65_536
ROUNDS, STEPS = 9, 10  # STEPS: those whose memory is measured
MILLION = 2**20
ENCODERS = {"linear": (8, (256, 1024)), "resnet18": (32, (64,))}  # side in pixels; images of a step, all ranks
GPUS = 64


class Whole(AdCo):
    """AdCo with all adversaries on every rank."""

    def banks(self) -> list[Rows]:
        return []


KINDS = {"whole": Whole, "divided": AdCo}


class Sent:
    """The bytes that this process sends, by collective."""

    def __init__(self) -> None:
        self.bytes: dict[str, float] = {}

    def add(self, collective: str, data: Tensor, ranks: int = RANKS) -> None:
        factor = {"all-gather": ranks - 1, "all-reduce": 2 * (ranks - 1) / ranks, "all-to-all": (ranks - 1) / ranks}
        self.bytes[collective] = self.bytes.get(collective, 0) + factor[collective] * data.nbytes

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the package passes to torch within the block."""
        with (
            patch.object(dist, "all_gather", self._counted("all-gather", dist.all_gather, 1)),
            patch.object(dist, "all_reduce", self._counted("all-reduce", dist.all_reduce, 0)),
            patch.object(dist, "all_to_all_single", self._counted("all-to-all", dist.all_to_all_single, 1)),
        ):
            yield

    def _counted(self, collective: str, call: Callable[..., Any], place: int) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.add(collective, arguments[place])
            return call(*arguments, **named)

        return counted


class Losses(nn.Module):
    """The losses of encoder and adversaries, [2], as the output of a module, as DDP wants it."""

    def __init__(self, module: Pretraining) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        return torch.stack(list(self.module.training_step(batch, 0)["losses"].values()))


class Training:
    """One of the processes: a step of all of them with each call."""

    def __init__(self, kind: str, encoder: str, images: int, adversaries: int = K) -> None:
        torch.manual_seed(0)
        side = ENCODERS[encoder][0]
        made: dict[str, Callable[[], Encoder]] = {
            "linear": lambda: Encoder(nn.Flatten(), nn.Linear(3 * side**2, D)),
            "resnet18": lambda: Encoder(
                build_backbone(BackboneInfo("resnet18", side, (0.5,) * 3, (0.25,) * 3, {}, "cifar")), mlp(512, 512, D)
            ),
        }
        constant = Schedule(peak=0.3, final=0.3, warmup_steps=0, steps=1)
        common = MethodArguments(schedule=constant, mean=(0.5,) * 3, std=(0.3,) * 3)
        bank = Adversaries(adversaries, D)
        module = Pretraining(KINDS[kind](made[encoder](), bank, common, adversary_temperature=0.2))
        module.setup("fit")
        self.parallel = DistributedDataParallel(Losses(module))
        self.optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]
        for group, rate in zip(self.optimizer.param_groups, (0.3, 3.0), strict=True):
            group["lr"] = rate
        module.divide(self.optimizer)
        own = images // RANKS
        generator = torch.Generator().manual_seed(dist.get_rank())
        first = torch.randint(256, (own, 3, side, side), generator=generator, dtype=torch.uint8)
        second = first + torch.randint(40, first.shape, generator=generator, dtype=torch.uint8)
        self.batch = Batch([first, second], torch.arange(own), 0)

    def __call__(self) -> list[float]:
        self.optimizer.zero_grad()
        losses: Tensor = self.parallel(self.batch)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        dist.barrier()
        return losses.tolist()


def timed(encoder: str, images: int) -> dict[str, Any]:
    """Return the seconds of a step and the bytes sent in it, of either kind."""
    seconds = in_turns({kind: Training(kind, encoder, images) for kind in KINDS}, ROUNDS)
    return {kind: {"seconds": seconds[kind], "sent": counted(Training(kind, encoder, images))} for kind in KINDS}


def counted(training: Training) -> dict[str, float]:
    """Return the bytes sent in a step, the gradients that DDP sums included."""
    training.parallel.register_comm_hook(None, allreduce_hook)
    sent = Sent()
    with sent.counting():
        training()
    return sent.bytes


def memory(kind: str, adversaries: int) -> dict[str, Any]:
    """Return a process's memory in MB, and both of its losses in each step."""
    training = Training(kind, "linear", 256, adversaries)
    losses = [training() for _ in range(STEPS)]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return {"after_steps": resident, "peak": high_water(), "losses": losses}


def be_rank(rank: int, port: int, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    try:
        return call()
    finally:
        dist.destroy_process_group()


def together(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a function in new connected processes, and return what the first returns."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ProcessPoolExecutor(RANKS, get_context("spawn")) as pool:
        first, *others = [pool.submit(be_rank, rank, port, call) for rank in range(RANKS)]
        for other in others:
            other.result()
        return first.result()


def model(images: int, adversaries: int) -> dict[str, float]:
    """Return the megabytes that each of 64 GPUs sends for the negatives of a step with one pair of views."""
    whole, divided = Sent(), Sent()
    whole.add("all-reduce", torch.empty(adversaries, D, device="meta"), GPUS)
    divided.add("all-gather", torch.empty(images // GPUS, D + 1, device="meta"), GPUS)
    divided.add("all-to-all", torch.empty(images, D + 1, device="meta"), GPUS)
    divided.add("all-reduce", torch.empty(images, 1, device="meta"), GPUS)
    return {kind: sum(sent.bytes.values()) / 1e6 for kind, sent in (("whole", whole), ("divided", divided))}


def main() -> None:
    figures: dict[str, Any] = {"rounds": ROUNDS, "adversaries": K, "steps": {}, "memory": {}, "model": {}}
    rows = []
    for encoder, (_, sizes) in ENCODERS.items():
        for images in sizes:
            found = together(partial(timed, encoder, images))
            ratio = relative_time(found["divided"]["seconds"], found["whole"]["seconds"])
            for figure in found.values():
                figure["median_seconds"] = sorted(figure["seconds"])[ROUNDS // 2]
                figure["megabytes_sent"] = sum(figure["sent"].values()) / 1e6
            figures["steps"][f"{encoder}, {images} images"] = {**found, "divided_over_whole": ratio}
            rows.append(
                [
                    f"{encoder}, {images}",
                    *(f"{1e3 * found[kind]['median_seconds']:.0f}" for kind in KINDS),
                    f"{ratio:.2f}",
                    *(f"{found[kind]['megabytes_sent']:.2f}" for kind in KINDS),
                ]
            )
    columns = ["encoder, images", "whole: ms", "divided: ms", "divided / whole", "whole: MB sent", "divided: MB sent"]
    show(f"a step of {RANKS} processes, K {K}", columns, rows)
    for kind in KINDS:
        figures["memory"][kind] = together(partial(memory, kind, MILLION))
    show(
        f"a process of {RANKS}, K {MILLION}",
        ["", f"MB after {STEPS} steps", "MB at the peak", "encoder's loss, first and last", "adversaries'"],
        [
            [
                kind,
                *(f"{found[name]:.0f}" for name in ("after_steps", "peak")),
                *(
                    f"{first:.4f} {last:.4f}"
                    for first, last in zip(found["losses"][0], found["losses"][-1], strict=True)
                ),
            ]
            for kind, found in figures["memory"].items()
        ],
    )
    for adversaries in (8192, K, MILLION):
        for images in (256, 4096):
            figures["model"][f"K {adversaries}, {images} images"] = model(images, adversaries)
    show(
        f"MB that each of {GPUS} GPUs sends in a step",
        ["", *KINDS],
        [[name, *(f"{found[kind]:.2f}" for kind in KINDS)] for name, found in figures["model"].items()],
    )
    save("shards", figures)


if __name__ == "__main__":
    main()
