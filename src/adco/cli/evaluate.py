"""`adco evaluate`: classify labelled images with a frozen backbone."""

from argparse import SUPPRESS
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from adco.cli.arguments import add_run
from adco.cli.imports import import_lightning
from adco.cli.tables import print_results
from adco.errors import InputError

if TYPE_CHECKING:
    from adco.config.load import Parser


def evaluate(arguments: Sequence[str]) -> int:
    """Run `adco evaluate`."""
    from adco.config.versions import current_evaluation
    from adco.evaluation.registry import evaluation_of

    name = _evaluation_in(arguments)
    parser = _parser(name, with_help=bool({"-h", "--help"} & {*arguments}))
    flags = parser.read_flags(arguments)
    kind = current_evaluation(flags.kind, flags.protocol)
    evaluation_of(kind)  # an error if there is none of this name
    if kind != name:
        raise InputError(f"give the evaluation first: adco evaluate {kind} …")
    settings, evaluation = parser.construct(flags)
    settings.check()
    evaluation.check()
    import_lightning()
    from adco.evaluation.backbones import run_of
    from adco.evaluation.evaluate import evaluate_one
    from adco.evaluation.results import result_file
    from adco.launcher import is_first_rank
    from adco.runs.directory import newest_run

    run = None if settings.names_backbone and not flags.run else flags.run or str(newest_run().path)
    result = evaluate_one(evaluation, Path(run) if run else None, settings)
    if is_first_rank():
        network = f"{settings.backbone or 'backbone'} ({settings.weights or 'random weights'})"
        print_results({kind: result}, run or network)
        if run:
            print(f"all figures and a picture of the confusion: {result_file(run_of(Path(run)), result['evaluation'])}")
    return 0


def _evaluation_in(arguments: Sequence[str]) -> str | None:
    """Return the evaluation that the arguments name, on which the flags depend."""
    from adco.evaluation.registry import EVALUATIONS

    words = _parser(None, with_help=False).words(arguments)
    name = next((word for word in words if word in EVALUATIONS), None)
    asks_for_sgd = ("--protocol", "sgd") in pairwise(arguments) or "--protocol=sgd" in arguments
    return "linear_sgd" if name == "linear" and asks_for_sgd else name  # as earlier versions called it


def _parser(name: str | None, with_help: bool) -> "Parser":
    from adco.config.commands import EvaluateSettings
    from adco.config.help import section
    from adco.config.load import Parser
    from adco.evaluation.registry import EVALUATIONS, evaluation_of

    choices = f"{{{','.join(EVALUATIONS)}}}"
    purpose = "Classify labelled images with a frozen backbone."
    if with_help:  # only then, because the evaluations take a while to import
        rows = [(f"  {each}", (evaluation_of(each).__doc__ or "").splitlines()[0]) for each in EVALUATIONS]
        purpose = f"{purpose}\n\n{section('evaluations', rows)}"
    evaluations = [evaluation_of(name)] if name else []
    parser = Parser([EvaluateSettings, *evaluations], "adco evaluate", purpose, f"{choices} [RUN]")
    parser.add_argument("kind", metavar=choices, help="the evaluation; --help after its name shows its own settings")
    add_run(parser)
    parser.add_argument("--protocol", help=SUPPRESS)  # of earlier versions
    return parser
