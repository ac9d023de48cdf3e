"""How much a model shall think, in the form that it understands; and the sampling that it allows.

Up to 4.5, Claude thinks within a budget of tokens; later versions decide for themselves, guided by an effort. Since 4.1
it takes temperature and top_p only one without the other; since 4.7 sampling is fixed, and the reasoning is shown only
if the request asks for that.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from gatehook import Attempt
from gatehook_bedrock.blocks import refused
from gatehook_bedrock.names import claude_version

__all__ = ["Way", "limit_name", "sampling", "tell_effort"]

Way = Literal["budget", "adaptive", "effort", "nova", "openai", "field", "none"]

_BUDGETS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
"""The most tokens of reasoning, by effort. Up to xhigh they are those of the vendor `anthropic`, as the models are the
same; its max, 65536, is more than Bedrock lets any model answer with that thinks within a budget."""
_ANSWER: Final = 4096
"""The tokens beside a budget, where nothing limits the answer."""
_THREE: Final = {"minimal": "low", "xhigh": "high", "max": "high"}
"""Efforts that Nova and gpt-oss do not know, and the nearest that they do."""

_EITHER_SINCE: Final = (4, 1)
_ADAPTIVE_SINCE: Final = (4, 6)
_FIXED_SINCE: Final = (4, 7)
_FIXED: Final = re.compile(r"openai\.(?!gpt-oss)|xai\.grok")
"""Other models whose sampling is fixed: Bedrock refuses to be told of it."""
_SAMPLING: Final = ("temperature", "top_p", "top_k")
_LEAST_TOP_P: Final = 0.95
"""The least that Claude allows while it thinks."""
_TOP_P_OF_COHERE: Final = (0.01, 0.99)


def limit_name(payload: Mapping[str, Any]) -> str:
    """The parameter that limits the answer: of the two that may, the one that wins."""
    return "max_completion_tokens" if "max_completion_tokens" in payload else "max_tokens"


def sampling(attempt: Attempt, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the request's temperature, top_p and top_k that the model allows."""
    given = {name: payload[name] for name in _SAMPLING if name in payload}
    version = claude_version(attempt.target.model)
    if version < _FIXED_SINCE and not _FIXED.search(attempt.target.model):
        if version >= _EITHER_SINCE and "temperature" in given and "top_p" in given:
            left_out = "temperature" if given["temperature"] == 1 else "top_p"
            if given.pop(left_out) != 1:  # 1 says nothing
                attempt.drop(left_out)
        if "cohere." in attempt.target.model and "top_p" in given:
            given["top_p"] = _nearest(attempt, given["top_p"])
        return given
    for name, value in given.items():
        if name == "top_k" or value != 1:  # 1 is the fixed value of the other two, so nothing is lost
            attempt.drop(name)
    return {}


def _nearest(attempt: Attempt, top_p: float) -> float:
    """The nearest top_p that Cohere's models take at Bedrock. Without any they would take their own, 0.75."""
    least, most = _TOP_P_OF_COHERE
    if not least <= top_p <= most:
        attempt.drop("top_p")
    return min(max(top_p, least), most)


def tell_effort(
    attempt: Attempt,
    payload: Mapping[str, Any],
    way: Way | None,
    places: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
) -> None:
    """Write an effort where the model looks for it.

    Args:
        attempt: records the parameters that are dropped.
        payload: the request, with a `reasoning_effort`.
        way: the form in which it is written; None to go by the model's name.
        places: inferenceConfig, additionalModelRequestFields and outputConfig.

    Raises:
        InvalidRequest: there is no such effort, or it does not go with the rest of the request.
    """
    effort = payload["reasoning_effort"]
    if effort not in ("none", *_BUDGETS):
        raise refused("reasoning_effort", f"expected one of none, {', '.join(_BUDGETS)}")
    inference, fields, output = places
    match way or _way(attempt.target.model):
        case "none":
            attempt.drop("reasoning_effort")
        case "field" if effort == "none":  # gpt-oss cannot but think
            attempt.drop("reasoning_effort")
        case "field":
            fields["reasoning_effort"] = _THREE.get(effort, effort)
        case "openai":
            more = fields.get("reasoning", {})  # an operator may have it summed up
            fields["reasoning"] = {**more, "effort": "low" if effort == "minimal" else effort}
        case "nova" if effort == "none":
            fields["reasoningConfig"] = {"type": "disabled"}
        case "nova":
            _tell_nova(attempt, payload, inference, fields)
        case "adaptive":
            _adapt(attempt, effort, inference, fields)
        case "effort" if effort != "none":
            output["effort"] = "low" if effort == "minimal" else effort
        case "budget" if effort != "none":
            _budget(attempt, payload, inference, fields)


