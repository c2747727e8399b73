"""Settings from recipes, flags and keywords, all through one parser, with errors of one line."""

import difflib
import re
import warnings
from argparse import HelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from adco import recipes
from adco.help import plain_help, pretrain_help
from adco.settings import METHODS, RENAMED, PretrainSettings, of_earlier_versions

# What other programs call a setting, and its name here.
FOREIGN = {
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
NO_WEIGHTS = "training starts from random weights; starting from others is not supported"
MISSING = {"weights": NO_WEIGHTS, "pretrained": NO_WEIGHTS}  # what other programs have and this one does not


# What jsonargparse calls a type, in words.
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
KINDS |= {"tuple": "a list as --help shows it", "list": "a list as --help shows it", "dict": "a mapping, {name: value}"}


class Parser(ArgumentParser):
    """A parser of one settings class: its fields are flags."""

    def __init__(self, settings: type[Any], prog: str, description: str, arguments: str = "") -> None:
        super().__init__(prog=prog, exit_on_error=False, allow_abbrev=False)
        self.settings, self.purpose, self.arguments = settings, description, arguments
        self.chosen: Mapping[str, Any] = {}  # settings for the user's data, for the help
        self.names = [field.name for field in fields(settings)]
        self.add_class_arguments(settings, as_group=False)

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        if issubclass(self.settings, PretrainSettings):
            return pretrain_help(self.settings, self._actions, self.chosen)
        usage = " ".join([self.prog, *self.arguments.split(), "[--FLAG VALUE ...]"])
        return plain_help(self.settings, usage, self.purpose, self._actions)

    def spelled(self, flags: Sequence[str]) -> list[str]:
        """The flags with hyphens or underscores as they are known here: --image-size is --image_size."""
        known = self._known()
        spellings = {option[2:].replace("-", "_"): option for option in known if option.startswith("--")}

        def spell(flag: str) -> str:
            name, *value = flag.split("=", 1)
            bare = name[2:].replace("-", "_")
            if name.startswith("--") and bare in RENAMED and RENAMED[bare] in self.names:
                bare = _renamed(bare)
            right = spellings.get(bare, name) if name.startswith("--") else name
            return "=".join([right, *value])

        return [spell(flag) for flag in flags]

    def read_flags(self, flags: Sequence[str]) -> Namespace:
        """Parse flags.

        Raises:
            ValueError: of one line, for an unknown flag with the nearest right one.
        """
        flags = self.spelled(flags)
        known = self._known()
        for flag in flags:
            name = flag.split("=")[0]
            if name.startswith("--") and name not in known:
                raise ValueError(_unknown("flag", name, known))
        try:
            namespace: Namespace = self.parse_args(self._spell_out(flags))
        except ArgumentError as error:
            raise ValueError(one_line(error)) from error
        return namespace

    def _known(self) -> set[str]:
        return {option for action in self._actions for option in action.option_strings}

    def _spell_out(self, flags: Sequence[str]) -> list[str]:
        """A yes-or-no setting may be given by its flag alone: --symmetric for --symmetric true."""
        switches = {f"--{field.name}" for field in fields(self.settings) if field.type is bool}
        followed = zip(flags, [*flags[1:], ""], strict=False)  # of no flags, none
        return [
            f"{flag}=true" if flag in switches and after not in ("true", "false") else flag for flag, after in followed
        ]

    def read_values(self, values: Mapping[str, Any]) -> Namespace:
        """Check a mapping of settings, and put the defaults in for the rest.

        Raises:
            ValueError: of one line, for an unknown name with the nearest right one.
        """
        known = set(self.names)
        optional = {field.name for field in fields(self.settings) if type(None) in get_args(field.type)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(_unknown("setting", name, known))
            if value is None and name not in optional:  # jsonargparse would let it pass
                raise ValueError(f"{name} has no value: give one, or leave it out")
        try:
            namespace: Namespace = self.parse_object({name: _plain(value) for name, value in values.items()})
        except ArgumentError as error:
            raise ValueError(one_line(error)) from error
        return namespace


def pretrain_settings(recipe: str | Path | None = None, **values: Any) -> PretrainSettings:
    """The settings of a recipe with values over it, types checked.

    Raises:
        ValueError: of one line, for an unknown recipe or key, a wrong type, or both `minutes` and `epochs`.
    """
    shared = read_recipe(recipe) if recipe else {}
    for given in (shared, values):
        if given.get("minutes") is not None and given.get("epochs") is not None:
            raise ValueError(
                f"minutes {given['minutes']} chooses the epochs, but epochs {given['epochs']} is given: leave one out"
            )
    # The length of a run is given in one way: that of the values replaces that of the recipe.
    length = {"minutes", "epochs"}
    kept = {name: value for name, value in shared.items() if name not in length or not length & values.keys()}
    merged = {_renamed(name): value for name, value in {**kept, **values}.items()}
    settings: PretrainSettings = build(pretrain_parser(merged.get("method", "adco")), merged)
    return settings


def pretrain_parser(method: str) -> Parser:
    """The parser of a method's settings.

    Raises:
        ValueError: if there is no such method.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method {method!r} must be one of {', '.join(METHODS)}")
    description = "Pretrain a backbone on images without labels, into a run directory."
    return Parser(METHODS[method], "adco pretrain", description)


def build(parser: Parser, values: Mapping[str, Any]) -> Any:
    """An instance of the parser's settings class."""
    namespace = parser.read_values(values)
    return parser.settings(**{name: namespace[name] for name in parser.names})


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """What a recipe's file says.

    Raises:
        ValueError: if there is no such recipe, or it is not a mapping in YAML.
    """
    path = recipes.find(str(recipe))
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is no YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} must hold settings, a line each: name: value")
    is_of_a_run = path.name == "config.yaml" and (path.parent / "environment.json").is_file()
    return of_earlier_versions(values) if is_of_a_run else values


def one_line(error: BaseException) -> str:
    """An error's message without line breaks and without Python's words for types."""
    message = re.sub(r"<class '(\w+)'>", r"\1", " ".join(str(error).split()))
    message = re.sub(r'^Parser key "?([\w.]+)"?: ', r"\1: ", message)
    wrong_type = re.match(r"(\w+): .*Expected an? .*(?:Given|Got) value: (.*)$", message)
    if not wrong_type:
        return message
    expected = re.findall(r"Expected an? (typing\.Literal\[[^]]*\]|\w+)", message)
    kinds = [KINDS.get(kind) or _choices(kind) for kind in expected if kind != "NoneType"]
    return f"{wrong_type[1]} {wrong_type[2]} must be {' or '.join(dict.fromkeys(kinds))}"


def _choices(literal: str) -> str:
    choices = re.findall("'([^']*)'", literal)
    return f"one of {', '.join(choices)}"


def _unknown(what: str, name: str, known: set[str]) -> str:
    dashes = "--" if name.startswith("--") else ""
    bare = name.removeprefix("--").replace("-", "_")
    right = dashes + FOREIGN.get(bare, "")
    if right in known:
        return f"unknown {what} {name}: it is {right} here"
    if bare in MISSING:
        return f"unknown {what} {name}: {MISSING[bare]}"
    near = difflib.get_close_matches(name, sorted(known - {"--help"}), n=1)
    return f"unknown {what} {name}" + (f": did you mean {near[0]}?" if near else "; see --help")


def _renamed(name: str) -> str:
    """The present name of a setting; warns if the name given is that of an earlier version."""
    if name in RENAMED:
        warnings.warn(f"setting {name} is now called {RENAMED[name]}: the old name goes in 0.2", FutureWarning, 3)
    return RENAMED.get(name, name)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
