"""Settings from recipes, flags and keywords, all through one parser, with errors of one line."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from adco import recipes
from adco.settings import METHODS, PretrainSettings


class Parser(ArgumentParser):
    """A parser of one settings class: its fields are flags."""

    def __init__(self, settings: type[Any], prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, exit_on_error=False, allow_abbrev=False)
        self.settings = settings
        self.names = [field.name for field in fields(settings)]
        self.add_class_arguments(settings, as_group=False)

    def read_flags(self, flags: Sequence[str]) -> Namespace:
        """Parse flags.

        Raises:
            ValueError: of one line, for an unknown flag with the nearest right one.
        """
        known = {option for action in self._actions for option in action.option_strings}
        for flag in flags:
            name = flag.split("=")[0]
            if name.startswith("--") and name not in known:
                raise ValueError(_unknown("flag", name, known))
        try:
            namespace: Namespace = self.parse_args(self._spell_out(flags))
        except ArgumentError as error:
            raise ValueError(one_line(error)) from error
        return namespace

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
        ValueError: of one line, for an unknown recipe or key, or a wrong type.
    """
    merged = {**(read_recipe(recipe) if recipe else {}), **values}
    settings: PretrainSettings = build(pretrain_parser(merged.get("method", "adco")), merged)
    return settings


def pretrain_parser(method: str) -> Parser:
    """The parser of a method's settings.

    Raises:
        ValueError: if there is no such method.
    """
    if method not in METHODS:
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
    return values


def one_line(error: BaseException) -> str:
    """An error's message without line breaks and without Python's words for types."""
    message = re.sub(r"<class '(\w+)'>", r"\1", " ".join(str(error).split()))
    return re.sub(r'^Parser key "?([\w.]+)"?: ', r"\1: ", message)


def _unknown(what: str, name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"unknown {what} {name}" + (f": did you mean {near[0]}?" if near else "; see --help")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
