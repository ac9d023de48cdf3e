"""Which model a name stands for: its own, an alias, or a wildcard ("openai/*"); which message a path leads into."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["LONGEST_MODEL_NAME", "Names", "is_pattern", "message_number"]

LONGEST_MODEL_NAME: Final = 256
"""Characters of a model's name, wherever it is written: in requests, in the settings, in the database."""

_SEGMENT: Final = r"(?!\.+(?:/|$))[\w.:@+-]+"
_REST: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)
"""What may stand in place of a `*`: clients write it, and vendors put it into URLs."""

_MESSAGE: Final = re.compile(r"messages\[(\d{1,9})\]", re.ASCII)


def message_number(path: str) -> int:
    """Which message a path in a request leads into, counted from 0; -1 if into none."""
    found = _MESSAGE.match(path)
    return int(found[1]) if found else -1


def is_pattern(name: str) -> bool:
    """Whether a model's name is a wildcard, which serves all names that begin as it does."""
    return name.endswith("*")


class Names:
    """All names of some models. A model's own name takes precedence over an alias, an alias over a wildcard."""

    def __init__(self, models: Mapping[str, Iterable[str]]) -> None:
        """`models` gives the aliases of each model, by its name; of two models with one alias the first has it."""
        self._models = {name for name in models if not is_pattern(name)}
        self._patterns = sorted((name for name in models if is_pattern(name)), key=len, reverse=True)
        self.aliases: dict[str, str] = {}
        """The model that each alias stands for."""
        self.clashes: list[tuple[str, str, str]] = []
        """Aliases that are taken: the model that wants one, the alias, and the model whose name it is already."""
        for name, aliases in models.items():
            for alias in dict.fromkeys(aliases):
                owner = alias if alias in self._models else self.aliases.setdefault(alias, name)
                if owner != name:
                    self.clashes.append((name, alias, owner))
        self.aliases = {alias: name for alias, name in self.aliases.items() if alias not in self._models}

    def find(self, name: str) -> str:
        """The model that answers for `name`: a model's own name, or a wildcard; "" if there is none."""
        return name if name in self._models else self.aliases.get(name) or self.pattern(name)

    def pattern(self, name: str) -> str:
        """The wildcard that serves `name`, which is no model's and no alias; the longest one, "" if there is none."""
        for pattern in self._patterns if len(name) <= LONGEST_MODEL_NAME else ():
            if name.startswith(pattern[:-1]) and _REST.fullmatch(name, len(pattern) - 1):
                return pattern
        return ""
