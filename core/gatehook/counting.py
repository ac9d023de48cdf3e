"""Numbers of things in messages: "1 model", "2 models"."""

__all__ = ["counted"]


def counted(number: int, thing: str) -> str:
    """How many of a thing there are, in words that fit.

    Args:
        number: of them.
        thing: one of them, a word whose plural ends with a mere "s".
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
