"""`adco demo`: pretrain on CIFAR-10 without labels, and show what was learned."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from adco.cli.imports import import_lightning
from adco.cli.tables import print_results


def demo(arguments: Sequence[str]) -> int:
    """Run `adco demo`."""
    from adco.config.commands import DemoSettings
    from adco.config.load import Parser

    parser = Parser([DemoSettings], "adco demo", "Pretrain on CIFAR-10 without labels, and show what was learned.")
    flags = parser.read_flags(arguments)
    import_lightning()
    from adco.demo import run_demo, what_happened
    from adco.training.errors import Interrupted

    started = time.monotonic()
    try:
        results = run_demo(Path(flags.out), flags.seed)
    except Interrupted as stop:
        print(f"adco: {stop.done}; adco demo continues from the last checkpoint", file=sys.stderr)
        return stop.exit_code
    print_results(results, flags.out)
    print(f"{time.monotonic() - started:.0f} s in all; numbers, pictures and the backbone are in {flags.out}/")
    print(what_happened(Path(flags.out), results["linear"]))
    return 0
