"""Answers as bytes, and back."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatehook import Chunk, Completion, Entry, Frames, Usage
from gatehook.calls.answers import Recording
from gatehook_plugins.cache.codec import pack, unpack
from gatehook_plugins.vendor_openai.stream import chunks_of

Gateway = Callable[..., AbstractAsyncContextManager[Any]]

COUNTS = st.integers(0, 1 << 40)
USAGES = st.none() | st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.booleans())
FLAGS = st.booleans()
CHUNKS = st.builds(
    lambda raw, content, finished, usage, usage_only: Chunk(
        raw=raw, content=content, finished=finished, usage=usage, usage_only=usage_only
    ),
    st.binary(min_size=1),
    FLAGS,
    FLAGS,
    USAGES,
    FLAGS,
)
COMPLETIONS = st.builds(lambda raw, usage: Completion(raw=raw, usage=usage), st.binary(min_size=1), USAGES)
AT, DROPPED = st.floats(0, 1e11), st.lists(st.text(), max_size=3).map(tuple)
ENTRIES = st.builds(Entry, COMPLETIONS, at=AT, dropped=DROPPED) | st.builds(
    Entry, chunks=st.lists(CHUNKS).map(tuple), at=AT, dropped=DROPPED
)


def parts(chunk: Chunk) -> tuple[object, ...]:
    return chunk.raw, chunk.content, chunk.finished, chunk.usage, chunk.usage_only


@given(ENTRIES)
def test_what_is_packed_comes_back(entry: Entry) -> None:
    found = unpack(pack(entry))
    assert found is not None
    assert (found.at, found.dropped) == (entry.at, entry.dropped)
    assert (found.completion is None) == (entry.completion is None)
    if entry.completion is not None and found.completion is not None:
        assert (found.completion.raw, found.completion.usage) == (entry.completion.raw, entry.completion.usage)
    assert list(map(parts, found.chunks)) == list(map(parts, entry.chunks))


@given(st.binary())
@example(b"\x93\x00\x91\xa4\x00\x00\x00\x80")
def test_anything_else_is_nothing(data: bytes) -> None:
    assert unpack(data) is None or data == pack(unpack(data) or Entry())


def framed(*choices: dict[str, Any], usage: Any = None) -> bytes:
    data = {"id": "c", "model": "m", "choices": choices, **({"usage": usage} if usage else {})}
    return b"data: %b\n\n" % json.dumps(data).encode()


DELTAS: Sequence[dict[str, Any]] = [
    {"role": "assistant"},
    {"role": "assistant", "content": ""},
    {"content": "Hi\n\ndata: x"},
    {"reasoning_content": "hm"},
    {"refusal": "no"},
    {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]},
    {"content": None},
]
EVENTS = [
    *(framed({"index": 0, "delta": delta, "finish_reason": None}) for delta in DELTAS),
    framed({"index": 0, "text": "Hi", "finish_reason": None}),
    framed({"index": 0, "delta": {}, "finish_reason": "stop"}),
    framed(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
    b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"},"finish_reason":null}]}\n\n',
]


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_frames_stay_one_piece_and_are_taken_apart_as_their_vendor_would(events: list[bytes]) -> None:
    data = b"".join(events)
    found = unpack(pack(Entry(chunks=Frames(data, chunks_of, contents=3, finished=True, usage=Usage(1, 2)))))
    assert found is not None
    assert isinstance(found.chunks, Frames)
    assert (found.chunks.data, found.chunks.contents, found.chunks.finished) == (data, 3, True)
    assert found.chunks.usage == Usage(1, 2)
    told = [(one.raw, one.content, one.finished, one.usage_only) for one in found.chunks]
    assert told == [(one.raw, one.content, one.finished, one.usage_only) for one in chunks_of(data)]


@given(st.lists(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=3), max_size=6), st.integers(0, 1500))
def test_a_recording_is_all_or_nothing(batches: list[list[bytes]], most: int) -> None:
    recording = Recording(most)
    for batch in batches:
        recording.add(Frames(b"".join(batch), chunks_of, contents=1))
    whole = b"".join(b"".join(batch) for batch in batches)
    entry = recording.entry()
    if len(whole) > most:
        assert entry is None
    elif batches:
        assert entry is not None
        assert isinstance(entry.chunks, Frames)
        assert (entry.chunks.data, entry.chunks.contents) == (whole, len(batches))


def test_a_recording_of_frames_and_chunks_is_one_of_chunks() -> None:
    recording = Recording(10_000)
    recording.add(Frames(EVENTS[2], chunks_of, contents=1))
    recording.add([Chunk({"choices": []})])
    entry = recording.entry()
    assert entry is not None
    assert [chunk.content for chunk in entry.chunks] == [True, False]


@pytest.mark.parametrize("stream", [False, True])
async def test_another_dialect_reads_what_one_has_stored(gateway: Gateway, stream: bool) -> None:
    prompt = {"model": "m", "prompt": "hi", "parameters": {"stream": stream}}
    async with gateway("", "[plugins.llm_api]\n") as client:
        texts = []
        for mark in ("miss", "hit"):
            headers = {"Authorization": "Bearer ann"}
            async with client.session.post(f"{client.url}/api/llm/generate", json=prompt, headers=headers) as answer:
                assert (answer.status, answer.headers["X-Cache"]) == (200, mark)
                texts.append(await answer.text())
            await client.stage.until(lambda: len(client.stage.outcomes) >= len(texts))
    assert all("Fine." in text for text in texts)
    assert '"total_cost":0' in texts[1]
