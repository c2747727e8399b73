"""Settings from recipes, flags and keywords, all read by one parser, with one-line error messages."""

import difflib
import math
import re
from argparse import Action, HelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from adco.config import recipes
from adco.config.help import plain_help, pretrain_help
from adco.config.pretrain import Given, PretrainSettings
from adco.config.registry import settings_of
from adco.config.versions import current_names, of_earlier_versions, with_defaults
from adco.errors import InputError, same_in_all_processes
from adco.untrusted import read_yaml

# Names of settings in other programs → the names here.
NAMES_ELSEWHERE = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "arch": "backbone",
    "model": "backbone",
    "dataset": "data",
    "data_dir": "data",
    "data_path": "data",
    "size": "image_size",
    "img_size": "image_size",
    "gpus": "devices",
    "num_workers": "workers",
    "output": "out",
    "output_dir": "out",
    "ckpt": "resume",
    "config": "recipe",
}
ALIASES = {"continue": "continue_method"}  # Python does not allow a setting of this name
UNSUPPORTED = {"pretrained": "give --weights pretrained"}  # settings of other programs

# jsonargparse's names of types → words for error messages.
TYPE_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
TYPE_NAMES |= dict.fromkeys(("tuple", "list"), "a list as --help shows it") | {"dict": "a mapping, {name: value}"}


