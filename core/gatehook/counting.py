"""Counts of things in messages: "1 model", "2 models"."""

__all__ = ["counted"]


def counted(number: int, thing: str) -> str:
    """A number and its noun, in the singular or the plural.

    Args:
        number: how many there are.
        thing: the noun in the singular; its plural must be formed with "s".
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
