"""Loader workers: with every start method, in every amount of shared memory, and when their parent ends."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from adco.data import shared_memory
from adco.data.loader import Loader, Order
from adco.data.sources.arrays import ArraySource
from adco.data.views import View
from adco.data.workers import STOPPING, signals_held

pytestmark = pytest.mark.slow

# A script as a beginner writes it, without `if __name__ == "__main__"`; `METHOD` is how Python starts processes.
SCRIPT = """
import multiprocessing, os, sys
multiprocessing.set_start_method(sys.argv[1], force=True)
open(sys.argv[2] + "/began-%d" % os.getpid(), "w").close()
import numpy as np
import adco
{own}
images = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), np.uint8)
run = adco.pretrain(
    data=images, method="simclr", epochs=1, batch_size=16, workers=2, accelerator="cpu", hidden=16, dim=8,
    backbone_args={{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}}, out=sys.argv[2] + "/run", {more}
)
backbone, _ = adco.load_backbone(run / "backbone.safetensors")
print("done")
"""
OWN = """
import torch
def augment(image):
    return torch.as_tensor(image).permute(2, 0, 1)
"""


def run_script(folder: Path, method: str, own: str = "", more: str = "") -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(own=own, more=more))
    return subprocess.run(
        [sys.executable, str(script), method, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.fault('a script without `if __name__ == "__main__"`, where processes are not forked')
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard_does_not_start_itself_over(tmp_path: Path, method: str) -> None:
    done = run_script(tmp_path, method)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert len(list(tmp_path.glob("began-*"))) == 1


@pytest.mark.fault(
    'a script without `if __name__ == "__main__"` that defines what workers need, where processes are not forked'
)
def test_a_script_that_workers_need_says_how_to_write_it(tmp_path: Path, report: Callable[..., None]) -> None:
    done = run_script(tmp_path, "spawn", OWN, "augment=augment")
    report(says=f"{done.stderr.splitlines()[0]}")
    assert done.returncode == 1
    assert 'write the calls of adco below `if __name__ == "__main__":`' in done.stderr
    assert not (tmp_path / "run").exists()


LOADER = """
import multiprocessing, os, sys, time
import numpy as np
from adco.data.loader import Loader, Order
from adco.data.sources.arrays import ArraySource
from adco.data.views import View
from adco.data.workers import STOPPING, signals_held
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    source = ArraySource("noise", np.zeros((64, 8, 8, 3), np.uint8), None, ())
    batches = iter(Loader(source, [View(size=8)], Order(64, batch_size=4, seed=0), workers=2))
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


@pytest.mark.fault("a process with workers is killed: they end as well")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, method: str) -> None:
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    with subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(_is_running(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _batches(workers: int) -> list[list[torch.Tensor]]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    loader = Loader(
        ArraySource("noise", noise, None, ()),
        [View(size=8), View(size=6)],
        Order(64, batch_size=16, seed=0),
        workers=workers,
    )
    return [[*batch.views, batch.indices] for batch in loader]


def test_batches_are_the_same_where_shared_memory_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _batches(0)
    monkeypatch.setattr(shared_memory, "fits_shared_memory", lambda batch, workers: False)
    monkeypatch.setattr("adco.data.loader.fits_shared_memory", lambda batch, workers: False)
    found = _batches(2)
    assert len(found) == len(expected) == 4
    for mine, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


SMALL = """
mount -t tmpfs -o size=1M tmpfs /dev/shm || exit 77
exec "$@"
"""
LARGE_BATCHES = """
import json, logging, sys
import numpy as np
logging.basicConfig(level=logging.INFO)
from adco.data.loader import Loader, Order
from adco.data.sources.arrays import ArraySource
from adco.data.views import View
from adco.data.workers import STOPPING, signals_held
source = ArraySource("noise", np.zeros((64, 8, 8, 3), np.uint8), None, ())
loader = Loader(source, [View(size=128)], Order(64, batch_size=16, seed=0), workers=2)
print(json.dumps([list(batch.views[0].shape) for batch in loader]))
"""


@pytest.mark.fault("/dev/shm is smaller than the batches of workers, as in Docker")
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_batches_larger_than_shared_memory_pass_through_pipes(report: Callable[..., None]) -> None:
    """Docker's /dev/shm of 64 MB, on a smaller scale: 0.8 MB a batch, and 1 MB."""
    command = ["unshare", "--mount", "sh", "-c", SMALL, "sh", sys.executable, "-c", LARGE_BATCHES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[16, 3, 128, 128]] * 4
    line = "loader workers pass batches through pipes, because these may need 5 MB of /dev/shm, which has 1 MB"
    assert line in done.stderr
    report(says=f"adco: {line}")


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("threads", [0, 4])
def test_a_signal_ends_no_worker_that_has_just_started_and_reaches_the_run(number: int, threads: int) -> None:
    """With more threads, as those of PyTorch, one of them may take the signal inside the block."""
    received = []
    done = threading.Event()
    before = signal.signal(number, lambda *arguments: received.append(number))
    try:
        for _ in range(threads):
            threading.Thread(target=done.wait, daemon=True).start()
        with signals_held():
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.3,))
            worker.start()
            assert worker.pid is not None
            for process in (worker.pid, os.getpid()):
                os.kill(process, number)
        worker.join()
        assert worker.exitcode == 0
        assert received == [number]
    finally:
        done.set()
        signal.signal(number, before)
