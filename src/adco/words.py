"""Numbers in words."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 epoch", "3 epochs", "2 classes".

    Args:
        number: how many.
        one: the singular.
        many: the plural; by default the singular with an s.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"
