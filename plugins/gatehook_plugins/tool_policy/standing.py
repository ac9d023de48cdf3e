"""The rules that hold now: those of the settings, and those that an administrator has set since."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gatehook import HeldConfig, Verdict, counted
from gatehook_plugins.tool_policy.rules import Kind, Rule, Rules

__all__ = ["NAME", "Configured", "Standing"]

log: Final = logging.getLogger("gatehook.tool_policy")

NAME: Final = "tool-policy"
"""The name of this configuration in the directory."""


class Configured(BaseModel):
    """What an administrator sets: more rules, and a default in place of the settings'."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    default: Kind | None = None
    rules: tuple[Rule, ...] = Field(default=(), max_length=500)


class Standing(HeldConfig):
    """The rules that hold now."""

    def __init__(self, rules: Sequence[Rule], default: Kind) -> None:
        """`rules` and `default` are those of the settings."""
        super().__init__(NAME, log)
        self._rules = tuple(rules)
        self._default = default
        self._held: Mapping[str, Any] = {}
        self._now = Rules(rules, default)

    def verdict(self, tool: str, user: str, models: Collection[str]) -> Verdict:
        """See `Rules.verdict`."""
        return self._now.verdict(tool, user, models)

    def shown(self) -> Mapping[str, Any]:
        """The rules of the settings, as JSON has them."""
        return {"default": self._default, "rules": [rule.model_dump() for rule in self._rules]}

    def hold(self, value: Mapping[str, Any]) -> None:
        """Take over what an administrator has set, beside the settings."""
        if value == self._held:
            return
        self._held = value
        try:
            configured = Configured.model_validate(value)
        except ValidationError:
            log.error("the tool policy that is configured cannot be read; no tool may be called until it is set again")  # noqa: TRY400
            configured = Configured(rules=(Rule(verdict="deny", reason="the configured policy cannot be read"),))
        self._now = Rules((*self._rules, *configured.rules), configured.default or self._default)
        log.info(
            "tool calls go by %s of the settings, and %d set at run time",
            counted(len(self._rules), "rule"),
            len(configured.rules),
        )
