"""Anthropic's own answers, as its clients get them: whole where nobody changes them, translated where somebody does."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import anthropic
import pytest

from gatehook import Call, Chunk, Observer, Outcome, Rewriter, Section, Transform, hookimpl
from gatehook.testing import Reply, splits

Open = Callable[..., AbstractAsyncContextManager[Any]]
Object = dict[str, Any]

PAGE = {"type": "char_location", "cited_text": "Ruby", "document_index": 0, "document_title": "R",
        "start_char_index": 0, "end_char_index": 4}  # fmt: skip
BLOCKS: list[Object] = [
    {"type": "thinking", "thinking": "First.", "signature": "s1"},
    {"type": "text", "text": "It is "},
    {"type": "text", "text": "Ruby", "citations": [PAGE]},
    {"type": "thinking", "thinking": "Then.", "signature": "s2"},
    {"type": "text", "text": "."},
]
USAGE = {"input_tokens": 7, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 1, "output_tokens": 9,
         "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 0},
         "service_tier": "standard"}  # fmt: skip
MESSAGE: Object = {"id": "msg_up", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
                   "content": BLOCKS, "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE}  # fmt: skip
ASKED = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "What is it?"}]}


def events() -> list[Object]:
    """A stream that says the same."""
    told: list[Object] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {"type": "ping"},
    ]
    for index, block in enumerate(BLOCKS):
        deltas: list[Object] = []
        if block["type"] == "text":
            begun: Object = {"type": "text", "text": ""}
            if cited := block.get("citations"):
                begun["citations"] = []
                deltas += [{"type": "citations_delta", "citation": one} for one in cited]
            deltas.append({"type": "text_delta", "text": block["text"]})
        else:
            begun = {"type": "thinking", "thinking": "", "signature": ""}
            deltas.append({"type": "thinking_delta", "thinking": block["thinking"]})
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        told.append({"type": "content_block_start", "index": index, "content_block": begun})
        told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        told.append({"type": "content_block_stop", "index": index})
    told.append({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE})
    return [*told, {"type": "message_stop"}]


def framed(told: Iterable[Object], *, names: bool = True) -> bytes:
    return b"".join(
        (f"event: {one['type']}\n" if names else "").encode() + f"data: {json.dumps(one)}\n\n".encode() for one in told
    )


def public(told: Sequence[Object]) -> list[Object]:
    """The events, under the public name of the model."""
    first, *rest = told
    return [{**first, "message": {**first["message"], "model": "m"}}, *rest]


class Watching(Observer):
    """Sees chunks, and how calls end."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.outcomes: list[Outcome] = []

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class WatchingChunks(Watching):
    """Has each chunk taken out."""

    def chunk(self, call: Call, chunk: Chunk) -> None:
        self.chunks.append(chunk)


def plugin(hook: str, given: Any) -> type:
    class Plugin:
        Settings = Section

        def __init__(self, settings: Section) -> None: ...

        locals()[hook] = hookimpl(lambda self: [given])

    return Plugin


async def test_a_whole_answer(front: Open) -> None:
    watching = Watching()
    plugins = {"watch": plugin("register_observers", watching)}
    async with front("anthropic", Reply.of_json(MESSAGE), plugins=plugins, told="[plugins.watch]") as gateway:
        answer = await gateway.ask(ASKED)
    assert answer.json == {**MESSAGE, "model": "m"}
    (outcome,) = watching.outcomes
    assert outcome.usage is not None
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (10, 9)


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("observer", [Watching, WatchingChunks])
async def test_a_stream(front: Open, observer: type[Watching], names: bool) -> None:
    watching = observer()
    plugins = {"watch": plugin("register_observers", watching)}
    body = framed(events(), names=names)
    cuts = [[body], *list(splits(body))[::97]]
    replies = [Reply.of_events(pieces) for pieces in cuts]
    async with front("anthropic", *replies, plugins=plugins, told="[plugins.watch]") as gateway:
        for _ in cuts:
            answer = await gateway.ask({**ASKED, "stream": True})
            assert answer.status == 200
            assert answer.events == public(events())
    assert [outcome.status for outcome in watching.outcomes] == ["complete"] * len(cuts)
    assert {outcome.usage and outcome.usage.completion_tokens for outcome in watching.outcomes} == {9}
    if observer is WatchingChunks:
        said = "".join(chunk.data["choices"][0]["delta"].get("content") or "" for chunk in watching.chunks
                       if chunk.data["choices"])  # fmt: skip
        assert said == "It is Ruby." * len(cuts)


