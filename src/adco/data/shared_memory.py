"""Whether batches fit into the shared memory by which PyTorch's loader workers pass them on. Docker gives it 64 MB."""

import logging
import shutil
from functools import cache
from pathlib import Path

from adco.launcher import processes_here

SHARED = Path("/dev/shm")
logger = logging.getLogger("adco")


def fits_shared_memory(batch: int, workers: int) -> bool:
    """Return whether there is room for the batches that the workers of all processes of this machine make in advance.

    Args:
        batch: bytes.
        workers: of this process.
    """
    if not workers or not SHARED.is_dir():
        return True
    needed = (2 * workers + 2) * batch * processes_here()  # each worker makes two in advance; two are with the trainer
    free = shutil.disk_usage(SHARED).free
    if needed < 0.9 * free:
        return True
    _say(f"{needed / 1e6:.0f} MB", f"{free / 1e6:.0f} MB", f"{max(1, -(-2 * needed // 10**9))}g")
    return False


@cache
def _say(needed: str, free: str, enough: str) -> None:
    logger.info(
        f"loader workers pass batches through pipes, because these may need {needed} of {SHARED}, which has {free} "
        f"(docker run --shm-size={enough} would be somewhat faster)"
    )
