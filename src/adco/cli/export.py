"""`adco export`: write a backbone or a classifier to a file or folder that other programs load."""

from collections.abc import Sequence

from adco.cli.arguments import run_and_settings

SHOWN = 20  # class names on a line


def export(arguments: Sequence[str]) -> int:
    """Run `adco export`."""
    from adco.config.commands import ExportSettings

    run, settings = run_and_settings(
        ExportSettings, "export", "Write a backbone, or a fine-tuned classifier, for other programs.", arguments
    )
    settings.check()
    from adco.exporting.export import export as export_backbone

    exported = export_backbone(settings, run)
    output, source = ("logits", "classifier") if exported.classes else ("features", "backbone")
    compared = f"its {output} differ from the {source}'s by {exported.difference:.1g} of the largest"
    print(f"{exported.path}: written, and loaded again: {compared}")
    print(f"images: {exported.images}")
    if exported.classes:
        print(f"classes: {', '.join(exported.classes[:SHOWN])}{', …' if len(exported.classes) > SHOWN else ''}")
    print(exported.line)
    return 0
