"""What was masked in one call. Each value has one placeholder, such as [EMAIL_1], the same wherever it stands."""

import re
from collections import Counter
from typing import Final

from gatehook_guard.detectors import Detector

__all__ = ["PLACEHOLDER", "Vault"]

PLACEHOLDER: Final = Detector(
    "",
    r"\[[A-Z][A-Z0-9_]{0,30}_[1-9]\d{0,5}\]",
    re.compile(r"\[[A-Z0-9_]{0,40}\Z"),
    42,
)
"""Finds placeholders in answers. They begin with a bracket, so that a word may stand right before them."""


class Vault:
    """The values and their placeholders. It lives as long as its call, in memory only."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        """`taken`: what looks like placeholders in the client's own text, and so is not used for one."""
        self._taken = taken
        self._placeholders: dict[str, str] = {}
        self._values: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """The number of different values by label."""
        return dict(Counter(placeholder[1:].rpartition("_")[0] for placeholder in self._values))

    @property
    def placeholders(self) -> frozenset[str]:
        """Those that were made, and those that were taken."""
        return self._taken | self._values.keys()

    def knows(self, value: str) -> bool:
        """Whether a value was masked before."""
        return value in self._placeholders

    def mask(self, label: str, value: str) -> str:
        """The placeholder of a value; makes one if it has none yet."""
        known = self._placeholders.get(value)
        while known is None:
            self._numbers[label] += 1
            made = f"[{label}_{self._numbers[label]}]"
            if made not in self._taken:
                known = self._placeholders[value] = made
                self._values[made] = value
        return known

    def value(self, placeholder: str) -> str | None:
        """What a placeholder stands for; None if none was made like this."""
        return self._values.get(placeholder)
