"""Through whole gateways: what the vendor gets, what the client gets, at every cut of a stream."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession

from gatehook import Section, StartupError, hookimpl
from gatehook.testing import Reply, StubUpstream, built, serving
from gatehook_guard import GuardPlugin

PLUGINS = {"guard": GuardPlugin}
MAIL, CARD = "ann@example.org", "4111 1111 1111 1111"
Sent = Callable[..., Any]

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_openai]
[plugins.guard]
{guard}
{more}
[[models]]
name = "m"
vendor = "openai"
base_url = "{url}/v1"
"""


def answer(**message: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return Reply.of_json({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def stream(*deltas: dict[str, Any], reason: str = "stop") -> bytes:
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "finish_reason": None} for delta in ({"role": "assistant"}, *deltas)
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": reason})
    head: dict[str, Any] = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return (
        b"".join(b"data: %b\n\n" % json.dumps({**head, "choices": [one]}).encode() for one in choices)
        + b"data: [DONE]\n\n"
    )


async def ask(
    reply: Reply | Sequence[Reply], messages: Any, guard: str = "", more: str = "", **fields: Any
) -> tuple[Any, int, Any, Any]:
    """What the vendor got (None if nothing); the status, the body, the headers."""
    replies = [reply] if isinstance(reply, Reply) else list(reply)
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    async with StubUpstream(*replies) as stub:
        settings = SETTINGS.format(guard=guard, more=more, url=stub.url)
        data = bytearray()
        async with (
            serving(settings, plugins=PLUGINS) as served,
            ClientSession(served.url) as session,
            session.post("/v1/chat/completions", json={"model": "m", "messages": given, **fields}) as got,
        ):
            with suppress(ClientPayloadError):
                async for piece in got.content.iter_any():
                    data += piece
        sent = stub.requests[0].json if stub.requests else None
        return sent, got.status, bytes(data) if fields.get("stream") else json.loads(data), got.headers


def deltas(data: bytes) -> list[dict[str, Any]]:
    events = [json.loads(event[6:]) for event in data.split(b"\n\n") if event[6:7] == b"{"]
    return [choice["delta"] for event in events for choice in event["choices"]]


def said(data: bytes, field: str = "content") -> str:
    return "".join(delta.get(field) or "" for delta in deltas(data))


async def test_the_vendor_gets_placeholders_and_the_client_its_own_words_back() -> None:
    reply = answer(content="I wrote to [EMAIL_1] about [CARD_1], not to [EMAIL_2] or [EMAIL_9].")
    asked = f"{MAIL} pays with {CARD}; cc bob@example.org and {MAIL}"
    sent, _, data, headers = await ask(reply, asked)
    assert sent["messages"][0]["content"] == "[EMAIL_1] pays with [CARD_1]; cc [EMAIL_2] and [EMAIL_1]"
    content = data["choices"][0]["message"]["content"]
    assert content == f"I wrote to {MAIL} about {CARD}, not to bob@example.org or [EMAIL_9]."
    assert headers["X-Guard-Masked"] == "email=2, card=1"


async def test_every_text_of_a_request_is_looked_at_and_nothing_else_is_changed() -> None:
    call = {"id": MAIL, "type": "function", "function": {"name": "send", "arguments": '{"to": "ann@example.org"}'}}
    picture = {"type": "image_url", "image_url": {"url": "https://a.example/ann@example.org.png"}}
    messages = [
        {"role": "system", "content": f"Help {MAIL}."},
        {"role": "user", "content": [{"type": "text", "text": f"I am {MAIL}"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": MAIL, "content": f'{{"sent": "{MAIL}"}}'},
    ]
    sent, _, _, _ = await ask(answer(content="ok"), messages, user=MAIL, temperature=0.5)
    call["function"] = {"name": "send", "arguments": '{"to": "[EMAIL_1]"}'}
    assert sent["messages"] == [
        {"role": "system", "content": "Help [EMAIL_1]."},
        {"role": "user", "content": [{"type": "text", "text": "I am [EMAIL_1]"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": MAIL, "content": '{"sent": "[EMAIL_1]"}'},
    ]
    assert (sent["user"], sent["temperature"]) == ("[EMAIL_1]", 0.5)


async def test_a_placeholder_that_the_client_wrote_itself_stays_one() -> None:
    sent, _, data, _ = await ask(answer(content="[EMAIL_1] and [EMAIL_2]"), f"What does [EMAIL_1] mean? {MAIL}")
    assert sent["messages"][0]["content"] == "What does [EMAIL_1] mean? [EMAIL_2]"
    assert data["choices"][0]["message"]["content"] == f"[EMAIL_1] and {MAIL}"


async def test_what_a_model_makes_up_is_masked_and_cannot_be_asked_back() -> None:
    reply = answer(content="Write to eve@example.org, I mean [EMAIL_1].", reasoning_content="eve@example.org?")
    _, _, data, _ = await ask(reply, "hi")
    message = data["choices"][0]["message"]
    assert message["content"] == "Write to [EMAIL_1], I mean [EMAIL_1]."
    assert message["reasoning_content"] == "[EMAIL_1]?"


async def test_arguments_of_tools_are_restored_as_json() -> None:
    key = '-----BEGIN PRIVATE KEY-----\nab"c\n-----END PRIVATE KEY-----'
    call = {"id": "c", "type": "function", "function": {"name": "use", "arguments": '{"key": "[PRIVATE_KEY_1]"}'}}
    sent, _, data, _ = await ask(answer(content=None, tool_calls=[call]), f"use {key}")
    assert sent["messages"][0]["content"] == "use [PRIVATE_KEY_1]"
    (got,) = data["choices"][0]["message"]["tool_calls"]
    assert json.loads(got["function"]["arguments"]) == {"key": key}


@pytest.mark.parametrize(
    ("guard", "content", "expected"),
    [
        ("restore = false", "[EMAIL_1] eve@example.org", "[EMAIL_1] [EMAIL_2]"),
        ('answers = "off"', "[EMAIL_1] eve@example.org", f"{MAIL} eve@example.org"),
        ('answers = "off"\nrestore = false', "[EMAIL_1] eve@example.org", "[EMAIL_1] eve@example.org"),
        ('kinds = ["card"]', "[EMAIL_1] eve@example.org", "[EMAIL_1] eve@example.org"),
        ('models = ["other"]', "[EMAIL_1] eve@example.org", "[EMAIL_1] eve@example.org"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_settings(guard: str, content: str, expected: str, streamed: bool) -> None:
    reply = Reply.of_events(stream({"content": content})) if streamed else answer(content=content)
    _, _, data, _ = await ask(reply, f"I am {MAIL}", guard, stream=streamed)
    assert (said(data) if streamed else data["choices"][0]["message"]["content"]) == expected


async def test_requests_can_be_let_through_and_their_words_are_masked_in_the_answer_then() -> None:
    sent, _, data, _ = await ask(answer(content=f"Hi {MAIL}"), f"I am {MAIL}", 'requests = "off"')
    assert sent["messages"][0]["content"] == f"I am {MAIL}"
    assert data["choices"][0]["message"]["content"] == "Hi [EMAIL_1]"


async def test_requests_can_be_refused_naming_the_place_and_not_the_find() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": f"pay {CARD}"}]},
    ]
    sent, status, data, _ = await ask(answer(content=""), messages, 'requests = "refuse"')
    assert (sent, status) == (None, 400)
    assert data["error"]["param"] == "messages[1].content[0].text"
    assert data["error"]["code"] == "sensitive_content"
    assert "4111" not in json.dumps(data)


async def test_a_pattern_of_the_operator() -> None:
    guard = "patterns = { staff = 'S-\\d{4}' }"
    sent, _, data, _ = await ask(answer(content="[STAFF_1] and S-9999"), "S-1234", guard)
    assert sent["messages"][0]["content"] == "[STAFF_1]"
    assert data["choices"][0]["message"]["content"] == "S-1234 and [STAFF_2]"


def test_a_pattern_that_could_stop_the_gateway_is_a_fault_at_the_start() -> None:
    settings = SETTINGS.format(guard="patterns = { staff = '(a+)+' }", more="", url="http://127.0.0.1:1")
    with pytest.raises(StartupError, match="staff"):
        built(settings, plugins=PLUGINS)


TEXT = f"Dear [EMAIL_1], eve@example.org pays by {CARD}. [EMAIL_1]"
EXPECTED = f"Dear {MAIL}, [EMAIL_2] pays by [CARD_1]. {MAIL}"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 40, 200])
async def test_a_stream_is_rewritten_alike_however_it_is_cut(size: int) -> None:
    pieces = [{"content": TEXT[start : start + size]} for start in range(0, len(TEXT), size)]
    _, _, data, _ = await ask(Reply.of_events(stream(*pieces)), f"I am {MAIL}", stream=True)
    assert said(data) == EXPECTED
    assert data.endswith(b"data: [DONE]\n\n")
    assert b"eve@" not in data


async def test_reasoning_text_and_arguments_are_texts_of_their_own() -> None:
    def fragment(arguments: str, index: int = 0, **more: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **more}}]}

    body = stream(
        {"reasoning_content": "eve@exa"}, {"reasoning_content": "mple.org"}, {"content": "a@"}, {"content": "b.org"},
        fragment("", name="f"), fragment('{"to":"[EMA'), fragment('IL_1]"}'), fragment('{"x":"', 1, name="g"),
        fragment('eve@example.org"}', 1), reason="tool_calls",
    )  # fmt: skip
    _, _, data, _ = await ask(Reply.of_events(body), f"I am {MAIL}", stream=True)
    assert said(data, "reasoning_content") == "[EMAIL_2]"
    assert said(data) == "[EMAIL_3]"
    arguments = {0: "", 1: ""}
    for delta in deltas(data):
        for call in delta.get("tool_calls", ()):
            arguments[call["index"]] += call["function"].get("arguments", "")
    assert arguments == {0: f'{{"to":"{MAIL}"}}', 1: '{"x":"[EMAIL_2]"}'}
    kinds = [
        next((name for name in ("reasoning_content", "content", "tool_calls") if delta.get(name)), "")
        for delta in deltas(data)
    ]
    assert [kind for place, kind in enumerate(kinds) if kind and kind not in kinds[:place]] == [
        "reasoning_content", "content", "tool_calls",
    ]  # fmt: skip


async def test_text_in_the_last_event_of_a_choice_comes_before_its_end() -> None:
    body = stream({"content": "eve@exam"}).replace(b'"delta": {}', b'"delta": {"content": "ple.org"}')
    _, _, data, _ = await ask(Reply.of_events(body), "hi", stream=True)
    assert said(data) == "[EMAIL_1]"


async def test_what_is_held_back_of_a_stream_that_breaks_never_goes_out() -> None:
    body = stream({"content": "ok "}, {"content": "eve@example.or"})
    cut = body[: body.index(b'"finish_reason": "stop"') - 100]
    _, _, data, _ = await ask(Reply.of_events(cut, end="cut"), "hi", stream=True)
    assert b"eve@" not in data
    assert said(data.replace(b'data: {"error"', b"x")) == "ok "


async def test_log_probabilities_spell_nothing() -> None:
    reply = answer(content=MAIL)
    data = json.loads(reply.body if isinstance(reply.body, bytes) else b"")
    data["choices"][0]["logprobs"] = {"content": [{"token": MAIL, "logprob": 0}]}
    _, _, got, _ = await ask(Reply.of_json(data), "hi", logprobs=True)
    assert MAIL not in json.dumps(got)


async def test_an_answer_from_the_cache_is_restored_for_who_asks() -> None:
    async with StubUpstream(answer(content="Hi [EMAIL_1]")) as stub:
        settings = SETTINGS.format(guard="", more="[plugins.cache]", url=stub.url)
        found = []
        async with serving(settings, plugins=PLUGINS) as served, ClientSession(served.url) as session:
            for mail in (MAIL, "bob@example.org"):
                body = {"model": "m", "messages": [{"role": "user", "content": f"I am {mail}"}]}
                async with session.post("/v1/chat/completions", json=body) as got:
                    data = await got.json()
                    found.append((got.headers["X-Cache"], data["choices"][0]["message"]["content"]))
    assert found == [("miss", f"Hi {MAIL}"), ("hit", "Hi bob@example.org")]
    assert len(stub.requests) == 1


class Post:
    """A tool of the gateway's own."""

    name, description = "post", "Sends a message."

    def __init__(self) -> None:
        self.parameters = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
        self.sent: list[Any] = []

    async def run(self, call: Any, arguments: Any) -> str:
        self.sent.append(dict(arguments))
        return f"sent to {MAIL}, copy to eve@example.org"


@pytest.mark.parametrize("streams", [False, True])
async def test_the_gateway_s_own_tools_get_the_client_s_words_and_the_vendor_none_of_their_results(
    streams: bool,
) -> None:
    post = Post()

    class Own:
        class Settings(Section):
            """[plugins.own]."""

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_tools(self, gateway: Any) -> Any:
            return [post]

    function = {"name": "post", "arguments": '{"to": "[EMAIL_1]"}'}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    replies = [answer(content="To [EMAIL_1].", tool_calls=[call]), answer(content="Told [EMAIL_1] and [EMAIL_2].")]
    if streams:
        first = stream({"content": "To [EMA"}, {"content": "IL_1]."}, {"tool_calls": [call]}, reason="tool_calls")
        replies = [Reply.of_events([one]) for one in (first, stream({"content": "Told [EMAIL_1] and [EMAIL_2]."}))]
    async with StubUpstream(*replies) as stub, ClientSession() as session:
        settings = SETTINGS.format(guard="", more="[plugins.own]", url=stub.url)
        body = {"model": "m", "messages": [{"role": "user", "content": f"Write to {MAIL}"}], "stream": streams}
        async with (
            serving(settings, plugins={**PLUGINS, "own": Own}) as served,
            session.post(f"{served.url}/v1/chat/completions", json=body) as got,
        ):
            data = await got.read()
        sent = stub.requests[1].json
    assert post.sent == [{"to": MAIL}]
    user, assistant, result = sent["messages"]
    assert (user["content"], assistant["content"]) == ("Write to [EMAIL_1]", "To [EMAIL_1].")
    assert assistant["tool_calls"][0]["function"] == function
    assert result["content"] == "sent to [EMAIL_1], copy to [EMAIL_2]"
    told = said(data) if streams else json.loads(data)["choices"][0]["message"]["content"]
    assert told == f"To {MAIL}.\n\nTold {MAIL} and eve@example.org."
