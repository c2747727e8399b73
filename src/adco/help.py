"""The text of `adco COMMAND --help`, made from the settings and their docstrings."""

import dataclasses
import shutil
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field
from typing import Any, Literal, get_args, get_origin

from adco.settings import METHODS, PretrainSettings, QueryKeySettings

COLUMN = 26  # where explanations begin
# The settings are in order of topic: each topic begins with this field and ends where the next begins.
TOPICS = {
    "method": "method",
    "data": "data",
    "out": "run",
    "backbone": "network",
    "image_size": "views",
    "dim": "projector",
    "optimizer": "optimisation",
    "accelerator": "hardware",
    "log_every": "records and checkpoints",
}
SHORT = {int: "N", float: "X", str: "TEXT", bool: "[true|false]"}


def pretrain_help(settings: type[PretrainSettings], actions: Iterable[Action], chosen: Mapping[str, Any]) -> str:
    """Usage, the methods, and every flag by topic; `chosen` are the settings for the user's data, if it is known."""
    method = next(name for name, known in METHODS.items() if known is settings)
    methods = [(f"  {name}", (known.__doc__ or "").splitlines()[0]) for name, known in METHODS.items()]
    return "\n\n".join(
        [
            "usage: adco pretrain DATA [--FLAG VALUE ...]",
            "Pretrain a backbone on images without labels, into a run directory.\n"
            f"Flags may be written with hyphens, too. Shown are the settings of {method}; --method NAME --help shows "
            "another's.\nadco pretrain DATA --help also shows what is chosen for your data.",
            _section("methods", methods),
            _sections(settings, actions, {**TOPICS, **_own_topics(settings, method)}, chosen),
        ]
    )


def plain_help(settings: type[Any], usage: str, description: str, actions: Iterable[Action]) -> str:
    """Usage, what the command does, and every flag."""
    return "\n\n".join([f"usage: {usage}", description, _sections(settings, actions, {}, {})])


def _own_topics(settings: type[PretrainSettings], method: str) -> dict[str, str]:
    """The topics of what only some methods have, each beginning with its class's first new field."""
    own: dict[str, str] = {}
    before = set(_fields(PretrainSettings))
    for owner, topic in ((QueryKeySettings, "queries and keys"), (settings, method)):
        new = [name for name in _fields(owner) if name not in before]
        if new and issubclass(settings, owner):
            own[new[0]] = topic
            before |= set(new)
    return own


def _sections(
    settings: type[Any], actions: Iterable[Action], topics: Mapping[str, str], chosen: Mapping[str, Any]
) -> str:
    """Positional arguments and flags that are no setting first, then the settings by topic."""
    fields = _fields(settings)
    sections: dict[str, list[tuple[str, str]]] = {}
    topic = "settings"
    by_name = {action.dest: action for action in actions}
    for name, action in by_name.items():
        if name not in fields and name != "help" and action.help not in (None, SUPPRESS):
            sections.setdefault("command", []).append((f"  {_usage(action)}", str(action.help)))
    for name, field in fields.items():
        topic = topics.get(name, topic)
        if name in by_name:
            sections.setdefault(topic, []).append(_of_setting(field, by_name[name].help or "", chosen.get(name)))
    return "\n\n".join(_section(title, rows) for title, rows in sections.items()) + "\n"


def _usage(action: Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return " ".join([action.option_strings[0], *([str(action.metavar)] if action.metavar else [])])


def _of_setting(field: "Field[Any]", words: str, chosen: Any) -> tuple[str, str]:
    """A setting's flag and what to know of it."""
    words = words.rstrip(".")
    if field.name == "method":
        words = "one of the above"
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    chosen_for_data = ["default: chosen for your data"] if "Chosen:" in words else []
    notes = chosen_for_data if default is None else [f"default: {_value(default)}"]
    if chosen not in (None, default):
        notes = [*notes, f"now: {_value(chosen)}"]
    left_out = f" ({', '.join(notes)})" if notes else ""
    return f"  --{field.name} {_kind(field.type)}", words + left_out


def _value(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:.3g}"
    return str(list(default)) if isinstance(default, tuple) else str(default)


def _kind(kind: Any) -> str:
    """A type as a reader of help wants it: N for a whole number, X for any number, the choices of a Literal."""
    optional = [part for part in get_args(kind) if part is not type(None)]
    if type(None) in get_args(kind) and len(optional) == 1:
        return _kind(optional[0])
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}" if len(get_args(kind)) > 1 else "NAME"
    if get_origin(kind) in (tuple, list):
        return "[A,B,...]"
    if get_origin(kind) is dict:
        return "{A: B}"
    return "|".join(SHORT[part] for part in optional or (kind,))


def _section(title: str, rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join([f"{title}:", *(_row(*row) for row in rows)])


def _row(left: str, right: str) -> str:
    """Two columns; a long left one has a line of its own."""
    width = max(60, min(100, shutil.get_terminal_size().columns)) - COLUMN
    lines = textwrap.wrap(right, width, break_on_hyphens=False) or [""]
    head = [left.ljust(COLUMN) + lines.pop(0)] if len(left) < COLUMN - 1 else [left]
    return "\n".join([*head, *(" " * COLUMN + line for line in lines)])


def _fields(settings: type[Any]) -> dict[str, "Field[Any]"]:
    return {field.name: field for field in dataclasses.fields(settings)}
