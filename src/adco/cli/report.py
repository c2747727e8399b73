"""`adco report`: a run, or a backbone, as one HTML file."""

from collections.abc import Sequence

from adco.cli.arguments import run_and_settings
from adco.cli.imports import import_lightning


def report(arguments: Sequence[str]) -> int:
    """Run `adco report`."""
    from adco.config.commands import ReportSettings

    purpose = "Write a report on a run, or on a backbone and images, as one HTML file to look at and to send."
    run, settings = run_and_settings(ReportSettings, "report", purpose, arguments)
    import_lightning()
    from adco.reporting.report import report as write_report

    print(write_report(run, settings))
    return 0
