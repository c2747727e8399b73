"""Two network namespaces as two nodes: one is killed at random, torchrun starts both again, and the end is the same.

    sudo python tests/faults/two_nodes.py --times 10

Prints a line of JSON: how often it was tried, how often the run ended with the bits of one that was not
disturbed, and what the process that was not killed said. Needs root, for `ip netns`.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

PROGRAM = Path(__file__).parent.parent / "program.py"
NODES = ("adco-a", "adco-b")  # namespaces; the ends of the cable between them have the same names
FLAGS = [
    "pretrain --data=few --adversaries=32 --epochs=25 --batch_size=24 --log_every=1 --checkpoint_every=3 --seed=3",
    "--knn_images=0 --hidden=32 --accelerator=cpu --precision=32-true --workers=0",
]
NETWORK = "--backbone_args={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}"


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_nodes() -> Iterator[None]:
    """Two namespaces with a cable between them; they are removed at the end.

    Raises:
        CalledProcessError, FileNotFoundError: if that is not possible here.
    """
    try:
        for node in NODES:
            ip("netns", "add", node)
        ip("link", "add", NODES[0], "netns", NODES[0], "type", "veth", "peer", "name", NODES[1], "netns", NODES[1])
        for number, node in enumerate(NODES, start=1):
            ip("-n", node, "address", "add", f"10.77.0.{number}/24", "dev", node)
            for link in ("lo", node):
                ip("-n", node, "link", "set", link, "up")
        yield
    finally:
        for node in NODES:
            with suppress(subprocess.CalledProcessError, FileNotFoundError):
                ip("netns", "delete", node)


def start(folder: Path, out: str | None, restarts: int) -> list["subprocess.Popen[bytes]"]:
    """Start torchrun on each node."""
    flags = [*" ".join(FLAGS).split(), NETWORK, *([f"--out={out}"] if out else [])]
    processes = []
    for number, node in enumerate(NODES, start=1):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
        launcher += ["--rdzv_backend=c10d", "--rdzv_endpoint=10.77.0.1:29511", f"--rdzv_id={folder.name}"]
        launcher += [f"--rdzv_conf=is_host={int(number == 1)}"]  # torchrun looks for the host's name, not its address
        launcher += [f"--local_addr=10.77.0.{number}", f"--max_restarts={restarts}", str(PROGRAM)]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": node, "OMP_NUM_THREADS": "1"}
        with (folder / f"said-{number - 1}").open("w") as file:
            command = ["ip", "netns", "exec", node, *launcher, *flags]
            processes.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True)
            )
    return processes


def workers_of(agent: int) -> list[int]:
    """Return the processes that an agent of torchrun has started."""
    tasks = Path(f"/proc/{agent}/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


def records(folder: Path) -> int:
    """Return the number of records of the run in a folder."""
    return sum(len(file.read_text().splitlines()) for file in folder.glob("*/*/metrics.jsonl"))


def end(processes: Sequence["subprocess.Popen[bytes]"], seconds: float) -> list[int | None]:
    """Wait for both agents and return their exit codes; kill what hangs."""
    until = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return [process.returncode for process in processes]


def disturbed(folder: Path, chance: random.Random, seconds: float) -> dict[str, object]:
    """Kill the process of one node at a random moment, and return what came of it."""
    processes = start(folder, None, restarts=2)
    until, moment, victim = time.monotonic() + seconds, chance.randint(2, 90), chance.randrange(2)
    while records(folder) < moment and time.monotonic() < until and processes[victim].poll() is None:
        time.sleep(0.01)
    for worker in workers_of(processes[victim].pid):
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    codes = end(processes, until - time.monotonic())
    lines = (folder / f"said-{1 - victim}").read_text().splitlines()
    says = [line for line in lines if line.startswith("adco: process")]
    return {"victim": victim, "record": moment, "codes": codes, "runs": len(list(folder.glob("runs/*"))), "says": says}


def same(first: Path, second: Path) -> bool:
    """Return whether two runs ended with the same bits."""
    found, expected = (load_file(run / "backbone.safetensors") for run in (first, second))
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (first, second)]
    return all(torch.equal(found[name], expected[name]) for name in expected) and all(
        torch.equal(states[0][name], states[1][name]) for name in states[1]
    )


def losses(run: Path) -> list[tuple[int, float]]:
    """Return step and loss of each record."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in found if "loss" in record]


def try_it(times: int, seed: int, seconds: float = 240) -> dict[str, object]:
    """Return how often a run was killed, how often it was survived, and what a person reads."""
    chance, survived, says, tries = random.Random(seed), 0, "", []
    with two_nodes(), tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary, "whole")
        whole.mkdir()
        codes = end(start(whole, "run", restarts=0), seconds)
        assert codes == [0, 0], (whole / "said-0").read_text()
        for number in range(times):
            folder = Path(temporary, f"run-{number}")
            folder.mkdir()
            found = disturbed(folder, chance, seconds)
            runs = list(folder.glob("runs/*"))
            good = found["codes"] == [0, 0] and len(runs) == 1 and same(runs[0], whole / "run")
            found |= {"same": good, "same records": good and losses(runs[0]) == losses(whole / "run")}
            survived += good
            says = " ".join(map(str, found["says"])) or says  # type: ignore[call-overload]
            tries.append(found)
            print(json.dumps(found), file=sys.stderr, flush=True)
            if not good:
                for node in range(2):
                    print((folder / f"said-{node}").read_text()[-3000:], file=sys.stderr, flush=True)
    return {"tried": times, "survived": survived, "says": says}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        print(json.dumps(try_it(given.times, given.seed)))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"network namespaces are not possible here: {error}", file=sys.stderr)
        sys.exit(77)
