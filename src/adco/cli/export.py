"""`adco export`: write a backbone to a file or folder that other programs load."""

from collections.abc import Sequence

from adco.cli.arguments import run_and_settings


def export(arguments: Sequence[str]) -> int:
    """Run `adco export`."""
    from adco.config.commands import ExportSettings

    run, settings = run_and_settings(ExportSettings, "export", "Write a backbone for other programs.", arguments)
    settings.check()
    from adco.exporting.export import export as export_backbone

    exported = export_backbone(settings, run)
    compared = f"its features differ from the backbone's by {exported.difference:.1g} of the largest"
    print(f"{exported.path}: written, and loaded again: {compared}")
    print(f"images: {exported.images}")
    print(exported.line)
    return 0
