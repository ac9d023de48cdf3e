"""Reasoning: OpenAI's `reasoning_effort`, or Anthropic's own `thinking`, and what cannot go with it.

Models up to Claude 4.5 think within a budget of tokens that is part of max_tokens; later ones decide for themselves,
steered by an effort. Since Claude 4.7 they show what they think only to those who ask for it.
"""

from collections.abc import Mapping
from typing import Any

from gatehook import InvalidRequest, Retry

__all__ = ["BUDGETS", "EFFORTS", "budget_of", "check", "plan"]

BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 65536}
"""reasoning_effort to tokens, for models that think within a budget."""

EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
"""reasoning_effort to output_config.effort, for models that decide for themselves; Claude 4.6 knows no xhigh."""


def plan(payload: Mapping[str, Any], *, adaptive: bool, reticent: bool) -> tuple[dict[str, Any] | None, str | None]:
    """The wire's `thinking`, and `output_config.effort`; None where the request leaves it to the model.

    Args:
        payload: the request.
        adaptive: whether the model decides how much it thinks.
        reticent: whether it shows its thinking only if it is asked to.

    Raises:
        InvalidRequest: an unknown effort, a `thinking` or `output_config` that is no object, or two answers to one
            question.
    """
    effort, thinking = payload.get("reasoning_effort"), payload.get("thinking")
    own = payload.get("output_config") or {}
    if not isinstance(own, dict):
        raise InvalidRequest("output_config: expected an object", param="output_config")
    if thinking is not None and (not isinstance(thinking, dict) or not isinstance(thinking.get("type"), str)):
        raise InvalidRequest("thinking: expected an object with a type", param="thinking")
    if own.get("effort") is not None:
        return thinking, own["effort"]  # said in Anthropic's own words, so nothing is read into it
    if effort is None:
        return thinking, None
    if effort != "none" and (not isinstance(effort, str) or effort not in BUDGETS):
        known = ", ".join(["none", *BUDGETS])
        raise InvalidRequest(f"reasoning_effort: expected one of {known}", param="reasoning_effort")
    if thinking is not None and (effort == "none" or not adaptive):
        raise InvalidRequest("reasoning_effort: cannot be given together with thinking", param="reasoning_effort")
    if effort == "none":
        return {"type": "disabled"}, None
    if adaptive:
        if reticent:
            return thinking or {"type": "adaptive", "display": "summarized"}, EFFORTS[effort]
        return thinking or {"type": "adaptive"}, "max" if effort == "xhigh" else EFFORTS[effort]
    return {"type": "enabled", "budget_tokens": BUDGETS[effort]}, None


def _is_on(thinking: Mapping[str, Any] | None) -> bool:
    """Whether the request itself switches thinking on."""
    return thinking is not None and thinking["type"] in ("enabled", "adaptive")


def budget_of(thinking: Mapping[str, Any] | None) -> int | None:
    """The tokens that thinking may use, None if there is no budget.

    Raises:
        InvalidRequest: the budget is not a number.
    """
    if thinking is None or thinking["type"] != "enabled":
        return None
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise InvalidRequest("thinking.budget_tokens: expected a whole number", param="thinking.budget_tokens")
    return budget


def check(body: Mapping[str, Any]) -> None:
    """Refuse what Anthropic does not allow while the model thinks; reads the finished wire body.

    Raises:
        InvalidRequest: naming the parameter; another deployment may take it.
    """
    if not _is_on(body.get("thinking")):
        return
    if body.get("temperature", 1) != 1:
        raise _conflict("temperature", "must be 1 or absent")
    if body.get("top_p", 1) < 0.95:
        raise _conflict("top_p", "must be at least 0.95")
    if "top_k" in body:
        raise _conflict("top_k", "cannot be set")
    if body["thinking"]["type"] == "enabled" and body.get("tool_choice", {}).get("type") in ("any", "tool"):
        raise _conflict("tool_choice", "cannot force a tool", when="thinks within a budget")


def _conflict(name: str, why: str, *, when: str = "thinks") -> InvalidRequest:
    return InvalidRequest(f"{name}: {why} while the model {when}, at vendor 'anthropic'", param=name, retry=Retry.NEXT)
