"""The text of `adco COMMAND --help`, made from the settings and their docstrings."""

import dataclasses
import math
import shutil
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field
from typing import Any, Literal, get_args, get_origin

from adco.config.pretrain import PretrainSettings, topics
from adco.config.registry import METHODS, settings_of

COLUMN = 26  # where explanations begin
SHORT = {int: "N", float: "X", str: "TEXT", bool: "[true|false]"}


def pretrain_help(
    settings: type[PretrainSettings[Any]],
    types: Mapping[str, Any],
    actions: Iterable[Action],
    chosen: Mapping[str, Any],
) -> str:
    """Return usage, the methods, and every flag by topic.

    Args:
        settings: of the method.
        types: the type of each setting, before it is resolved.
        actions: of the parser.
        chosen: the settings chosen for the user's data; empty if the data is not known.
    """
    known = {name: settings_of(name) for name in METHODS}
    (method,) = (name for name, of_method in known.items() if of_method is settings)
    methods = [(f"  {name}", (of_method.__doc__ or "").splitlines()[0]) for name, of_method in known.items()]
    return "\n\n".join(
        [
            "usage: adco pretrain DATA [--FLAG VALUE ...]",
            "Pretrain a backbone on images without labels, into a run directory.\n"
            f"Flags may be written with hyphens, too. Shown are the settings of {method}; --method NAME --help shows "
            "another's.\nadco pretrain DATA --help also shows what is chosen for your data.",
            section("methods", methods),
            _sections([settings], types, actions, topics(settings), chosen),
        ]
    )


def plain_help(
    settings: Iterable[type[Any]], types: Mapping[str, Any], usage: str, description: str, actions: Iterable[Action]
) -> str:
    """Return usage, what the command does, and every flag; the settings of each class are a section."""
    sections = {
        getattr(kind, "NAME", "settings"): [field.name for field in dataclasses.fields(kind)] for kind in settings
    }
    return "\n\n".join([f"usage: {usage}", description, _sections(settings, types, actions, sections, {})])


def _sections(
    settings: Iterable[type[Any]],
    types: Mapping[str, Any],
    actions: Iterable[Action],
    by_topic: Mapping[str, list[str]],
    chosen: Mapping[str, Any],
) -> str:
    """Return positional arguments and the flags that are no settings first, then the settings by topic."""
    fields = {field.name: field for kind in settings for field in dataclasses.fields(kind)}
    by_name = {action.dest: action for action in actions}
    command = [
        (f"  {_usage(action)}", str(action.help))
        for name, action in by_name.items()
        if name not in fields and name != "help" and action.help not in (None, SUPPRESS)
    ]
    sections = {"command": command} if command else {}
    for topic, names in by_topic.items():
        sections[topic] = [
            _of_setting(fields[name], types[name], by_name[name].help or "", chosen.get(name))
            for name in names
            if name in by_name
        ]
    return "\n\n".join(section(title, rows) for title, rows in sections.items() if rows) + "\n"


def _usage(action: Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return " ".join([action.option_strings[0], *([str(action.metavar)] if action.metavar else [])])


def _of_setting(field: "Field[Any]", kind: Any, words: str, chosen: Any) -> tuple[str, str]:
    """Return a setting's flag and its explanation."""
    words = words.rstrip(".")
    if field.name == "method":
        words = "one of the above"
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    notes = []
    if "Chosen:" in words:
        notes = ["default: chosen for your data"]
    elif default not in (None, "", math.inf):
        notes = [f"default: {_value(default)}"]
    if chosen not in (None, default):
        notes.append(f"now: {_value(chosen)}")
    in_brackets = f" ({', '.join(notes)})" if notes else ""
    return f"  --{field.name} {_kind(kind)}", words + in_brackets


def _value(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:.3g}"
    return str(list(default)) if isinstance(default, tuple) else str(default)


def _kind(kind: Any) -> str:
    """Return a type as help shows it: N for a whole number, X for any number, the choices of a Literal."""
    optional = [part for part in get_args(kind) if part is not type(None)]
    if type(None) in get_args(kind) and len(optional) == 1:
        return _kind(optional[0])
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}" if len(get_args(kind)) > 1 else str(*get_args(kind))
    if get_origin(kind) in (tuple, list):
        return "[A,B,...]"
    if get_origin(kind) is dict:
        return "{A: B}"
    if optional:
        return "|".join(_kind(part) for part in optional)
    return SHORT[kind]


def section(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a titled table of two columns."""
    return "\n".join([f"{title}:", *(_row(*row) for row in rows)])


def _row(left: str, right: str) -> str:
    """Return two columns; a long left one has a line of its own."""
    width = max(60, min(100, shutil.get_terminal_size().columns)) - COLUMN
    lines = textwrap.wrap(right, width, break_on_hyphens=False) or [""]
    head = [left.ljust(COLUMN) + lines.pop(0)] if len(left) < COLUMN - 1 else [left]
    return "\n".join([*head, *(" " * COLUMN + line for line in lines)])
