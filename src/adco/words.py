"""Text helpers."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: "1 epoch", "3 epochs", "2 classes", "50,000 images".

    Args:
        number: the number.
        one: the singular.
        many: the plural; by default, the singular with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def unicode(text: str) -> str:
    """Return a text in which bytes of a file's name that are not UTF-8 are shown by their numbers, such as \\udcff.

    Python keeps such bytes in a text, which then cannot be written to a file, printed or drawn.
    """
    return text.encode("utf-8", "backslashreplace").decode()