async def test_the_sdk_finds_the_citations(front: Open) -> None:
    transport = anthropic.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes longer than the test
    async with (
        front("anthropic", Reply.of_events([framed(events())])) as gateway,
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="k", max_retries=0, http_client=transport) as client,
        client.messages.stream(**ASKED) as stream,  # type: ignore[arg-type]
    ):
        message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "text", "thinking", "text"]
    cited: Any = message.content[2]
    assert [one.cited_text for one in cited.citations] == ["Ruby"]


class Louder(Rewriter):
    """Rewrites every answer."""

    def completion(self, completion: Any) -> Any:
        completion.data["choices"][0]["message"]["content"] += "!"  # in place, which a rewriter may do
        return completion

    def chunks(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        return list(batch)

    def rest(self) -> Sequence[Chunk]:
        return ()


class Transforming(Transform):
    """Chooses that rewriter."""

    async def transform(self, call: Call) -> Rewriter:
        return Louder()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_plugin_changes_is_told_as_changed(front: Open, stream: bool) -> None:
    plugins = {"loud": plugin("register_transforms", Transforming())}
    reply = Reply.of_events([framed(events())]) if stream else Reply.of_json(MESSAGE)
    async with front("anthropic", reply, plugins=plugins, told="[plugins.loud]") as gateway:
        answer = await gateway.ask({**ASKED, "stream": stream})
    if not stream:
        assert [one.get("text") for one in answer.json["content"] if one["type"] == "text"] == ["It is Ruby.!"]
        return
    told = answer.events
    assert [told[0]["type"], told[-1]["type"]] == ["message_start", "message_stop"]
    assert sum(one["type"] == "message_stop" for one in told) == 1
    assert not any(one.get("delta", {}).get("type") == "citations_delta" for one in told)
    assert "".join(one["delta"].get("text", "") for one in told if "delta" in one) == "It is Ruby."


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cached_answer_says_the_same(front: Open, stream: bool) -> None:
    reply = Reply.of_events([framed(events())]) if stream else Reply.of_json(MESSAGE)
    asked = {**ASKED, "stream": stream, "temperature": 0}
    async with front("anthropic", reply, told="[plugins.cache]\n[plugins.openai_api]") as gateway:
        first, again = await gateway.ask(asked), await gateway.ask(asked)
        assert len(gateway.stub.requests) == 1
        chat = {"model": "m", "max_tokens": 50, "messages": ASKED["messages"], "stream": stream, "temperature": 0}
        other = await gateway.ask(chat, path="/v1/chat/completions")
        assert b'"chat.completion' in other.body
    for one in (first, again):
        if stream:
            assert "".join(event.get("delta", {}).get("text", "") for event in one.events) == "It is Ruby."
        else:
            assert "".join(block.get("text", "") for block in one.json["content"]) == "It is Ruby."


async def test_a_stream_that_breaks_off_ends_with_an_error(front: Open) -> None:
    told = events()[:7]
    async with front("anthropic", Reply.of_events([framed(told)])) as gateway:
        answer = await gateway.ask({**ASKED, "stream": True})
    *before, last = answer.events
    assert before == public(told)
    assert last["type"] == "error"


async def test_what_stands_beside_a_document_reaches_anthropic(front: Open) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Ruby"}
    document = {"type": "document", "source": source, "title": "R", "context": "c", "citations": {"enabled": True}}
    messages = [{"role": "user", "content": [document, {"type": "text", "text": "What is it?"}]}]
    async with front("anthropic", Reply.of_json(MESSAGE)) as gateway:
        answer = await gateway.ask({**ASKED, "messages": messages})
        assert gateway.asked["messages"] == messages
    assert "X-Gatehook-Dropped-Params" not in answer.headers
