"""`adco report`: a run, or a backbone, as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from adco.cli.imports import import_lightning


def report(arguments: Sequence[str]) -> int:
    """Run `adco report`."""
    from adco.config.commands import ReportSettings
    from adco.config.load import Parser

    purpose = "Write a report on a run, or on a backbone and images, as one HTML file to look at and to send."
    parser = Parser([ReportSettings], "adco report", purpose, "[RUN]")
    parser.add_argument("run", nargs="?", metavar="RUN", help="run directory; by default the newest run")
    flags = parser.read_flags(arguments)
    (settings,) = parser.construct(flags)
    import_lightning()
    from adco.reporting.report import report as write_report

    print(write_report(Path(flags.run) if flags.run else None, settings))
    return 0
