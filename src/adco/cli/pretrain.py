"""`adco pretrain`: settings from the command line; help, configuration, dry run, or training."""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adco.cli.imports import import_lightning
from adco.errors import InputError, same_in_all_processes
from adco.launcher import is_first_rank

if TYPE_CHECKING:
    from adco.config.load import Parser
    from adco.config.pretrain import Given, Resolved


def pretrain(arguments: Sequence[str]) -> int:
    """Run `adco pretrain`."""
    if is_first_rank() and not {"-h", "--help", "--print_config", "--print-config"} & set(arguments):
        print("adco: starting …", file=sys.stderr, flush=True)  # importing PyTorch takes a while
    from adco.config.load import pretrain_parser, pretrain_settings, recipe_for

    recipe = _value_of("--recipe", arguments)
    values = {} if recipe is None else recipe_for("pretrain", recipe)
    method = _value_of("--method", arguments)
    parser = pretrain_parser(values.get("method", "adco") if method is None else method)
    parser.add_argument("images", nargs="?", metavar="DATA", help="folder of images or named set; the same as --data")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="settings to start from; flags go over them")
    parser.add_argument(
        "--resume",
        metavar="RUN|auto",
        help="continue a run, or one of its checkpoints epoch-N.ckpt; auto: the run in --out, or begin it there",
    )
    parser.add_argument("--changed_data", action="store_true", help="resume although files are gone or were added")
    parser.add_argument("--print_config", action="store_true", help="print every setting and stop")
    parser.add_argument("--dry-run", action="store_true", help="measure some steps, print what a run costs, and stop")
    shown = "--print_config"  # jsonargparse has a flag of this name that it gives an empty value before parsing
    arguments = parser.standard_spelling(arguments)
    helps = [argument for argument in arguments if argument in ("-h", "--help")]
    flags = parser.read_flags([argument for argument in arguments if argument not in (shown, *helps)])
    given = {name: flags[name] for name in parser.names if _given(name, arguments)}
    given |= _positional_data(flags.images, given)
    if flags.resume is not None and not helps:
        if flags.dry_run or shown in arguments:
            raise InputError("--resume continues a run: leave out --dry_run and --print_config")
        return _train(recipe=recipe, resume=flags.resume, changed_data=flags.changed_data, **given)
    settings = pretrain_settings(recipe, **given)
    if helps:
        return _print_help(parser, settings)
    with same_in_all_processes():
        settings.require_data()
        settings.check()
    if shown in arguments:
        return _print_config(settings)
    if flags.dry_run:
        import_lightning()
        from adco.training.rehearsal import dry_run

        print(dry_run(settings))
        return 0
    return _train(recipe=recipe, **given)


def _positional_data(images: str | None, given: Mapping[str, Any]) -> dict[str, str]:
    """Return the data of `adco pretrain photos/`."""
    if images is None:
        return {}
    if "data" in given:
        raise InputError(f"data is given twice, {images} and --data {given['data']}: leave one out")
    from adco.config import recipes

    if images in recipes.names() and not Path(images).exists():
        raise InputError(f"data {images!r} is a recipe: try adco pretrain --recipe {images}")
    return {"data": images}


def _print_help(parser: "Parser", settings: "Given") -> int:
    """Print every flag, with the values chosen for the data if it is given and on this machine."""
    if settings.data:
        from adco.data.sources.address import is_here

        with suppress(InputError):  # help works even if a run would fail
            settings.check()
            if is_here(settings.data):
                parser.chosen = vars(_chosen(settings))
    print(parser.format_help())
    return 0


def _print_config(settings: "Given") -> int:
    """Print the resolved settings as YAML; if the data is not on this machine, the settings as given."""
    import yaml

    from adco.config.pretrain import to_dict
    from adco.data.sources.address import is_here

    data = settings.require_data()
    if is_here(data):
        if settings.minutes != math.inf:
            note = f"minutes {settings.minutes:g} chooses the epochs when the run starts, and other settings by them"
            print(f"# {note}: shown are those of {settings.epochs} epochs", file=sys.stderr)
        shown: Given | Resolved = _chosen(settings)
    else:
        shown = settings
        print(f"# data {data} is not on this machine: null and auto are chosen where it is", file=sys.stderr)
    print(yaml.safe_dump(to_dict(shown), sort_keys=False, default_flow_style=None), end="")
    return 0


def _chosen(settings: "Given") -> "Resolved":
    """Resolve the settings for their data."""
    import_lightning()
    from adco.config.resolve import resolve
    from adco.training.opening import open_training_images

    return resolve(settings, open_training_images(settings))


def _train(**settings: Any) -> int:
    """Call `adco.pretrain` and print the run directory."""
    import_lightning()
    from adco.api import pretrain as train

    run = train(**settings)
    if is_first_rank():
        print(run)
    return 0


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Return the value of a flag on which the parser itself depends."""
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None


def _given(name: str, arguments: Sequence[str]) -> bool:
    return any(argument.split("=")[0] == f"--{name}" for argument in arguments)