def _way(model: str) -> Way:
    if "anthropic." in model:
        return "adaptive" if claude_version(model) >= _ADAPTIVE_SINCE else "budget"
    if "amazon.nova-2" in model:
        return "nova"
    if "openai." in model:
        return "field" if "openai.gpt-oss" in model else "openai"
    return "none"


def _adapt(attempt: Attempt, effort: str, inference: dict[str, Any], fields: dict[str, Any]) -> None:
    if effort == "none":
        fields["thinking"] = {"type": "disabled"}
        return
    later = claude_version(attempt.target.model) >= _FIXED_SINCE
    fields["thinking"] = {"type": "adaptive"} | ({"display": "summarized"} if later else {})
    known = {"minimal": "low"} if later else {"minimal": "low", "xhigh": "max"}
    fields["output_config"] = {"effort": known.get(effort, effort)}
    _drop_sampling(attempt, inference, fields)


def _tell_nova(attempt: Attempt, payload: Mapping[str, Any], inference: dict[str, Any], fields: dict[str, Any]) -> None:
    """Set Nova's effort. Within a high one it refuses sampling and a limit of the answer, which it chooses itself."""
    effort = _THREE.get(payload["reasoning_effort"], payload["reasoning_effort"])
    fields["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": effort}
    if effort != "high":
        return
    for ours, theirs in {"temperature": "temperature", "top_p": "topP", limit_name(payload): "maxTokens"}.items():
        if inference.pop(theirs, None) is not None and ours in payload:
            attempt.drop(ours)
    if "top_k" in payload:
        del fields["inferenceConfig"]
        attempt.drop("top_k")


def _budget(attempt: Attempt, payload: Mapping[str, Any], inference: dict[str, Any], fields: dict[str, Any]) -> None:
    """Set a budget for reasoning, which is part of the answer's limit."""
    if payload.get("tool_choice", "auto") not in ("auto", "none"):
        raise refused("tool_choice", "Claude cannot be made to call a tool while it thinks within a budget")
    budget = _BUDGETS[payload["reasoning_effort"]]
    limit = inference.setdefault("maxTokens", budget + _ANSWER)
    if limit <= budget:
        inference["maxTokens"] = _raised(limit, budget, attempt.target.max_tokens)
        attempt.drop(limit_name(payload))
    fields["thinking"] = {"type": "enabled", "budget_tokens": budget}
    _drop_sampling(attempt, inference, fields)


def _raised(limit: int, budget: int, cap: int | None) -> int:
    """A limit with room for reasoning, too: that which the client gave the answer is kept, as far as the model can."""
    raised = limit + budget if cap is None else min(limit + budget, cap)
    if raised <= budget:
        why = f"a budget of {budget} tokens leaves no room for an answer within this model's {cap}"
        raise refused("reasoning_effort", why)
    return raised


def _drop_sampling(attempt: Attempt, inference: dict[str, Any], fields: dict[str, Any]) -> None:
    """Drop what Claude does not allow while it thinks: temperature, a low top_p, and top_k."""
    if inference.pop("temperature", 1) != 1:
        attempt.drop("temperature")
    if inference.get("topP", 1) < _LEAST_TOP_P:
        del inference["topP"]
        attempt.drop("top_p")
    if fields.pop("top_k", None) is not None:
        attempt.drop("top_k")