class Parser(ArgumentParser):
    """A parser whose flags are the fields of one or several settings classes.

    Args:
        settings: the settings classes.
        prog: the command, for its help.
        description: what the command does.
        arguments: the command's positional arguments, as its help shows them.
    """

    def __init__(self, settings: Sequence[type[Any]], prog: str, description: str, arguments: str = "") -> None:
        self.actions: list[Action] = []
        super().__init__(prog=prog, exit_on_error=False, allow_abbrev=False)
        self.settings, self.purpose, self.arguments = settings, description, arguments
        self.chosen: Mapping[str, Any] = {}  # the settings chosen for the user's data, for --help
        all_fields = [field for kind in settings for field in fields(kind)]
        self.names = [field.name for field in all_fields]
        self.types = {field.name: _as_given(field.type) for field in all_fields}
        explained = {name: words for kind in settings for name, words in _explanations(kind).items()}
        for field in all_fields:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            kind, words = self.types[field.name], explained[field.name]
            self.add_argument(f"--{field.name}", type=kind, default=default, help=words)

    def add_argument(self, *args: Any, **kwargs: Any) -> Action:
        action: Action = super().add_argument(*args, **kwargs)
        self.actions.append(action)
        return action

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        first = self.settings[0]
        if issubclass(first, PretrainSettings):
            return pretrain_help(first, self.types, self.actions, self.chosen)
        usage = " ".join([self.prog, *self.arguments.split(), "[--FLAG VALUE ...]"])
        return plain_help(self.settings, self.types, usage, self.purpose, self.actions)

    def standard_spelling(self, flags: Sequence[str]) -> list[str]:
        """Return the flags in standard spelling: --image_size for --image-size, and the current names for old ones."""
        spellings = {_bare(option): option for option in self._known() if option.startswith("--")}
        spellings |= {alias: f"--{name}" for alias, name in ALIASES.items() if name in self.names}
        present = current_names([_bare(flag) for flag in flags if flag.startswith("--")], self.names)

        def spell(flag: str) -> str:
            name, *value = flag.split("=", 1)
            return "=".join([spellings.get(present[_bare(flag)], name), *value])

        return [spell(flag) if flag.startswith("--") else flag for flag in flags]

    @same_in_all_processes()
    def read_flags(self, flags: Sequence[str]) -> Namespace:
        """Parse flags.

        Raises:
            InputError: with a one-line message; for an unknown flag it names the nearest known one.
        """
        flags = self.standard_spelling(flags)
        known = self._known()
        for flag in flags:
            name = flag.split("=")[0]
            if name.startswith("--") and name not in known:
                raise InputError(_unknown("flag", name, known))
        try:
            words, rest = self._divided(self._with_true(flags))
            namespace: Namespace = self.parse_args(
                [*words, *rest]
            )  # argparse accepts positional arguments only together
        except ArgumentError as error:
            raise InputError(one_line(error)) from error
        return namespace

    def construct(self, values: Namespace) -> list[Any]:
        """Return an instance of each settings class."""
        return [kind(**{field.name: values[field.name] for field in fields(kind)}) for kind in self.settings]

    def _known(self) -> set[str]:
        return {option for action in self.actions for option in action.option_strings}

    def _with_true(self, flags: Sequence[str]) -> list[str]:
        """Add the value to boolean flags without one: --symmetric alone means --symmetric true."""
        switches = {f"--{name}" for name, kind in self.types.items() if kind is bool}
        followed = zip(flags, [*flags[1:], ""], strict=False)  # not strict: there may be no flags
        return [
            f"{flag}=true" if flag in switches and after not in ("true", "false") else flag for flag, after in followed
        ]

    def words(self, arguments: Sequence[str]) -> list[str]:
        """Return the positional arguments: those that are neither a flag nor a flag's value."""
        return self._divided(self._with_true(arguments))[0]

    def _divided(self, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
        """Divide arguments into positional ones, and flags with their values."""
        with_value = {option for action in self.actions if action.nargs != 0 for option in action.option_strings}
        words: list[str] = []
        flags: list[str] = []
        for before, argument in zip(["", *arguments], arguments, strict=False):
            is_word = before not in with_value and not argument.startswith("-")
            (words if is_word else flags).append(argument)
        return words, flags

    @same_in_all_processes()
    def read_values(self, values: Mapping[str, Any]) -> Namespace:
        """Check the types of a mapping of settings, and add the defaults of the others.

        Raises:
            InputError: with a one-line message; for an unknown setting it names the nearest known one.
        """
        known = set(self.names)
        for name, value in values.items():
            if name not in known:
                raise InputError(_unknown("setting", str(name), known))
            if value is None and type(None) not in get_args(self.types[name]):  # jsonargparse would accept it
                raise InputError(f"{name} has no value: give one, or leave it out")
        try:
            namespace: Namespace = self.parse_object({name: _plain(value) for name, value in values.items()})
        except ArgumentError as error:
            raise InputError(one_line(error)) from error
        return namespace


def pretrain_settings(recipe: str | Path | None = None, **values: Any) -> Given:
    """Return the settings of a recipe, overridden by the given values. Types are checked, bounds are not.

    Raises:
        InputError: with a one-line message, for an unknown recipe or setting, a wrong type, both `minutes` and
            `epochs`, or both the old and the current name of a setting.
    """
    merged = given_values(recipe, **values)
    settings: Given
    (settings,) = build(pretrain_parser(merged.get("method", "adco")), merged)
    return settings


def given_values(recipe: str | Path | None = None, **values: Any) -> dict[str, Any]:
    """Return the values of a recipe, overridden by the given ones, under the present names of the settings.

    Raises:
        InputError: as `pretrain_settings`, but for wrong types.
    """
    recipe_values = {} if recipe is None else recipe_for("pretrain", recipe)
    shared, values = (with_defaults(given) for given in (recipe_values, values))
    for given in (shared, values):
        if given.get("minutes", math.inf) not in (None, math.inf) and given.get("epochs") is not None:
            raise InputError(
                f"minutes {given['minutes']} chooses the epochs, but epochs {given['epochs']} is given: leave one out"
            )
    # If the values give the length of the run, as minutes or epochs, the recipe's minutes and epochs are dropped.
    length = {"minutes", "epochs"}
    kept = {name: value for name, value in shared.items() if name not in length or not length & values.keys()}
    parser = pretrain_parser({**kept, **values}.get("method", "adco"))
    merged: dict[str, Any] = {}
    for given in (kept, values):  # values override the recipe's, even if one of them uses an old name
        names = current_names(given, parser.names)
        merged |= {names[name]: value for name, value in given.items()}
    return merged


def pretrain_parser(method: str) -> Parser:
    """Return the parser of a method's settings.

    Raises:
        InputError: if there is no such method.
    """
    description = "Pretrain a backbone on images without labels, into a run directory."
    return Parser([settings_of(method)], "adco pretrain", description)


def build(parser: Parser, values: Mapping[str, Any]) -> list[Any]:
    """Return an instance of each of the parser's settings classes."""
    return parser.construct(parser.read_values(values))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Return the content of a recipe.

    Raises:
        InputError: if there is no such recipe, or it is not a YAML mapping from the names of settings.
    """
    path = recipes.find(str(recipe))
    values = read_yaml(path, what="recipe")
    if not isinstance(values, dict):
        raise InputError(f"recipe {path} must contain settings, one per line: name: value")
    for name in values:
        if not isinstance(name, str):
            raise InputError(f"recipe {path} must contain settings, one per line: name: value; {name!r} is not a name")
    is_of_a_run = path.name == "config.yaml" and (path.parent / "environment.json").is_file()
    return of_earlier_versions(values) if is_of_a_run else values


def recipe_for(command: str, recipe: str | Path) -> dict[str, Any]:
    """Return the content of a recipe for a command.

    Raises:
        InputError: as `read_recipe`, or if the recipe is that of another command.
    """
    values = read_recipe(recipe)
    # Settings that only the recipes of one command have.
    by_name = {"rows": "compare", "method": "pretrain", "label_share": "finetune", "head": "finetune"}
    made_for = values.get("command") or next((by_name[name] for name in values if name in by_name), command)
    if made_for != command:
        raise InputError(f"recipe {recipe} is for adco {made_for}, not for adco {command}")
    return values


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, with types in plain words instead of Python's names."""
    message = re.sub(r"<class '(\w+)'>", r"\1", " ".join(str(error).split()))
    message = re.sub(r'^Parser key "?([\w.]+)"?: ', r"\1: ", message)
    wrong_type = re.match(r"(\w+): .*Expected an? .*(?:Given|Got) value:(.*)$", message)
    if not wrong_type:
        return message
    expected = re.findall(r"Expected an? (typing\.Literal\[[^]]*\]|\w+)", message)
    kinds = [TYPE_NAMES.get(kind) or _choices(kind) for kind in expected if kind != "NoneType"]
    value = wrong_type[2].strip() or "''"
    return f"{wrong_type[1]} {value} must be {' or '.join(dict.fromkeys(kinds))}"


def _explanations(settings: type[Any]) -> dict[str, str]:
    """Return the explanation of each setting, from the docstrings of the class and the classes it inherits from.

    Raises:
        TypeError: if the class is not a dataclass or a setting has no explanation, which are mistakes in the class.
    """
    if "__dataclass_fields__" not in vars(settings):  # not those of a class it inherits from
        raise TypeError(f"{settings.__name__} is not a dataclass: write @dataclass(frozen=True, kw_only=True) above it")
    parsed = [docstring_parser.parse(kind.__dict__.get("__doc__") or "") for kind in reversed(settings.__mro__)]
    explained = {arg.arg_name: " ".join((arg.description or "").split()) for docs in parsed for arg in docs.params}
    for field in fields(settings):
        if not explained.get(field.name):
            raise TypeError(
                f"setting {field.name} of {settings.__name__} has no explanation: add an entry '{field.name}: …' under "
                "Args: in the class's docstring"
            )
    return explained


def _bare(flag: str) -> str:
    """Return the name of a flag's setting: image_size for --image-size=32."""
    return flag.split("=")[0].removeprefix("--").replace("-", "_")


def _as_given(kind: Any) -> Any:
    """Return the type of a setting, with `Unset` replaced by None."""
    return kind[None] if getattr(kind, "__parameters__", ()) else kind


def _choices(literal: str) -> str:
    choices = re.findall("'([^']*)'", literal)
    return f"one of {', '.join(choices)}"


def _unknown(what: str, name: str, known: set[str]) -> str:
    dashes = "--" if name.startswith("--") else ""
    bare = _bare(name)
    ours = dashes + NAMES_ELSEWHERE.get(bare, "")
    if ours in known:
        return f"unknown {what} {name}: it is called {ours} here"
    if bare in UNSUPPORTED:
        return f"unknown {what} {name}: {UNSUPPORTED[bare]}"
    near = difflib.get_close_matches(name, sorted(known - {"--help"}), n=1)
    return f"unknown {what} {name}" + (f": did you mean {near[0]}?" if near else "; see --help")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
