"""What transforms may do to requests and answers, end to end: served gateways with transforms of their own."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession

from gatehook import (
    Call,
    Chunk,
    Completion,
    Document,
    Gateway,
    InvalidRequest,
    Rewriter,
    Section,
    ToolCall,
    Transform,
    Verdict,
    hookimpl,
)
from gatehook.testing import serving

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.specimen]
{more}
[[models]]
name = "m"
vendor = "mock"
model = "echo"
options = {{ {options} }}
"""


def plugin(transforms: Sequence[Transform], policies: Sequence[Any] = ()) -> type:
    class Specimen:
        class Settings(Section):
            """[plugins.specimen]."""

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_transforms(self, gateway: Gateway) -> Iterable[Transform]:
            return transforms

        @hookimpl
        def register_tool_policies(self, gateway: Gateway) -> Iterable[Any]:
            return policies

    return Specimen


class Words:
    """Puts a word behind what is asked, and changes the answer by a function of its text; holds streams back."""

    def __init__(self, word: str, change: Callable[[str], str] = str) -> None:
        self.word = word
        self.change = change
        self.seen: list[str] = []

    async def transform(self, call: Call) -> Rewriter | None:
        if call.headers.get("X-Leave") == "alone":
            return None
        (message,) = call.payload["messages"]
        asked = [{**message, "content": message["content"] + self.word}]
        call.body = Document({**call.payload, "messages": asked})
        return Change(self)


class Change:
    def __init__(self, words: Words) -> None:
        self._words = words
        self._held: list[Chunk] = []

    def completion(self, completion: Completion) -> Completion:
        (choice,) = completion.data["choices"]
        self._words.seen.append("completion")
        message = {**choice["message"], "content": self._words.change(choice["message"]["content"] or "")}
        return Completion({**completion.data, "choices": [{**choice, "message": message}]}, usage=completion.usage)

    def chunks(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        self._held += batch
        return []

    def rest(self) -> Sequence[Chunk]:
        held, self._held = self._held, []
        choices = [choice for chunk in held for choice in chunk.data["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        first = {**held[0].data, "choices": [{"index": 0, "delta": {"content": self._words.change(text)}}]}
        return [Chunk(first, content=True), *(chunk for chunk in held if chunk.finished)]


@contextlib.asynccontextmanager
async def asking(
    *transforms: Transform, more: str = "", options: str = 'mode = "echo"', policies: Sequence[Any] = ()
) -> AsyncIterator[Callable[..., Any]]:
    settings = SETTINGS.format(more=more, options=options)
    async with (
        serving(settings, plugins={"specimen": plugin(transforms, policies)}) as served,
        ClientSession(served.url) as session,
    ):

        async def ask(text: str, headers: dict[str, str] | None = None, **fields: Any) -> tuple[int, bytes, Any]:
            body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
            data = bytearray()
            async with session.post("/v1/chat/completions", json=body, headers=headers) as answer:
                with contextlib.suppress(ClientPayloadError):
                    async for piece in answer.content.iter_any():
                        data += piece
            return answer.status, bytes(data), answer.headers

        yield ask


def text(data: bytes) -> str:
    """All that was said, plain or streamed."""
    if not data.startswith(b"data:"):
        return str(json.loads(data)["choices"][0]["message"]["content"])
    events = [json.loads(event[6:]) for event in data.split(b"\n\n") if event[6:7] == b"{"]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ()))


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_transforms_change_the_request_and_the_answer(stream: bool) -> None:
    async with asking(Words(" there", str.upper)) as ask:
        status, data, _ = await ask("hello", stream=stream)
    assert status == 200
    assert text(data) == "HELLO THERE"
    assert not stream or data.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_transforms_answers_pass_in_the_other_order(stream: bool) -> None:
    outer = Words(" outer", lambda said: f"<{said}>")
    inner = Words(" inner", lambda said: f"[{said}]")
    async with asking(outer, inner) as ask:
        _, data, _ = await ask("hello", stream=stream)
    assert text(data) == "<[hello outer inner]>"


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_transforms_none_leaves_the_answer_alone(stream: bool) -> None:
    words = Words(" there", str.upper)
    async with asking(words) as ask:
        _, data, _ = await ask("hello", {"X-Leave": "alone"}, stream=stream)
    assert text(data) == "hello"
    assert words.seen == []


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_transforms_caches_keep_what_the_vendor_said(stream: bool) -> None:
    said: list[str] = []

    def once(answer: str) -> str:
        said.append(answer)
        return f"{answer} for the {len(said)}. time"

    async with asking(Words("", once), more="[plugins.cache]") as ask:
        answers = [await ask("hello", stream=stream) for _ in range(2)]
    assert [headers["X-Cache"] for _, _, headers in answers] == ["miss", "hit"]
    assert said == ["hello", "hello"]
    assert [text(data) for _, data, _ in answers] == ["hello for the 1. time", "hello for the 2. time"]


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_transforms_policies_judge_what_the_client_gets(stream: bool) -> None:
    judged: list[str] = []

    class Judge:
        async def offer(self, call: Call, tools: Any) -> Any:
            return tools

        async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
            judged.append(tool_call.name)
            return Verdict("allow")

    class Renamed:
        async def transform(self, call: Call) -> Rewriter | None:
            return self

        def completion(self, completion: Completion) -> Completion:
            return Completion(decoded(completion), usage=completion.usage)

        def chunks(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
            flags = ("content", "finished", "usage", "usage_only")
            return [Chunk(decoded(one), **{name: getattr(one, name) for name in flags}) for one in batch]

        def rest(self) -> Sequence[Chunk]:
            return ()

    def decoded(document: Document) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(document.raw.replace(b"masked", b"real"))
        return changed

    async with asking(Renamed(), options='tool_calls = [{ name = "masked" }]', policies=[Judge()]) as ask:
        tools = [{"type": "function", "function": {"name": "masked"}}]
        _, data, _ = await ask("hello", stream=stream, tools=tools)
    assert judged == ["real"]
    assert b"masked" not in data


async def test_hook_register_transforms_may_refuse_the_request() -> None:
    class Refusing:
        async def transform(self, call: Call) -> Rewriter | None:
            raise InvalidRequest("messages: not that", param="messages")

    async with asking(Refusing()) as ask:
        status, data, headers = await ask("hello")
    assert status == 400
    assert json.loads(data)["error"]["param"] == "messages"
    assert "X-Gatehook-Deployment" not in headers


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_transforms_one_that_breaks_lets_no_answer_out(stream: bool) -> None:
    async with asking(Words("", lambda said: said[9999])) as ask:
        status, data, _ = await ask("the secret", stream=stream)
    assert b"secret" not in data
    assert b"internal error" in data
    assert status == (200 if stream else 500)
    assert b"[DONE]" not in data


async def test_hook_register_transforms_what_is_denied_by_limits_is_not_transformed() -> None:
    words = Words(" there")
    async with asking(words, more="[plugins.rate_limit]\nrequests_per_minute = 1") as ask:
        assert (await ask("hello"))[0] == 200
        assert (await ask("hello"))[0] == 429
    assert words.seen == ["completion"]
