"""`adco recipes`: list the recipes, or show one."""

from collections.abc import Sequence


def recipes(arguments: Sequence[str]) -> int:
    """Run `adco recipes`."""
    from adco.config.recipes import find, names, summary

    if arguments and not arguments[0].startswith("-"):
        print(find(arguments[0]).read_text(), end="")
        return 0
    for name in names():
        print(f"{name:36}{summary(name)}")
    return 0
