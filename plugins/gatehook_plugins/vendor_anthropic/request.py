"""A chat as a request of Anthropic's Messages API (`anthropic.types.MessageCreateParams`)."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from gatehook import Attempt, InvalidRequest, Retry, ToolUse, read_conversation
from gatehook_plugins.vendor_anthropic import thinking, tools, turns
from gatehook_plugins.vendor_anthropic.profile import Profile

__all__ = ["write"]

Body = dict[str, Any]
Drop = Callable[[str], None]


def write(payload: Mapping[str, Any], attempt: Attempt, profile: Profile) -> Body:
    """The body of `POST /v1/messages`.

    Raises:
        InvalidRequest: something that Anthropic cannot do, or that makes no sense.
    """
    drop = attempt.drop
    place: Literal["first", "after_user"] = "after_user" if profile.inline_system else "first"
    conversation = read_conversation(payload["messages"], drop, system=place, tells_failures=True, takes_notes=True)
    body: Body = {
        "model": profile.target.model,
        "max_tokens": 0,
        "messages": turns.messages(conversation.turns, drop),
    }
    if system := turns.system(conversation.system):
        body["system"] = system
    if payload.get("stream") is True:
        body["stream"] = True
    called = (part for turn in conversation.turns for part in turn.parts if isinstance(part, ToolUse))
    _write_tools(body, payload, called, profile, drop)
    turns.keep_last_marks(_blocks(body), drop)
    _write_sampling(body, payload, profile, drop)
    _write_output(body, payload, profile, drop)
    _write_limit(body, payload, profile, drop)
    if stop := _stop(payload.get("stop")):
        body["stop_sequences"] = stop
    if user := _user(payload):
        body["metadata"] = {"user_id": user}
    _write_tier(body, payload.get("service_tier"), drop)
    thinking.check(body)
    return body


def _blocks(body: Body) -> Iterator[turns.Block]:
    """Everything that may carry a cache mark, in the order in which Anthropic reads it."""
    contents = (message["content"] for message in body["messages"])
    return itertools.chain(body.get("tools", ()), body.get("system", ()), itertools.chain.from_iterable(contents))


def _write_tools(
    body: Body, payload: Mapping[str, Any], called: Iterator[ToolUse], profile: Profile, drop: Drop
) -> None:
    wire = tools.offered(payload.get("tools") or [], strict=profile.structured_outputs, drop=drop)
    wire = tools.allowed(payload.get("tool_choice"), wire)
    choice = tools.choice(payload, (tool["name"] for tool in wire))
    if not wire and (wire := tools.remembered(called)):
        choice = {"type": "none"}
    if wire:
        body["tools"] = wire
    if choice:
        body["tool_choice"] = choice


def _write_sampling(body: Body, payload: Mapping[str, Any], profile: Profile, drop: Drop) -> None:
    for name in ("temperature", "top_p", "top_k"):
        value = payload.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"{name}: expected a number", param=name)
        if name == "temperature" and value > 1:
            raise InvalidRequest(
                "temperature: vendor 'anthropic' takes 0 to 1", param=name, code="unsupported_value", retry=Retry.NEXT
            )
        if profile.sampling:
            body[name] = value
        elif name == "top_k" or value != 1:  # 1 is the fixed value of the other two, so nothing is lost
            drop(name)
    if profile.either and "temperature" in body and "top_p" in body:
        left_out = "temperature" if body["temperature"] == 1 else "top_p"
        if body.pop(left_out) != 1:
            drop(left_out)


def _write_output(body: Body, payload: Mapping[str, Any], profile: Profile, drop: Drop) -> None:
    config: Body = {}
    wire, effort = thinking.plan(payload, adaptive=profile.adaptive, reticent=profile.reticent)
    for name in payload.get("output_config") or ():
        if name != "effort":
            drop(f"output_config.{name}")
    if wire is not None:
        body["thinking"] = wire
    if effort is not None:
        config["effort"] = effort
    if schema := _format(payload.get("response_format"), profile, drop):
        config["format"] = schema
    if config:
        body["output_config"] = config


def _format(asked: Any, profile: Profile, drop: Drop) -> Body | None:
    kind = asked.get("type") if isinstance(asked, dict) else None
    if asked is None or kind == "text":
        return None
    if kind == "json_object":
        raise _no_format(
            "Anthropic cannot promise JSON of no particular shape; use type 'json_schema' with the schema you expect"
        )
    if kind != "json_schema":
        raise InvalidRequest(
            "response_format.type: expected 'text', 'json_object' or 'json_schema'", param="response_format"
        )
    if not profile.structured_outputs:
        raise _no_format("this model cannot hold its answer to a schema (options.structured_outputs)")
    wrapper = asked.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequest("response_format.json_schema.schema: expected a JSON schema", param="response_format")
    if wrapper.get("description"):
        drop("response_format.json_schema.description")
    return {"type": "json_schema", "schema": schema}


def _no_format(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"response_format: {why}", param="response_format", code="unsupported_parameter", retry=Retry.NEXT
    )


def _write_limit(body: Body, payload: Mapping[str, Any], profile: Profile, drop: Drop) -> None:
    """max_tokens, which Anthropic demands: within the model's cap, and above what thinking may use."""
    name = "max_completion_tokens" if payload.get("max_completion_tokens") is not None else "max_tokens"
    asked, cap = payload.get(name), profile.target.max_tokens
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 0):
        raise InvalidRequest(f"{name}: expected a whole number of at least 0", param=name)
    limit = profile.default_max_tokens if asked is None else asked
    budget = thinking.budget_of(body.get("thinking"))
    if budget is not None and limit <= budget:
        # The room that the client gave the answer is kept, and the thinking comes on top.
        limit += budget
    if cap is not None and limit > cap:
        limit = cap
        if budget is not None and limit <= budget:
            raise InvalidRequest(
                f"thinking: a budget of {budget} tokens leaves no room for an answer within this model's {cap}",
                param="thinking" if "thinking" in payload else "reasoning_effort",
                retry=Retry.NEXT,
            )
    if asked is not None and limit != asked:
        drop(name)
    body["max_tokens"] = limit


def _stop(stop: Any) -> list[str]:
    """The wire's stop sequences.

    Raises:
        InvalidRequest: not text, or white space, which Anthropic does not stop at.
    """
    if stop is None:
        return []
    listed = [stop] if isinstance(stop, str) else stop
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise InvalidRequest("stop: expected a string or an array of strings", param="stop")
    if any(not one.strip() for one in listed):
        raise InvalidRequest(
            "stop: vendor 'anthropic' cannot stop at white space",
            param="stop",
            code="unsupported_value",
            retry=Retry.NEXT,
        )
    return listed


def _write_tier(body: Body, tier: Any, drop: Drop) -> None:
    """The tier that only Anthropic has; OpenAI's standard one is what there is without a word."""
    if tier == "standard_only":
        body["service_tier"] = tier
    elif tier not in (None, "auto", "default"):
        drop("service_tier")


def _user(payload: Mapping[str, Any]) -> str | None:
    for name in ("user", "safety_identifier"):
        value = payload.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{name}: expected a string", param=name)
        if value:
            return value
    return None
