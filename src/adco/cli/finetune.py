"""`adco finetune`: train a classifier from a backbone and labelled images."""

from collections.abc import Sequence
from pathlib import Path

from adco.cli.arguments import add_run
from adco.cli.imports import import_lightning
from adco.launcher import is_first_rank


def finetune(arguments: Sequence[str]) -> int:
    """Run `adco finetune`."""
    from adco.finetuning.config import finetune_parser

    parser = finetune_parser()
    add_run(parser, " to start from")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="settings to start from; flags go over them")
    parser.add_argument(
        "--resume",
        metavar="RUN|auto",
        help="continue an interrupted fine-tuning, without other flags; auto: the one in --out, or begin it there",
    )
    arguments = parser.standard_spelling(arguments)
    flags = parser.read_flags(arguments)
    given = {name: flags[name] for name in parser.names if any(part.split("=")[0] == f"--{name}" for part in arguments)}
    import_lightning()
    from adco.api import finetune as train

    run = train(flags.run, recipe=flags.recipe, resume=flags.resume, **given)
    if is_first_rank():
        _print_scores(run)
    return 0


def _print_scores(path: Path) -> None:
    """Print the accuracy on the test images, and what is in the run directory."""
    from rich.console import Console

    from adco.cli.tables import scores_table
    from adco.finetuning.result import read_scores
    from adco.runs.directory import RunDirectory
    from adco.words import counted

    result = read_scores(RunDirectory(path))
    protocol = result["protocol"]
    images = f"{protocol['train_images']:,} training and {counted(result['images'], 'test image')}"
    print(f"finetune on {result['data']}: {images}, {len(result['per_class'])} classes")
    print(f"kept: epoch {protocol['epoch']} of {protocol['epochs']}")
    Console().print(scores_table([("fine-tuned", result)]))
    print(f"classifier, backbone and the picture of the confusion are in {path}")
