"""`adco evaluate`: classify labelled images with a frozen backbone."""

from collections.abc import Sequence
from pathlib import Path

from adco.cli.tables import print_results


def evaluate(arguments: Sequence[str]) -> int:
    """Run `adco evaluate`."""
    from adco.config.commands import EvaluateSettings
    from adco.config.load import Parser

    parser = Parser(
        EvaluateSettings, "adco evaluate", "Classify labelled images with a frozen backbone.", "{knn,linear} [RUN]"
    )
    parser.add_argument(
        "kind", choices=["knn", "linear"], metavar="{knn,linear}", help="weighted nearest neighbours, or a linear probe"
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="run directory, checkpoint or backbone.safetensors; by default the newest run",
    )
    flags = parser.read_flags(arguments)
    settings = EvaluateSettings(**{name: flags[name] for name in parser.names})
    settings.check()
    from adco.evaluation.results import result_file
    from adco.evaluation.runs import evaluate_run, run_of
    from adco.launcher import is_first_rank
    from adco.runs.directory import newest_run

    run = None if settings.backbone and not flags.run else flags.run or str(newest_run().path)
    result = evaluate_run(flags.kind, Path(run) if run else None, settings)
    if is_first_rank():
        print_results({flags.kind: result}, run or f"{settings.backbone} ({settings.weights or 'random weights'})")
        if run:
            print(f"all figures and a picture of the confusion: {result_file(run_of(Path(run)), result['evaluation'])}")
    return 0
