"""How much a model thinks: OpenAI's reasoning_effort in the terms of each family of Gemini models.

After the table of Google's OpenAI compatibility page: Gemini 2.5 has a budget in tokens, Gemini 3 and later a level.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from gatehook import InvalidRequest, Retry
from gatehook_plugins.vendor_gemini.options import Options

__all__ = ["is_third_generation", "thinking_config"]

_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")

_Table = Mapping[str, int | str]

_BUDGETS: Final[_Table] = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_LEVELS: Final[_Table] = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}

_FAMILIES: Final[tuple[tuple[re.Pattern[str], _Table], ...]] = (
    (re.compile(r"gemini-2\.5-pro"), _BUDGETS),  # its thinking cannot be switched off
    (re.compile(r"gemini-2\.5-"), {"none": 0, **_BUDGETS}),
    (re.compile(r"gemini-3-pro"), {"minimal": "LOW", "low": "LOW", "medium": "HIGH", "high": "HIGH"}),
    (re.compile(r"gemini-(?:[3-9]|\d\d)(?:\.\d+)?-pro"), {**_LEVELS, "minimal": "LOW"}),
    (re.compile(r"gemini-(?:[3-9]|\d\d)\b"), _LEVELS),
    (re.compile(r"gemini-pro-latest"), {**_LEVELS, "minimal": "LOW"}),
    (re.compile(r"gemini-flash(?:-lite)?-latest"), _LEVELS),
    # Older models do not think at all.
    (re.compile(r"gemini-(?:1|2\.0)|gemma-"), {"none": ""}),
)
"""Model names, first match wins, and what each effort becomes: a budget, a level, or "" for "nothing to say"."""

_THIRD: Final = re.compile(r"gemini-(?:(?:[3-9]|\d\d)\b|(?:pro|flash|flash-lite)-latest)")
"""Names that move with the latest model have come to the third generation, and never move back."""


def is_third_generation(model: str) -> bool:
    """Whether a model is of Gemini 3 or later: media in function results, and signatures that must come back."""
    return _THIRD.match(_name(model)) is not None


def thinking_config(model: str, effort: Any, options: Options) -> dict[str, Any]:
    """The thinkingConfig for an effort at a model, empty if none is needed.

    Raises:
        InvalidRequest: no such effort, or not at this model.
    """
    if effort not in _EFFORTS:
        raise _refused(f"expected one of {', '.join(_EFFORTS)}")
    table = options.reasoning_effort or _table(model)
    if table is None:
        raise _refused(f"it is not known how the model {model!r} thinks; the operator can set options.reasoning_effort")
    if effort not in table:
        raise _refused(f"the model {model!r} knows only {', '.join(table)}")
    value = table[effort]
    if value == "":
        return {}
    config: dict[str, Any] = {"thinkingBudget": value} if isinstance(value, int) else {"thinkingLevel": value.upper()}
    if value != 0 and options.include_thoughts:
        config["includeThoughts"] = True
    return config


def _table(model: str) -> _Table | None:
    name = _name(model)
    return next((table for pattern, table in _FAMILIES if pattern.match(name)), None)


def _name(model: str) -> str:
    return model.removeprefix("models/").lower()


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"reasoning_effort: {why}", param="reasoning_effort", retry=Retry.NEXT)
