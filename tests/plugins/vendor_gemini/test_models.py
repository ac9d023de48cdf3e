"""What depends on the model: its generation, and whether it can hold calls to a schema."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gatehook import Attempt
from gatehook.testing import Recorded, Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_gemini.vendor import Gemini

ANSWER = json.dumps({"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}).encode()
USER = {"role": "user", "content": "hello"}
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}


async def post(payload: Mapping[str, Any], **target: Any) -> tuple[Recorded, Attempt]:
    egress = ReplayEgress(Replay(ANSWER))
    one = attempt({"model": "public", **payload}, **({"model": "gemini-2.5-flash"} | target))
    await Gemini(egress).complete(one)
    return egress.requests[0], one


def tool(name: str = "look", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


@pytest.mark.parametrize("model", ["gemini-3-flash-preview", "gemini-flash-latest", "gemini-flash-lite-latest"])
async def test_names_that_move_with_the_latest_model_are_of_the_third_generation(model: str) -> None:
    history = [
        USER,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": ""},
    ]
    request, _ = await post({"messages": history, "reasoning_effort": "minimal"}, model=model)
    assert request.json["generationConfig"]["thinkingConfig"]["thinkingLevel"] == "MINIMAL"
    assert request.json["contents"][1]["parts"][0]["thoughtSignature"] == "skip_thought_signature_validator"


async def test_the_latest_pro_thinks_a_little_at_least() -> None:
    request, _ = await post({"messages": [USER], "reasoning_effort": "minimal"}, model="gemini-pro-latest")
    assert request.json["generationConfig"]["thinkingConfig"]["thinkingLevel"] == "LOW"


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        (None, {"mode": "VALIDATED"}),
        ("auto", {"mode": "VALIDATED"}),
        ("required", {"mode": "ANY"}),
        ("none", {"mode": "NONE"}),
        ({"type": "function", "function": {"name": "look"}}, {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ],
)
async def test_calls_of_a_strict_tool_are_held_to_its_schema(choice: Any, calling: dict[str, Any]) -> None:
    given = {"tools": [tool("other"), tool(strict=True)], "messages": [USER]}
    request, one = await post(given if choice is None else {**given, "tool_choice": choice})
    assert request.json["toolConfig"] == {"functionCallingConfig": calling}
    assert one.dropped == []


async def test_models_that_know_no_such_calls_lose_strictness_with_a_signal() -> None:
    given = {"tools": [tool(strict=True)], "messages": [USER]}
    request, one = await post(given, options={"json_schema": False})
    assert "toolConfig" not in request.json
    assert one.dropped == ["tools[0].function.strict"]
