"""The `adco` command: parse, call, print. What is heavy is imported inside the commands, so that --help is instant."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adco.words import counted

if TYPE_CHECKING:
    from adco.configure import Parser
    from adco.settings import PretrainSettings

HELP = """\
usage: adco COMMAND [--help] ...
       adco --version

Image representations without labels, by adversarial contrast (AdCo, CVPR 2021).

commands:
  demo       pretrain on CIFAR-10 for three epochs, and show what was learned
  pretrain   pretrain a backbone on your images, into a run directory
  evaluate   classify labelled images with a frozen backbone: knn or linear
  compare    train the rows of a table alike, several seeds each, and print it
  recipes    list the recipes, or show one

examples:
  adco demo
  adco pretrain photos/
  adco pretrain --recipe cifar10_demo --seed 1
  adco pretrain --resume runs/adco-photos-20260101-120000
  adco evaluate knn runs/adco-photos-20260101-120000 --data labelled/
  adco evaluate linear --floors
  adco compare cifar10_table5
"""


def main() -> None:
    """Run the command; exits with 2 for a mistake of the user's, with 128 + the signal's number for a run stopped."""
    _keep_pages()
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `adco recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + 13  # SIGPIPE, as a shell reports it
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    # Threads that wait in a loop take the core from whoever has work: measured here, training beside another busy
    # process was 20 times slower so. Torch's OpenMP reads this when it is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        import adco

        print(f"adco {adco.__version__}")
        return 0
    _quieten()
    name, *rest = arguments
    commands = {"pretrain": pretrain, "evaluate": evaluate, "compare": compare, "demo": demo, "recipes": show_recipes}
    try:
        if name not in commands:
            raise ValueError(_unknown_command(name, list(commands)))
        return commands[name](rest)
    except ValueError as error:
        print(f"adco: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder that may not be written to
        of_file = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"adco: {of_file}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # outside training, which handles the signal itself
        print("adco: stopped", file=sys.stderr)
        return 130


def pretrain(arguments: Sequence[str]) -> int:
    """`adco pretrain`."""
    from adco.configure import pretrain_parser, pretrain_settings, read_recipe

    recipe = _value_of("--recipe", arguments)
    values = read_recipe(recipe) if recipe else {}
    parser = pretrain_parser(_value_of("--method", arguments) or values.get("method", "adco"))
    parser.add_argument("images", nargs="?", metavar="DATA", help="folder of images or named set; the same as --data")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="settings to start from; flags go over them")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run directory; takes no other flag than --epochs")
    parser.add_argument("--print_config", action="store_true", help="print every setting and stop")
    parser.add_argument("--dry-run", action="store_true", help="measure some steps, print what a run costs, and stop")
    shown = "--print_config"  # jsonargparse has a flag of this name that it gives an empty value before parsing
    arguments = parser.spelled(arguments)
    helps = [argument for argument in arguments if argument in ("-h", "--help")]
    flags = parser.read_flags([argument for argument in arguments if argument not in (shown, *helps)])
    given = {name: flags[name] for name in parser.names if _given(name, arguments)}
    if flags.resume and not helps:
        if given.keys() - {"epochs"} or flags.recipe or flags.dry_run or shown in arguments:
            raise ValueError("--resume takes its settings from the run directory, except --epochs: leave out the rest")
        return _train(resume=flags.resume, **given)
    given |= _positional_data(flags.images, given)
    settings = pretrain_settings(recipe, **given)
    if helps:
        return _print_help(parser, settings)
    settings.require_data()
    settings.check()
    if shown in arguments:
        return _print_config(settings)
    if flags.dry_run:
        print("adco: starting …", file=sys.stderr, flush=True)  # PyTorch takes a while to load
        from adco.rehearsal import dry_run

        print(dry_run(settings))
        return 0
    return _train(recipe=recipe, **given)


def _positional_data(images: str | None, given: Mapping[str, Any]) -> dict[str, str]:
    """The data of `adco pretrain photos/`."""
    if images is None:
        return {}
    if "data" in given:
        raise ValueError(f"data is given twice, {images} and --data {given['data']}: leave one out")
    from adco import recipes

    if images in recipes.names() and not Path(images).exists():
        raise ValueError(f"data {images!r} is a recipe: try adco pretrain --recipe {images}")
    return {"data": images}


def _print_help(parser: "Parser", settings: "PretrainSettings") -> int:
    """Print every flag, with what is chosen for the data where it is given and on this machine."""
    if settings.data:
        from adco.data.sources import is_here

        with suppress(ValueError):  # where a run would fail, help is still help
            settings.check()
            if is_here(settings.data):
                parser.chosen = vars(_chosen(settings))
    print(parser.format_help())
    return 0


def _print_config(settings: "PretrainSettings") -> int:
    """Print what would run as YAML; where the data is not on this machine, the settings as they are given."""
    import yaml

    from adco.data.sources import is_here
    from adco.settings import to_dict

    data = settings.require_data()
    if is_here(data):
        if settings.minutes is not None:
            note = f"minutes {settings.minutes:g} chooses the epochs when the run starts, and other settings by them"
            print(f"# {note}: shown are those of {settings.epochs} epochs", file=sys.stderr)
        settings = _chosen(settings)
    else:
        print(f"# data {data} is not on this machine: null and auto are chosen where it is", file=sys.stderr)
    print(yaml.safe_dump(to_dict(settings), sort_keys=False, default_flow_style=None), end="")
    return 0


def _chosen(settings: "PretrainSettings") -> "PretrainSettings":
    """The settings with everything that is chosen for the data."""
    from adco.pretraining import training_images
    from adco.resolve import resolve

    return resolve(settings, training_images(settings))


def _train(**settings: Any) -> int:
    """Call `adco.pretrain`; say how to go on if it was stopped."""
    print("adco: starting …", file=sys.stderr, flush=True)  # PyTorch takes a while to load
    from adco.api import pretrain as train
    from adco.callbacks import CollapsedError, Interrupted, NotFiniteError
    from adco.distributed import is_first_rank

    try:
        run = train(**settings)
        if is_first_rank():
            print(run)
    except Interrupted as stop:
        if is_first_rank():
            print(f"adco: {stop}", file=sys.stderr)
        return stop.exit_code
    except (NotFiniteError, CollapsedError) as error:
        print(f"adco: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """`adco evaluate`."""
    from adco.configure import Parser
    from adco.settings import EvaluateSettings

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
    from adco.distributed import is_first_rank
    from adco.evaluation.results import result_file
    from adco.evaluation.runs import evaluate_run, run_of
    from adco.run_directory import newest_run

    run = None if settings.backbone and not flags.run else flags.run or str(newest_run().path)
    result = evaluate_run(flags.kind, Path(run) if run else None, settings)
    if is_first_rank():
        _print_results({flags.kind: result}, run or f"{settings.backbone} ({settings.weights or 'random weights'})")
        if run:
            print(f"all figures and a picture of the confusion: {result_file(run_of(Path(run)), result['evaluation'])}")
    return 0


def compare(arguments: Sequence[str]) -> int:
    """`adco compare`."""
    from adco.configure import Parser
    from adco.settings import CompareSettings

    parser = Parser(CompareSettings, "adco compare", "Train the rows of a table alike and print it.", "RECIPE")
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a comparison of the package by name, or a YAML file: shared, seeds, rows"
    )
    parser.add_argument("--dry-run", action="store_true", help="build each row and step twice on noise, no more")
    flags = parser.read_flags(arguments)
    from adco.callbacks import CollapsedError, Interrupted, NotFiniteError

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
    from adco.comparison import RunsFailed, caption, do_one, statements
    from adco.comparison import compare as run_comparison
    from adco.comparison.table import COLUMNS

    out = Path(flags.out or Path("runs") / Path(flags.recipe).stem)
    try:
        if flags.only:
            return do_one(flags.recipe, out, flags.only)
        table = run_comparison(flags.recipe, out)
    except Interrupted as stop:
        if not flags.only:
            print("adco: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return stop.exit_code
    except (NotFiniteError, CollapsedError, RunsFailed) as error:
        print(f"adco: {error}", file=sys.stderr)
        return 1
    print(caption(table))
    _print_table(COLUMNS, table.lines())
    for statement in statements(table):
        print(statement.replace("**", ""))
    print(f"table.json, table.md and table.png are in {out}/")
    return 0


def demo(arguments: Sequence[str]) -> int:
    """`adco demo`."""
    from adco.configure import Parser
    from adco.settings import DemoSettings

    parser = Parser(DemoSettings, "adco demo", "Pretrain on CIFAR-10 without labels, and show what was learned.")
    flags = parser.read_flags(arguments)
    from adco.callbacks import CollapsedError, Interrupted, NotFiniteError
    from adco.demo import run_demo, what_happened

    started = time.monotonic()
    try:
        results = run_demo(Path(flags.out), flags.seed)
    except Interrupted as stop:
        print(f"adco: {stop.done}; adco demo goes on from the last checkpoint", file=sys.stderr)
        return stop.exit_code
    except (NotFiniteError, CollapsedError) as error:
        print(f"adco: {error}", file=sys.stderr)
        return 1
    _print_results(results, flags.out)
    print(f"{time.monotonic() - started:.0f} s in all; numbers, pictures and the backbone are in {flags.out}/")
    print(what_happened(Path(flags.out), results["linear"]))
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


def _print_results(results: Mapping[Any, Any], of: str) -> None:
    """A table for each kind of evaluation: the floors, the backbone and the majority baseline."""
    from rich.console import Console

    from adco.evaluation import results_table

    for kind, result in results.items():
        images = f"{result['protocol']['train_images']} training and {counted(result['images'], 'test image')}"
        print(f"{kind} of {of} on {result['data']}: {images}, {len(result['per_class'])} classes")
        print(_protocol(result))
        floors = result.get("floors", {})
        rows = [*((name, floors[name]) for name in reversed(floors)), ("this backbone", result)]
        Console().print(results_table(rows))


def _protocol(result: Mapping[str, Any]) -> str:
    """How the backbone's scores were made, in a line."""
    told, asked = result["protocol"], result["evaluation"]
    if told["kind"] == "knn":
        fewer = f", all there are ({asked['k']} asked)" if asked["k"] and told["k"] < asked["k"] else ""
        return (
            f"each test image is classified by its k = {counted(told['k'], 'nearest training image')}{fewer}, "
            f"weighted by exp(cosine / {told['temperature']:g})"
        )
    if told.get("protocol") == "sgd":
        return f"a linear layer trained by SGD on augmented images for {counted(told['epochs'], 'epoch')}"
    return f"logistic regression on the features; its L2 of {told['l2']:g} was chosen on held-out training images"


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
    """Silence what Lightning says of itself and print our own lines."""
    import logging
    import warnings

    from adco.quiet import LOGGERS, StderrHandler

    own = logging.getLogger("adco")
    if not own.handlers:
        handler = StderrHandler()
        handler.setFormatter(logging.Formatter("adco: %(message)s"))
        own.addHandler(handler)
        own.setLevel(logging.INFO)
        own.propagate = False

    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _print_warning(str(message))


@cache  # once: a rehearsal chooses the settings anew, with the same warnings
def _print_warning(text: str) -> None:
    print(f"adco: warning: {text}", file=sys.stderr)


def _unknown_command(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown command {name}: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")


if __name__ == "__main__":
    main()
