"""What a launcher (torchrun, SLURM, Lightning) has told this process."""

import os

RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")  # the first rank has 0 in all of them


def is_first_rank() -> bool:
    """Return True on global rank 0. Works before torch.distributed is initialised."""
    return all(int(os.environ.get(name, "0")) == 0 for name in RANKS)
