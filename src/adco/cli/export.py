"""`adco export`: write a backbone to a file or folder that other programs load."""

from collections.abc import Sequence
from pathlib import Path


def export(arguments: Sequence[str]) -> int:
    """Run `adco export`."""
    from adco.config.commands import ExportSettings
    from adco.config.load import Parser

    parser = Parser([ExportSettings], "adco export", "Write a backbone for other programs.", "[RUN]")
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="run directory, checkpoint or backbone.safetensors; by default the newest run",
    )
    flags = parser.read_flags(arguments)
    (settings,) = parser.construct(flags)
    settings.check()
    from adco.exporting.export import export as export_backbone

    exported = export_backbone(settings, Path(flags.run) if flags.run else None)
    compared = f"its features differ from the backbone's by {exported.difference:.1g} of the largest"
    print(f"{exported.path}: written, and loaded again: {compared}")
    print(f"images: {exported.images}")
    print(exported.line)
    return 0
