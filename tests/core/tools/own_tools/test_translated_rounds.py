"""Rounds at a vendor of another dialect: what the model thought and called is given back to it in its own form."""

from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook.testing import Reply, StubUpstream, serving

THINKING = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"q": "tea"}}
SETTINGS = """
[plugins.own]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_anthropic]
[[models]]
name = "m"
vendor = "anthropic"
base_url = "{url}"
api_key = "a-made-up-key"
"""


def says(*content: Any, reason: str) -> Reply:
    usage = {"input_tokens": 10, "output_tokens": 5}
    return Reply.of_json(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": content,
            "stop_reason": reason,
            "usage": usage,
        }
    )


@pytest.mark.parametrize("effort", [None, "high"])
async def test_anthropic_s_thinking_and_calls_come_back_as_they_were(kit: Any, effort: str | None) -> None:
    replies = says(THINKING, CALL, reason="tool_use"), says({"type": "text", "text": "Here."}, reason="end_turn")
    tool = kit.Noting()
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9000}
    if effort:
        body["reasoning_effort"] = effort
    async with (
        StubUpstream(*replies) as stub,
        serving(SETTINGS.format(url=stub.url), plugins={"own": kit.plugin(register_tools=[tool])}) as served,
        ClientSession() as session,
        session.post(f"{served.url}/v1/chat/completions", json=body) as answer,
    ):
        said = await answer.json()
    assert said["choices"][0]["message"]["content"] == "Here."
    assert said["usage"]["total_tokens"] == 30
    _, assistant, result = stub.requests[1].json["messages"]
    assert assistant["role"] == "assistant"
    assert assistant["content"][-1] == CALL
    if effort:
        assert assistant["content"][0] == THINKING
    assert result["role"] == "user"
    assert result["content"][0]["type"] == "tool_result"
    assert result["content"][0]["tool_use_id"] == "toolu_1"


@pytest.mark.parametrize("strict", [False, True])
async def test_what_is_lost_of_messages_that_the_client_did_not_send_is_neither_told_nor_refused(
    kit: Any, strict: bool
) -> None:
    """Thoughts without a proof go back to no vendor; those of the client's own messages are told all the same."""
    unproven = {"type": "thinking", "thinking": "hm"}
    rounds = [says(unproven, CALL | {"id": f"toolu_{number}"}, reason="tool_use") for number in range(2)]
    text = SETTINGS + (f"strict = {str(strict).lower()}\n")
    said = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    user = {"role": "user", "content": "hi"}
    messages = [user] if strict else [user, said, user]
    async with (
        StubUpstream(*rounds, says({"type": "text", "text": "Here."}, reason="end_turn")) as stub,
        serving(text.format(url=stub.url), plugins={"own": kit.plugin(register_tools=[kit.Noting()])}) as served,
        ClientSession() as session,
        session.post(f"{served.url}/v1/chat/completions", json={"model": "m", "messages": messages}) as answer,
    ):
        assert answer.status == 200, await answer.text()
    lost = None if strict else "messages[1].reasoning_content"
    assert answer.headers.get("X-Gatehook-Dropped-Params") == lost
