"""Who may have a model call which tool: all rules are looked at, and the strictest of those that fit holds."""

import fnmatch
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gatehook import LONGEST_MODEL_NAME, ModelName, Verdict

__all__ = ["Kind", "Rule", "Rules"]

Kind = Literal["allow", "confirm", "deny"]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]

_STRICTNESS: Final = ("allow", "confirm", "deny")


class Rule(BaseModel):
    """One rule: its verdict on the tools, users and models whose names fit its patterns (`*`, `?`, `[abc]`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    tool: Pattern = "*"
    user: Pattern = "*"
    model: Annotated[ModelName, Field(min_length=1, max_length=LONGEST_MODEL_NAME)] = "*"
    verdict: Kind
    reason: Annotated[str, Field(max_length=500)] = ""


class Rules:
    """Rules, and the default where none fits."""

    def __init__(self, rules: Sequence[Rule], default: Kind) -> None:
        self._default = Verdict(default)
        self._rules = [
            (
                # Tools are told apart by case, but nobody shall get round a rule by it.
                re.compile(fnmatch.translate(rule.tool), re.IGNORECASE).match,
                re.compile(fnmatch.translate(rule.user)).match,
                re.compile(fnmatch.translate(rule.model)).match,
                Verdict(rule.verdict, rule.reason),
            )
            for rule in rules
        ]

    def verdict(self, tool: str, user: str, models: Collection[str]) -> Verdict:
        """The strictest of the rules that fit.

        Args:
            tool: its name.
            user: the id of who asks.
            models: all names that the model is known by; one that fits is enough.
        """
        fitting = [
            verdict
            for is_tool, is_user, is_model, verdict in self._rules
            if is_tool(tool) and is_user(user) and any(is_model(model) for model in models)
        ]
        return max(fitting, key=_strictness, default=self._default)


def _strictness(verdict: Verdict) -> tuple[int, str]:
    """A sort key. The reason is in it so that the order of rules of one kind does not matter."""
    return _STRICTNESS.index(verdict.kind), verdict.reason
