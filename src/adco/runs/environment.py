"""The environment of a run: versions and machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("adco", "torch", "torchvision", "timm", "lightning", "numpy", "Pillow")


def environment() -> dict[str, Any]:
    """Return the versions of Python and of the main packages, and a description of the machine."""
    machine = {"platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "packages": packages, "machine": machine}


def _processor() -> str:
    """Return the processor's model name. On Linux, `platform.processor` does not."""
    known = Path("/proc/cpuinfo")
    for line in known.read_text().splitlines() if known.is_file() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()
