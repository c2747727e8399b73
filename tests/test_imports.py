"""What the command imports before it trains."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from adco.cli.imports import import_lightning
import_lightning()
import adco.api
import adco.training.pretrain
print(*sys.modules)
import scipy.signal, matplotlib.pyplot  # both can still be imported
from lightning_utilities.core.imports import RequirementCache, package_available
assert RequirementCache("scipy") and package_available("scipy")
"""


@pytest.mark.slow
def test_the_command_imports_nothing_slow_that_it_does_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"lightning", "torchmetrics", "timm", "numba"} <= imported
    slow = {"scipy.signal", "scipy.stats", "matplotlib", "sklearn", "tensorboard", "datasets", "pandas"}
    assert not slow & imported
