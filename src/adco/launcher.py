"""What a launcher (torchrun, SLURM, Lightning) has told this process."""

import os


def is_first_rank() -> bool:
    """Return True on global rank 0. Works before torch.distributed is initialised."""
    return all(int(os.environ.get(name, "0")) == 0 for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
