"""The body of Converse and ConverseStream (bedrock-runtime's ConverseRequest)."""

import re
from collections.abc import Mapping
from typing import Any, Final

from gatehook import Attempt, Conversation, Egress, InvalidRequest, ToolUse, encode, read_conversation
from gatehook_bedrock.blocks import cache_point, fetched, messages, refused, system
from gatehook_bedrock.marks import keep_last_marks
from gatehook_bedrock.names import takes_strict, tells_failures
from gatehook_bedrock.options import Options
from gatehook_bedrock.reasoning import limit_name, sampling, tell_effort

__all__ = ["converse_body"]

_INFERENCE: Final = (("temperature", "temperature"), ("top_p", "topP"))
_LABEL: Final = re.compile(r"[A-Za-z0-9\s:_@$#=/+,.-]{0,256}", re.ASCII)
_MOST_LABELS: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TIERS: Final = {"default": "default", "flex": "flex", "priority": "priority"}


async def converse_body(
    attempt: Attempt, payload: Mapping[str, Any], options: Options, egress: Egress
) -> dict[str, Any]:
    """Write the request for a chat.

    Args:
        attempt: names the deployment, and records the parameters that are dropped.
        payload: the chat in OpenAI's shape.
        options: the deployment's.
        egress: gets the images that the client gave by URL.

    Raises:
        InvalidRequest: something Bedrock cannot do; another deployment may.
    """
    failures = tells_failures(attempt.target.model)
    conversation = read_conversation(payload["messages"], attempt.drop, tells_failures=failures)
    body = _configuration(attempt, payload, options)
    if tools := _tool_config(attempt, payload, conversation):
        body["toolConfig"] = tools
    if told := system(conversation.system):
        body["system"] = told
    body["messages"] = messages(conversation, await fetched(conversation, egress), attempt)
    contents = [message["content"] for message in body["messages"]]
    keep_last_marks(attempt, tools.get("tools", []), [told, *contents])
    return body


def _configuration(attempt: Attempt, payload: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Everything but the conversation and its tools."""
    sampled = sampling(attempt, payload)
    inference = {theirs: sampled[ours] for ours, theirs in _INFERENCE if ours in sampled}
    if (limit := _limit(attempt, payload)) is not None:
        inference["maxTokens"] = limit
    if stop := payload.get("stop"):
        inference["stopSequences"] = [stop] if isinstance(stop, str) else stop
    fields, output = dict(options.extra), _text_format(payload.get("response_format"))
    if "top_k" in sampled:
        _top_k(attempt, sampled["top_k"], fields)
    if "reasoning_effort" in payload:
        tell_effort(attempt, payload, options.reasoning, (inference, fields, output))
    if inference.get("temperature", 0) > 1:
        raise refused("temperature", "Bedrock takes 0 to 1")
    tier = payload.get("service_tier", "auto")
    if tier not in ("auto", *_TIERS):
        raise refused("service_tier", f"expected one of auto, {', '.join(_TIERS)}")
    body = {
        "inferenceConfig": inference,
        "additionalModelRequestFields": fields,
        "outputConfig": output,
        "guardrailConfig": dict(options.guardrail),
        "requestMetadata": _metadata(attempt, payload),
        "performanceConfig": {"latency": options.latency} if options.latency else None,
        "serviceTier": {"type": tier} if tier in _TIERS else None,
    }
    return {name: value for name, value in body.items() if value}


def _limit(attempt: Attempt, payload: Mapping[str, Any]) -> int | None:
    """The most tokens of the answer: Bedrock refuses more than the model can give."""
    name, cap = limit_name(payload), attempt.target.max_tokens
    limit: int | None = payload.get(name, cap)
    if limit is None or cap is None or limit <= cap:
        return limit
    attempt.drop(name)
    return cap


def _metadata(attempt: Attempt, payload: Mapping[str, Any]) -> dict[str, str]:
    """The labels that Bedrock takes: for others it would refuse the request."""
    given = payload.get("metadata") or {}
    kept = {key: value for key, value in given.items() if key and _LABEL.fullmatch(key) and _LABEL.fullmatch(value)}
    kept = dict(list(kept.items())[:_MOST_LABELS])
    if len(kept) < len(given):
        attempt.drop("metadata")
    return kept


def _top_k(attempt: Attempt, top_k: Any, fields: dict[str, Any]) -> None:
    if "anthropic." in attempt.target.model:
        fields["top_k"] = top_k
    elif "amazon.nova" in attempt.target.model:
        fields["inferenceConfig"] = {"topK": top_k}
    else:
        attempt.drop("top_k")


def _text_format(wanted: Any) -> dict[str, Any]:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if wanted is None or kind == "text":
        return {}
    if kind != "json_schema":
        raise refused("response_format.type", "Bedrock holds answers to a JSON schema, and to nothing else")
    given = wanted.get("json_schema") or {}
    if not isinstance(given.get("schema"), dict):
        raise refused("response_format.json_schema.schema", "expected a JSON schema")
    told = {"schema": encode(given["schema"]).decode()}
    told |= {name: given[name] for name in ("name", "description") if given.get(name)}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": told}}}


def _tool_config(attempt: Attempt, payload: Mapping[str, Any], conversation: Conversation) -> dict[str, Any]:
    given = enumerate(payload.get("tools") or ())
    tools = [block for number, tool in given for block in _tool(attempt, tool, f"tools[{number}]")]
    used = {part.name for turn in conversation.turns for part in turn.parts if isinstance(part, ToolUse)}
    choice = payload.get("tool_choice", "auto")
    if choice == "none":
        if used:
            raise refused(
                "tool_choice", "Bedrock cannot be kept from calling tools once the conversation has called some"
            )
        return {}
    if not tools:  # Bedrock wants to know the tools that a conversation has used
        schema = {"json": {"type": "object", "properties": {}}}
        tools = [{"toolSpec": {"name": name, "inputSchema": schema}} for name in sorted(used)]
    if not tools:
        return {}
    return {"tools": tools} | _choice(choice)


def _tool(attempt: Attempt, tool: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    if tool.get("type", "function") != "function":
        raise refused(f"{path}.type", f"only function tools can be translated, not {tool['type']!r}")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest(f"{path}.function: expected a function", param=f"{path}.function")
    if not _NAME.fullmatch(function["name"]):
        raise refused(f"{path}.function.name", "Bedrock takes up to 64 letters, digits, underscores and hyphens")
    spec: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        spec["description"] = function["description"]
    spec["inputSchema"] = {"json": _schema(function.get("parameters") or {}, f"{path}.function.parameters")}
    if function.get("strict"):
        if takes_strict(attempt.target.model):
            spec["strict"] = True
        else:
            attempt.drop(f"{path}.function.strict")
    mark = tool.get("cache_control") or function.get("cache_control")
    return [{"toolSpec": spec}, cache_point(mark)] if mark else [{"toolSpec": spec}]


def _schema(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Arguments' schema with its type, without which Bedrock refuses it."""
    if schema.get("type", "object") != "object":
        raise refused(f"{path}.type", "a tool's arguments must be an object")
    return schema if "type" in schema else {"type": "object", "properties": {}, **schema}


def _choice(choice: Any) -> dict[str, Any]:
    if choice == "auto":
        return {}
    if choice == "required":
        return {"toolChoice": {"any": {}}}
    name = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    if not isinstance(name, str):
        raise refused("tool_choice", "expected 'auto', 'none', 'required' or a function")
    return {"toolChoice": {"tool": {"name": name}}}
