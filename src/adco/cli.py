"""The `adco` command: parse, call, print. What is heavy is imported inside the commands, so that --help is instant."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HELP = """\
usage: adco COMMAND [--help] ...

Image representations without labels, by adversarial contrast (AdCo, CVPR 2021).

commands:
  demo       pretrain on CIFAR-10 for three epochs, and show what was learned
  pretrain   pretrain a backbone on your images, into a run directory
  evaluate   classify labelled images with a frozen backbone: knn or linear
  compare    train the rows of a table alike, several seeds each, and print it
  recipes    list the recipes, or show one

examples:
  adco demo
  adco pretrain --data photos/ --epochs 20
  adco pretrain --recipe cifar10_demo --seed 1
  adco pretrain --resume runs/adco-photos-20260101-120000
  adco evaluate knn runs/adco-photos-20260101-120000 --data labelled/
  adco evaluate linear --floors
  adco compare cifar10_table5
"""


def main() -> None:
    """Run the command; exits with 2 for a mistake of the user's, with 128 + the signal's number for a run stopped."""
    _keep_pages()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    # Threads that wait in a loop take the core from whoever has work: measured here, training beside another busy
    # process was 20 times slower so. Torch's OpenMP reads this when it is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    name, *rest = arguments
    commands = {"pretrain": pretrain, "evaluate": evaluate, "compare": compare, "demo": demo, "recipes": show_recipes}
    try:
        if name not in commands:
            raise ValueError(_unknown_command(name, list(commands)))
        return commands[name](rest)
    except ValueError as error:
        print(f"adco: {error}", file=sys.stderr)
        return 2


def pretrain(arguments: Sequence[str]) -> int:
    """`adco pretrain`."""
    from adco.configure import build, pretrain_parser, read_recipe

    recipe = _value_of("--recipe", arguments)
    values = read_recipe(recipe) if recipe else {}
    parser = pretrain_parser(_value_of("--method", arguments) or values.get("method", "adco"))
    parser.add_argument("--recipe", metavar="NAME|FILE", help="settings to start from; flags go over them")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run directory; takes no other flag")
    parser.add_argument("--print_config", action="store_true", help="print every setting and stop")
    shown = "--print_config"  # jsonargparse has a flag of this name that it gives an empty value before parsing
    flags = parser.read_flags([argument for argument in arguments if argument != shown])
    if flags.resume:
        if len(arguments) != (1 if any(argument.startswith("--resume=") for argument in arguments) else 2):
            raise ValueError("--resume takes its settings from the run directory: leave out the other flags")
        return _train(resume=flags.resume)
    given = {name for name in parser.names if _given(name, arguments)}
    settings = build(parser, {**values, **{name: flags[name] for name in given}})
    settings.check()
    if shown in arguments:
        import yaml

        from adco.settings import to_dict

        print(yaml.safe_dump(to_dict(settings), sort_keys=False, default_flow_style=None), end="")
        return 0
    return _train(**settings.__dict__)


def _train(**settings: Any) -> int:
    """Call `adco.pretrain`; say how to go on if it was stopped."""
    from adco.api import pretrain as train
    from adco.callbacks import Interrupted, NotFiniteError

    _quieten()
    try:
        print(train(**settings))
    except Interrupted as stop:
        print(f"adco: {stop}", file=sys.stderr)
        return stop.exit_code
    except NotFiniteError as error:
        print(f"adco: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """`adco evaluate`."""
    from adco.configure import Parser
    from adco.settings import EvaluateSettings

    parser = Parser(EvaluateSettings, "adco evaluate", "Classify labelled images with a frozen backbone.")
    parser.add_argument("kind", choices=["knn", "linear"], help="weighted nearest neighbours, or a linear probe")
    parser.add_argument("run", nargs="?", help="run directory, checkpoint or backbone.safetensors; none for the newest")
    flags = parser.read_flags(arguments)
    settings = EvaluateSettings(**{name: flags[name] for name in parser.names})
    settings.check()
    from adco.distributed import is_first_rank
    from adco.evaluation.runs import evaluate_run

    _quieten()
    result = evaluate_run(flags.kind, Path(flags.run) if flags.run else None, settings)
    if is_first_rank():
        _print_results({flags.kind: result})
    return 0


def compare(arguments: Sequence[str]) -> int:
    """`adco compare`."""
    from adco.configure import Parser
    from adco.settings import CompareSettings

    parser = Parser(CompareSettings, "adco compare", "Train the rows of a table alike and print it.")
    parser.add_argument("recipe", help="a comparison of the package by name, or a YAML file: shared, seeds, rows")
    parser.add_argument("--dry-run", action="store_true", help="build each row and step twice on noise, no more")
    flags = parser.read_flags(arguments)
    from adco.callbacks import Interrupted, NotFiniteError

    _quieten()
    if flags.dry_run:
        from adco.comparison.dry import dry_run
        from adco.comparison.plan import read_plan

        _print_table(
            ["row", "parameters, M", "MB, batch 8", "finite", "planned steps"],
            [
                [
                    found["row"],
                    f"{found['parameters']:.1f}",
                    _or_dash(found["megabytes"]),
                    "yes" if found["finite"] else "no",
                    _or_dash(found["steps"]),
                ]
                for found in dry_run(read_plan(flags.recipe))
            ],
        )
        return 0
    from adco.comparison import RunsFailed, claims, do_one
    from adco.comparison import compare as run_comparison
    from adco.comparison.table import COLUMNS

    out = Path(flags.out or Path("runs") / Path(flags.recipe).stem)
    try:
        if flags.only:
            return do_one(flags.recipe, out, flags.only)
        table = run_comparison(flags.recipe, out)
    except Interrupted as stop:
        if not flags.only:
            print("adco: stopped and saved; the same command goes on from there", file=sys.stderr)
        return stop.exit_code
    except (NotFiniteError, RunsFailed) as error:
        print(f"adco: {error}", file=sys.stderr)
        return 1
    _print_table(COLUMNS, table.lines())
    for claim in claims(table.entries):
        print(f"{claim.number}. {claim.sentence().replace('**', '')}")
    print(f"table.json, table.md and table.png are in {out}/")
    return 0


def demo(arguments: Sequence[str]) -> int:
    """`adco demo`."""
    from adco.configure import Parser
    from adco.settings import DemoSettings

    parser = Parser(DemoSettings, "adco demo", "Pretrain on CIFAR-10 without labels, and show what was learned.")
    flags = parser.read_flags(arguments)
    from adco.callbacks import Interrupted
    from adco.demo import run_demo

    _quieten()
    started = time.monotonic()
    try:
        results = run_demo(Path(flags.out), flags.seed)
    except Interrupted:
        print("adco: stopped and saved; adco demo goes on from there", file=sys.stderr)
        return 130
    _print_results(results)
    print(f"{time.monotonic() - started:.0f} s in all; numbers, pictures and the backbone are in {flags.out}/")
    return 0


def show_recipes(arguments: Sequence[str]) -> int:
    """`adco recipes`."""
    from adco import recipes

    if arguments and not arguments[0].startswith("-"):
        print(recipes.find(arguments[0]).read_text(), end="")
        return 0
    for name in recipes.names():
        print(f"{name:36}{recipes.summary(name)}")
    return 0


def _print_results(results: Any) -> None:
    """A table of test accuracies: a row a backbone, a column a kind."""
    from rich.console import Console

    from adco.evaluation import results_table

    first = next(iter(results.values()))
    rows = [
        (floor, *(result["floors"][floor]["top1"] for result in results.values()))
        for floor in reversed(first.get("floors", {}))
    ]
    rows.append(("this backbone", *(result["top1"] for result in results.values())))
    columns = [{"knn": "kNN", "linear": "linear"}[kind] for kind in results]
    print(f"top-1 (%) on {first['data']}, {first['images']} test images")
    Console().print(results_table(rows, columns))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, 160)  # a row is one line, also in a log
    console.print(table)


def _or_dash(number: float | None) -> str:
    return "–" if number is None else f"{number:.0f}"


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What a flag is given as, before the parser is built that depends on it."""
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None


def _given(name: str, arguments: Sequence[str]) -> bool:
    return any(argument.split("=")[0] == f"--{name}" for argument in arguments)


def _keep_pages() -> None:
    """Have glibc keep the memory it frees: steps on a CPU may else give back and fault in a fifth of their time."""
    if sys.platform == "linux":
        import ctypes

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: what is free at the heap's end stays
            mallopt(-4, 0)  # M_MMAP_MAX: and all is in the heap


def _quieten() -> None:
    """Silence what Lightning says of itself; the run has its own lines."""
    import logging
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"adco: warning: {message}", file=sys.stderr)


def _unknown_command(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown command {name}: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")


if __name__ == "__main__":
    main()
