"""The surface within the pipeline: who may call, counts, errors of all kinds, caches, questions about tool calls."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gatehook import Call, Section, Tool, Unavailable, hookimpl
from gatehook.testing import Reply
from gatehook_plugins.messages_api.errors import error_answer

Open = Callable[..., AbstractAsyncContextManager[Any]]

ADMIN, USER = "sk-admin-0123456789abcdef", "sk-user-0123456789abcdefgh"
KEYS = f'[plugins.auth_keys]\nadmin_keys = ["{ADMIN}"]\nkeys = ["{USER}"]\n'
BODY: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
COUNT = "/v1/messages/count_tokens"


# --- who may call --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/messages", COUNT])
async def test_a_key_is_shown_in_either_way(front: Open, path: str) -> None:
    async with front(more=KEYS) as gateway:
        for shown in ({"x-api-key": USER}, {"Authorization": f"Bearer {USER}"}):
            assert (await gateway.ask(BODY, path, **shown)).status == 200
        for shown in ({}, {"x-api-key": "wrong"}):
            answer = await gateway.ask(BODY, path, **shown)
            assert "API key" in answer.error(401, "authentication_error")


async def test_a_model_that_a_user_may_not_use_is_none(front: Open, tmp_path: Path) -> None:
    accounts = (
        f'{KEYS}[plugins.database]\n[plugins.admin_api]\n[database]\nurl = "sqlite+aiosqlite:///{tmp_path}/g.db"\n'
    )
    as_admin = {"Authorization": f"Bearer {ADMIN}"}
    async with front(more=accounts) as gateway:
        user = {"user_id": "ann", "models": ["other"]}
        assert (await gateway.ask(user, "/admin/users", **as_admin)).status == 201
        key = (await gateway.ask({}, "/admin/users/ann/keys", **as_admin)).json["key"]
        message = (await gateway.ask(BODY, COUNT, **{"x-api-key": key})).error(404, "not_found_error")
        assert message == "the model 'm' does not exist"
        (await gateway.ask(BODY, **{"x-api-key": key})).error(403, "permission_error")
        assert (await gateway.ask(BODY, COUNT, **as_admin)).status == 200


# --- counts --------------------------------------------------------------------------------------------------------


async def test_tokens_are_counted_as_the_gateway_estimates_them(front: Open) -> None:
    async with front() as gateway:
        counts = []
        for said in ("x" * 400, "x" * 4000):
            body = {"model": "m", "messages": [{"role": "user", "content": said}]}
            answer = await gateway.ask(body, COUNT)
            assert answer.status == 200
            assert set(answer.json) == {"input_tokens"}
            assert answer.headers["request-id"].startswith("req_")
            counts.append(answer.json["input_tokens"])
    assert counts[1] - counts[0] == 900
    assert 100 < counts[0] < 150
    assert not gateway.stub.requests


async def test_tokens_of_a_model_that_there_is_not_cannot_be_counted(front: Open) -> None:
    async with front() as gateway:
        answer = await gateway.ask(BODY | {"model": "nobody_knows_this"}, COUNT)
    assert "nobody_knows_this" in answer.error(404, "not_found_error")


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/messages", COUNT])
async def test_an_error_tells_the_request_in_both_headers_and_in_its_body(front: Open, path: str) -> None:
    async with front(more=KEYS) as gateway:
        for body, key in (
            (BODY, "wrong"),
            (b"{", USER),
            (BODY | {"model": "none"}, USER),
            (BODY | {"top_k": -1}, USER),
        ):
            answer = await gateway.ask(body, path, **{"x-api-key": key})
            assert answer.status >= 400
            ids = {answer.headers["request-id"], answer.headers["X-Request-ID"], answer.json["request_id"]}
            assert len(ids) == 1


def test_what_is_unavailable_is_overloaded_also_where_there_is_no_call() -> None:
    answer = error_answer(Unavailable("not now"))
    assert answer.status == 529
    assert '"overloaded_error"' in str(answer.text)


async def test_a_good_answer_tells_it_too(front: Open) -> None:
    async with front() as gateway:
        answer = await gateway.ask(BODY)
    assert answer.headers["request-id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages/batches/b_1", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("PUT", COUNT, 405, "invalid_request_error"),
    ],
)
async def test_other_paths_answer_in_its_shape(front: Open, method: str, path: str, status: int, kind: str) -> None:
    async with front() as gateway:
        assert path in (await gateway.ask(BODY, path, method)).error(status, kind)


async def test_a_body_that_is_too_large_and_one_of_another_type(front: Open) -> None:
    async with front(server="max_body = 1000") as gateway:
        (await gateway.ask(BODY | {"system": "x" * 2000})).error(413, "request_too_large")
        (await gateway.ask(BODY, **{"Content-Type": "text/plain"})).error(415, "invalid_request_error")


async def test_the_beta_of_an_sdk_is_the_same_path(front: Open) -> None:
    async with front() as gateway:
        answer = await gateway.ask(BODY, "/v1/messages?beta=true", **{"anthropic-beta": "something-2026-01-01"})
    assert answer.json["content"] == [{"type": "text", "text": "Yes."}]


# --- beside other plugins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_from_a_cache_is_the_one_that_was_stored(front: Open, stream: bool) -> None:
    async with front("mock", Reply(), more="[plugins.cache]\n") as gateway:
        first, again = [await gateway.ask(BODY | {"stream": stream}) for _ in range(2)]
    assert [one.headers["X-Cache"] for one in (first, again)] == ["miss", "hit"]
    if not stream:
        assert {**again.json, "id": ""} == {**first.json, "id": ""}
        return
    assert first.events[1:] == again.events[1:]
    assert first.events[-2]["usage"]["output_tokens"] > 0


TOOLS = [{"name": "delete_it", "input_schema": {"type": "object", "properties": {}}}]


def called(*, stream: bool, arguments: str = "{}", text: str = "I do.", name: str = "delete_it") -> Reply:
    """A vendor's answer that says something and calls a tool."""
    made = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    head = {"id": "up", "created": 5, "model": "up"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    if not stream:
        message = {"role": "assistant", "content": text, "tool_calls": [made]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return Reply.of_json({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    deltas: list[Any] = [{"role": "assistant", "content": text}, {"tool_calls": [{"index": 0, **made}]}]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    chunks = [{**head, "object": "chat.completion.chunk", "choices": [one]} for one in choices]
    events = [*chunks, {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}]
    return Reply.of_events(b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events) + b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_somebody_has_to_allow_is_told_beside_the_message(
    front: Open, tmp_path: Path, stream: bool
) -> None:
    more = (
        f'[plugins.database]\n[database]\nurl = "sqlite+aiosqlite:///{tmp_path}/g.db"\n'
        '[plugins.tool_policy]\nrules = [{ tool = "delete_*", verdict = "confirm" }]\n'
    )
    async with front("openai", called(stream=stream), more=KEYS + more) as gateway:
        answer = await gateway.ask(BODY | {"tools": TOOLS, "stream": stream}, **{"x-api-key": USER})
    assert answer.status == 200, answer.body
    told = answer.events[-2] if stream else answer.json
    assert told["status"] == "require_confirmation"
    assert told["session_id"].startswith("sess_")
    assert [one["id"] for one in told["pending_tool_calls"]] == ["call_1"]
    assert (told["delta"] if stream else told)["stop_reason"] == "end_turn"
    if not stream:
        assert told["content"] == [{"type": "text", "text": "I do."}]


BASH = {"type": "bash_20250124", "name": "bash"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_that_claude_was_taught_reaches_claude_and_comes_back(front: Open, stream: bool) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}}
    gave = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a.txt", "is_error": False}
    turns = [*BODY["messages"], {"role": "assistant", "content": [call]}, {"role": "user", "content": [gave]}]
    async with front("anthropic") as gateway:
        counted = await gateway.ask(BODY | {"tools": [BASH]}, COUNT)
        answer = await gateway.ask(BODY | {"tools": [BASH], "messages": turns, "stream": stream})
        sent = gateway.asked
    assert counted.status == 200
    assert "X-Gatehook-Dropped-Params" not in answer.headers
    assert sent["tools"] == [BASH]
    assert sent["messages"][1]["content"] == [call]


async def test_policies_see_a_tool_that_claude_was_taught_by_its_name(front: Open) -> None:
    more = '[plugins.tool_policy]\nrules = [{ tool = "bash", verdict = "deny" }]\n'
    async with front("anthropic", more=more) as gateway:
        await gateway.ask(BODY | {"tools": [BASH, *TOOLS]})
        assert [one["name"] for one in gateway.asked["tools"]] == ["delete_it"]
        answer = await gateway.ask(BODY | {"tools": [BASH], "tool_choice": {"type": "tool", "name": "bash"}})
    assert "the tool 'bash' may not be used" in answer.error(403, "permission_error")


async def test_a_model_without_the_tools_that_claude_was_taught_is_passed_by(front: Open) -> None:
    async with front("openai") as gateway:
        answer = await gateway.ask(BODY | {"tools": [BASH]})
        assert gateway.stub.requests == []
        told = answer.error(400, "invalid_request_error")
    assert told.startswith("tools[0].type: 'bash_20250124' is a tool of Anthropic's own, which this model does not")


async def test_arguments_that_are_no_object_break_a_stream_off(front: Open) -> None:
    async with front("openai", called(stream=True, arguments="[]")) as gateway:
        answer = await gateway.ask(BODY | {"tools": TOOLS, "stream": True})
    *_, last = answer.events
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")
    assert "'delete_it' has arguments that are no JSON object" in last["error"]["message"]


async def test_a_stream_of_openai_s_from_a_cache_tells_its_tokens(front: Open) -> None:
    async with front("openai", called(stream=True), more="[plugins.cache]\n") as gateway:
        first, again = [await gateway.ask(BODY | {"tools": TOOLS, "stream": True}) for _ in range(2)]
    assert [one.headers["X-Cache"] for one in (first, again)] == ["miss", "hit"]
    assert first.events[1:] == again.events[1:]
    counts = again.events[-2]["usage"]
    assert (counts["input_tokens"], counts["output_tokens"]) == (10, 5)


class Clock:
    """A tool of the gateway's own."""

    name = "now"
    description = "Tells the time."
    parameters: ClassVar[Any] = {"type": "object", "properties": {}}

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        return "noon"


class Clocks:
    Settings = Section

    def __init__(self, settings: Section) -> None: ...

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [Clock()]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_of_the_gateway_s_own_is_run_between_two_texts(front: Open, stream: bool) -> None:
    first = called(stream=stream, name="now")
    second = called(stream=stream, text="It is noon.", name="delete_it")
    async with front("openai", first, second, more="[plugins.clocks]\n", plugins={"clocks": Clocks}) as gateway:
        answer = await gateway.ask(BODY | {"tools": TOOLS, "stream": stream})
    assert answer.status == 200, answer.body
    assert gateway.asked["messages"][-1]["content"] == "noon"
    if stream:
        starts = [event["content_block"] for event in answer.events if event["type"] == "content_block_start"]
        assert [block["type"] for block in starts] == ["text", "tool_use"]
        assert starts[1]["name"] == "delete_it"
        assert [event["type"] for event in answer.events].count("message_stop") == 1
    else:
        assert [block["type"] for block in answer.json["content"]] == ["text", "tool_use"]
        assert answer.json["usage"]["output_tokens"] == 10


# --- silence -------------------------------------------------------------------------------------------------------


async def test_silence_is_broken_by_pings(front: Open) -> None:
    first = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hm"}, "finish_reason": None}]}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    thinking = [b": thinking\n\n"] * 20
    pieces = [b"data: %b\n\n" % json.dumps(one).encode() for one in (first, last)]
    reply = Reply.of_events([pieces[0], *thinking, pieces[1], b"data: [DONE]\n\n"], pause=0.05)
    async with front("openai", reply, server="heartbeat = 0.1") as gateway:
        answer = await gateway.ask(BODY | {"stream": True})
    kinds = [event["type"] for event in answer.events]
    assert kinds.count("ping") >= 2
    assert b": keep-alive" not in answer.body
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
