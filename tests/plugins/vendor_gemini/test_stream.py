"""Streams of Gemini, cut anywhere, as OpenAI's chunks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from pydantic import SecretStr

from gatehook import Chunk, Egress, GatewayError, InvalidRequest, RateLimited, UpstreamError, Usage
from gatehook.config.settings import EgressSettings
from gatehook.testing import Replay, ReplayEgress, Reply, StubUpstream, attempt, splits
from gatehook_plugins.vendor_gemini.vendor import Gemini

USER = {"role": "user", "content": "hello"}
COUNTS = {"promptTokenCount": 5, "candidatesTokenCount": 2}


def event(
    *parts: Mapping[str, Any], reason: str | None = None, index: int | None = None, **rest: Any
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}} if parts else {}
    if reason:
        candidate["finishReason"] = reason
    if index is not None:
        candidate["index"] = index
    return {"candidates": [candidate], **rest}


def wire(*events: Any, end: str = "\r\n") -> bytes:
    return "".join(f"data: {json.dumps(one, ensure_ascii=False)}{end}{end}" for one in events).encode()


def call(name: str = "look", **fields: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, **fields}}


async def played(
    pieces: bytes | Iterable[bytes], asked: Mapping[str, Any] | None = None, **rest: Any
) -> tuple[list[Chunk], GatewayError | None, list[str]]:
    """The chunks, the error that ended the stream, and the signals."""
    replay = Replay(pieces, content_type="text/event-stream", **rest)
    egress = ReplayEgress(replay)
    one = attempt(
        {
            "model": "public",
            "messages": [USER],
            "stream": True,
            "stream_options": {"include_usage": True},
            **(asked or {}),
        },
        vendor="gemini",
        model="gemini-2.5-flash",
    )
    chunks: list[Chunk] = []
    fault: GatewayError | None = None
    try:
        async for batch in Gemini(egress).stream(one):
            chunks += batch
    except GatewayError as error:
        fault = error
    assert replay.closed
    assert egress.requests[0].path.endswith("/models/gemini-2.5-flash:streamGenerateContent?alt=sse")
    _check(chunks)
    return chunks, fault, one.dropped


def _check(chunks: Sequence[Chunk]) -> None:
    """What holds for every stream in OpenAI's shape."""
    opened: set[int] = set()
    finished: set[int] = set()
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.data, strict=True)
        assert (chunk.data["id"], chunk.data["created"]) == (chunks[0].data["id"], chunks[0].data["created"])
        assert chunk.data["model"] == "public"
        for choice in chunk.data["choices"]:
            assert choice["index"] not in finished
            assert ("role" in choice["delta"]) == (choice["index"] not in opened)
            opened.add(choice["index"])
            if choice["finish_reason"]:
                finished.add(choice["index"])
                assert choice["delta"].keys() <= {"role"}
    assert sum(chunk.usage_only for chunk in chunks) <= 1


def told(chunks: Sequence[Chunk]) -> list[Any]:
    """The deltas in short form; neighbouring pieces of text are not joined, Gemini's events stand as they came."""
    lines: list[Any] = []
    for chunk in chunks:
        if chunk.usage_only:
            lines.append(chunk.usage)
        for choice in chunk.data["choices"]:
            delta = {key: value for key, value in choice["delta"].items() if key != "role"}
            if choice["finish_reason"]:
                delta["finish"] = choice["finish_reason"]
            for one in delta.get("tool_calls", ()):
                one["id"] = "made" if one["id"].startswith("call_") else one["id"]
            lines.append((choice["index"], delta) if choice["index"] else delta)
    return lines


def tool(index: int, name: str, arguments: str = "{}", id_: str = "made", **google: str) -> dict[str, Any]:
    extra = {"extra_content": {"google": google}} if google else {}
    one = {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": arguments}, **extra}
    return {"tool_calls": [one]}


def signed(signature: str) -> dict[str, Any]:
    return {"extra_content": {"google": {"thought_signature": signature}}}


TEXT = (
    (
        event({"text": "Zü"}, usageMetadata={"promptTokenCount": 4, "candidatesTokenCount": 1}),
        event({"text": "rich 🎉"}, usageMetadata={"candidatesTokenCount": 2}),
        event({"text": "!"}, reason="STOP", usageMetadata={"promptTokenCount": 5, "totalTokenCount": 5}),
    ),
    [{"content": "Zü"}, {"content": "rich 🎉"}, {"content": "!"}, {"finish": "stop"}, Usage(5, 2)],
)
THOUGHTS = (
    (
        event({"text": "Hm", "thought": True}),
        event({"text": "4"}, usageMetadata={"promptTokenCount": 1, "thoughtsTokenCount": 9}),
        event({"text": "2", "thoughtSignature": "YQ=="}),
        event({"text": "", "thoughtSignature": "Yg=="}, reason="STOP", usageMetadata={"trafficType": "ON_DEMAND"}),
    ),
    [
        {"reasoning_content": "Hm"},
        {"content": "4"},
        {"content": "2"},
        signed("Yg=="),
        {"finish": "stop"},
        Usage(1, 9, reasoning_tokens=9),
    ],
)
PARALLEL = (
    (
        event({"text": "Look: "}, {**call("a", args={"x": 1}, id="fc-1"), "thoughtSignature": "YQ=="}, call("b")),
        event({"text": ""}, reason="STOP", usageMetadata=COUNTS),
    ),
    [
        {"content": "Look: "},
        tool(0, "a", '{"x":1}', "fc-1", thought_signature="YQ==", function_call_id="fc-1"),
        tool(1, "b"),
        {"finish": "tool_calls"},
        Usage(5, 2),
    ],
)
SPREAD = (
    (event(call("a")), event(call("b", args={"y": [2]})), event(call("a"), reason="STOP"), {"usageMetadata": COUNTS}),
    [tool(0, "a"), tool(1, "b", '{"y":[2]}'), tool(2, "a"), {"finish": "tool_calls"}, Usage(5, 2)],
)
EARLY_STOP = (
    (event({"text": "a"}, reason="STOP"), event(call("b"), reason="STOP", usageMetadata=COUNTS)),
    [{"content": "a"}, tool(0, "b"), {"finish": "tool_calls"}, Usage(5, 2)],
)
BLOCKED = (
    ({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}},),
    [{"finish": "content_filter"}, Usage(5, 0)],
)
FILTERED = (
    (event({"text": "a"}), event(reason="SAFETY", usageMetadata=COUNTS)),
    [{"content": "a"}, {"finish": "content_filter"}, Usage(5, 2)],
)
EXPLAINED = (
    (event({"text": "a"}), event(reason="SAFETY", usageMetadata=COUNTS)),
    [{"content": "a"}, {"refusal": "It violates a policy."}, {"finish": "content_filter"}, Usage(5, 2)],
)
EXPLAINED[0][1]["candidates"][0]["finishMessage"] = "It violates a policy."
FORBIDDEN = (
    (
        {
            "promptFeedback": {"blockReason": "MODEL_ARMOR", "blockReasonMessage": "No."},
            "usageMetadata": {"promptTokenCount": 5},
        },
    ),
    [{"refusal": "No."}, {"finish": "content_filter"}, Usage(5, 0)],
)
EATEN = (
    (event(reason="MAX_TOKENS", usageMetadata={"promptTokenCount": 5, "thoughtsTokenCount": 7}),),
    [{"finish": "length"}, Usage(5, 7, reasoning_tokens=7)],
)
SEVERAL = (
    (
        event({"text": "a"}, index=0),
        event({"text": "b"}, index=1),
        event(call("x"), index=1),
        event(reason="STOP", index=0),
        event(reason="STOP", index=1, usageMetadata=COUNTS),
    ),
    [
        {"content": "a"},
        (1, {"content": "b"}),
        (1, tool(0, "x")),
        {"finish": "stop"},
        (1, {"finish": "tool_calls"}),
        Usage(5, 2),
    ],
)
WHOLE = {
    "text": TEXT, "thoughts": THOUGHTS, "parallel": PARALLEL, "spread": SPREAD, "early stop": EARLY_STOP,
    "blocked": BLOCKED, "filtered": FILTERED, "explained": EXPLAINED, "forbidden": FORBIDDEN,
    "eaten": EATEN, "several": SEVERAL,
}  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", WHOLE)
async def test_a_stream_reads_the_same_however_it_is_cut(name: str, end: str) -> None:
    events, expected = WHOLE[name]
    for pieces in splits(wire(*events, end=end)):
        chunks, fault, dropped = await played(pieces)
        assert fault is None
        assert told(chunks) == expected
        assert dropped == []


ERROR = {
    "error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "30s"}]}
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("error", [ERROR, [ERROR]])
async def test_an_error_in_mid_stream_ends_it_after_what_came_before(error: Any, end: str) -> None:
    body = wire(event({"text": "a"}), error, event({"text": "b"}, reason="STOP"), end=end)
    for pieces in splits(body):
        chunks, fault, _ = await played(pieces)
        assert told(chunks) == [{"content": "a"}]
        assert isinstance(fault, RateLimited)
        assert fault.retry_after == 30


@pytest.mark.parametrize(
    "events",
    [
        (),
        (event({"text": "a"}),),
        (event({"text": "a"}, index=0, reason="STOP"), event({"text": "b"}, index=1)),
        ({"usageMetadata": COUNTS},),
        ({"promptFeedback": {}},),
    ],
)
async def test_a_stream_without_all_its_ends_is_cut_short(events: tuple[Any, ...]) -> None:
    for pieces in splits(wire(*events)):
        chunks, fault, _ = await played(pieces)
        assert isinstance(fault, UpstreamError)
        assert fault.code == "upstream_truncated"
        assert not any(chunk.finished or chunk.usage_only for chunk in chunks)


@pytest.mark.parametrize("cut", [b'data: {"candidates": [{"con', b'data: {"candidates": []}\n\ndata: nonsense\n\n'])
async def test_a_malformed_event_is_an_upstream_error(cut: bytes) -> None:
    chunks, fault, _ = await played(wire(event({"text": "a"})) + cut)
    assert told(chunks) == [{"content": "a"}]
    assert isinstance(fault, UpstreamError)
    assert "not valid JSON" in fault.message


@pytest.mark.parametrize(
    "bad",
    [
        [],
        5,
        {"candidates": 1},
        event({"text": 5}),
        event({"functionCall": {"args": {}}}),
        event(reason="MALFORMED_FUNCTION_CALL"),
        event({"text": "a"}, reason="STOP", usageMetadata=[]),
        event({"text": "a"}, index=-5),
    ],
)
async def test_an_unexpected_event_is_an_upstream_error(bad: Any) -> None:
    chunks, fault, _ = await played(wire(bad))
    assert isinstance(fault, UpstreamError)
    assert fault.message.startswith("gemini: ")
    assert not any(chunk.finished for chunk in chunks)


async def test_a_last_event_without_its_empty_line_is_read() -> None:
    chunks, fault, _ = await played(wire(event({"text": "a"}, reason="STOP")).rstrip())
    assert fault is None
    assert told(chunks)[:2] == [{"content": "a"}, {"finish": "stop"}]


async def test_comments_unknown_events_and_a_done_marker_are_nothing() -> None:
    body = b": ping\n\n" + wire({"future": 1}, event({"text": "a"}, reason="STOP")) + b"data: [DONE]\n\n"
    chunks, fault, _ = await played(body)
    assert fault is None
    assert [line for line in told(chunks) if isinstance(line, dict)] == [{"content": "a"}, {"finish": "stop"}]


@pytest.mark.parametrize("counts", [None, {}, {"trafficType": "ON_DEMAND"}])
async def test_usage_that_was_not_told_is_not_invented(counts: Any) -> None:
    chunks, _, _ = await played(wire(event({"text": "twelve chars"}, reason="STOP", usageMetadata=counts)))
    assert [chunk.usage for chunk in chunks] == [None, None]


async def test_the_prompt_and_the_thoughts_are_told_as_soon_as_they_are_known() -> None:
    """Who leaves in the middle has used them."""
    counts = [{"promptTokenCount": 5, "thoughtsTokenCount": 900, "candidatesTokenCount": many} for many in (1, 2, 3)]
    texts = [wire(event({"text": "a"}, usageMetadata=one)) for one in counts]
    chunks, _, _ = await played([*texts, wire(event(reason="STOP"))])
    first, *rest, _, last = chunks
    assert first.usage == Usage(5, 901, reasoning_tokens=900)
    assert [chunk.usage for chunk in rest] == [None, None]
    assert last.usage == Usage(5, 903, reasoning_tokens=900)


async def test_a_read_without_an_event_is_a_sign_of_life() -> None:
    body = wire(event({"text": "a"}, reason="STOP"))
    egress = ReplayEgress(Replay([b": ping\n\n", body], content_type="text/event-stream"))
    batches = [batch async for batch in Gemini(egress).stream(attempt({"messages": [USER]}))]
    assert [len(batch) for batch in batches] == [0, 1, 1]


@pytest.mark.parametrize(
    "events", [(event(call("a"), call("b"), reason="STOP"),), (event(call("a")), event(call("b"), reason="STOP"))]
)
async def test_who_asks_for_one_call_at_a_time_gets_the_first(events: tuple[Any, ...]) -> None:
    chunks, fault, dropped = await played(wire(*events), {"parallel_tool_calls": False})
    assert fault is None
    assert told(chunks) == [tool(0, "a"), {"finish": "tool_calls"}]
    assert dropped == ["answer.tool_calls"]


async def test_an_unknown_finish_reason_is_a_stop_with_a_signal() -> None:
    chunks, _, dropped = await played(wire(event({"text": "a"}, reason="OTHER")))
    assert told(chunks)[1] == {"finish": "stop"}
    assert dropped == ["finish_reason.OTHER"]


async def test_a_surrogate_pair_cut_in_two_survives() -> None:
    body = b"".join(
        b'data: {"candidates":[{"content":{"parts":[{"text":"%b"}]}%b}]}\n\n' % (text, end)
        for text, end in ((b"\\ud83d", b""), (b"\\ude00", b',"finishReason":"STOP"'))
    )
    replay = Replay(body, content_type="text/event-stream")
    raw = b""
    async for batch in Gemini(ReplayEgress(replay)).stream(attempt({"messages": [USER]})):
        raw += b"".join(chunk.raw for chunk in batch)
    assert b"\\ud83d" in raw
    assert b"\\ude00" in raw


async def test_log_probabilities_go_with_the_words_of_their_event() -> None:
    result = {"chosenCandidates": [{"token": "a", "logProbability": -1}]}
    first = event({"text": "a"}, call("f"))
    first["candidates"][0]["logprobsResult"] = result
    last = event(reason="STOP")
    last["candidates"][0]["logprobsResult"] = result
    chunks, fault, _ = await played(wire(first, last))
    assert fault is None
    choices = [choice for chunk in chunks for choice in chunk.data["choices"]]
    found = [(choice["delta"].get("content"), choice["logprobs"] is not None) for choice in choices]
    assert found == [("a", True), (None, False), ("", True), (None, False)]


async def test_content_is_marked_as_content() -> None:
    chunks, _, _ = await played(wire(*THOUGHTS[0]))
    assert [chunk.content for chunk in chunks] == [True, True, True, False, False, False]


async def test_one_read_makes_one_batch() -> None:
    body = wire(event({"text": "a"}), event({"text": "b"}), event(reason="STOP"))
    egress = ReplayEgress(Replay(body, content_type="text/event-stream"))
    batches = [batch async for batch in Gemini(egress).stream(attempt({"messages": [USER]}))]
    assert [len(batch) for batch in batches] == [2, 1]


async def test_a_cut_line_is_an_error_of_the_upstream() -> None:
    _, fault, _ = await played(wire(event({"text": "a"})), fails=UpstreamError("gemini: cut"))
    assert isinstance(fault, UpstreamError)


async def test_an_event_without_end_is_an_upstream_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook.sse.Reader.__init__.__defaults__", (100,), raising=True)
    _, fault, _ = await played([wire(event({"text": "a"})), b"data: " + b"x" * 200])
    assert isinstance(fault, UpstreamError)
    assert "larger than 100 bytes" in fault.message


async def test_a_refused_request_never_reaches_the_vendor() -> None:
    egress = ReplayEgress(Replay(b"", content_type="text/event-stream"))
    with pytest.raises(InvalidRequest):
        async for _ in Gemini(egress).stream(attempt({"messages": [USER], "n": 9})):
            pass
    assert egress.requests == []


async def test_closing_the_stream_closes_the_upstream() -> None:
    replay = Replay([wire(event({"text": "a"})), wire(event({"text": "b"}))], content_type="text/event-stream")
    stream = Gemini(ReplayEgress(replay)).stream(attempt({"messages": [USER]}))
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator, as the protocol demands
    assert replay.closed


async def test_a_legacy_completion_is_streamed_as_text() -> None:
    egress = ReplayEgress(Replay(wire(*TEXT[0]), content_type="text/event-stream"))
    one = attempt({"model": "public", "prompt": "hi", "stream": True}, operation="completions")
    chunks = [chunk async for batch in Gemini(egress).stream(one) for chunk in batch]
    assert {chunk.data["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(choice["text"] for chunk in chunks for choice in chunk.data["choices"]) == "Zürich 🎉!"
    assert egress.requests[0].json["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]


async def test_signatures_survive_the_round_trip_of_a_streamed_turn() -> None:
    chunks, _, _ = await played(wire(*PARALLEL[0]))
    calls = [
        one for chunk in chunks for choice in chunk.data["choices"] for one in choice["delta"].get("tool_calls", ())
    ]
    messages = [
        USER,
        {"role": "assistant", "content": "Look: ", "tool_calls": calls},
        *({"role": "tool", "tool_call_id": one["id"], "content": "ok"} for one in calls),
    ]
    answer = json.dumps(event({"text": "done"}, reason="STOP")).encode()
    egress = ReplayEgress(Replay(answer))
    await Gemini(egress).complete(attempt({"messages": messages}, model="gemini-3-flash-preview"))
    assert egress.requests[0].json["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Look: "},
                {"functionCall": {"name": "a", "args": {"x": 1}, "id": "fc-1"}, "thoughtSignature": "YQ=="},
                {"functionCall": {"name": "b", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "a", "response": {"result": "ok"}, "id": "fc-1"}},
                {"functionResponse": {"name": "b", "response": {"result": "ok"}}},
            ],
        },
    ]


async def test_over_a_real_socket_the_quoted_path_and_the_key_arrive() -> None:
    egress = Egress(EgressSettings())
    async with egress.lifespan(), StubUpstream(Reply.of_events(wire(*TEXT[0]))) as stub:
        place: dict[str, Any] = {"base_url": stub.url, "api_key": SecretStr("key-1")}
        one = attempt({"messages": [USER], "stream": True}, vendor="gemini", model="a/b c", **place)
        chunks = [chunk async for batch in Gemini(egress).stream(one) for chunk in batch]
    assert told(chunks) == TEXT[1]
    (request,) = stub.requests
    assert request.path == "/v1beta/models/a%2Fb%20c:streamGenerateContent?alt=sse"
    assert request.headers["x-goog-api-key"] == "key-1"


async def test_pictures_are_pieces_of_the_answer() -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thoughtSignature": "s"}
    words = {"text": "A cat:", "thoughtSignature": "t"}
    chunks, fault, lost = await played(wire(event(words), event(picture), event(picture, reason="STOP")))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}, **signed("s")}
    images = [{"images": [{**image, "index": number}]} for number in range(2)]
    assert told(chunks) == [{"content": "A cat:"}, *images, signed("t"), {"finish": "stop"}]
    assert ([chunk.content for chunk in chunks], fault, lost) == ([True, True, True, False, False], None, [])


@given(
    texts=st.lists(
        st.tuples(st.text(max_size=5), st.sampled_from([None, 0, 1]), st.booleans()), min_size=1, max_size=5
    ),
    odd=st.sampled_from([{}, {"index": -1}, {"index": 1000}, {"index": True}, {"index": "0"}, {"content": []}]),
)
async def test_events_that_only_add_a_text_read_the_same_with_anything_beside_it(
    texts: list[tuple[str, int | None, bool]], odd: dict[str, Any]
) -> None:
    events = [
        event({"text": text}, index=index) | ({"usageMetadata": COUNTS} if counts else {})
        for text, index, counts in texts
    ]
    events[-1]["candidates"][0] |= odd
    ends = [event(reason="STOP", index=index) for index in (0, 1)]
    beside = [
        {**one, "candidates": [{**candidate, "tokenCount": 1} for candidate in one["candidates"]]} for one in events
    ]
    short, fault, _ = await played(wire(*events, *ends))
    long, other, _ = await played(wire(*beside, *ends))
    assert (told(short), str(fault)) == (told(long), str(other))
    assert [chunk.usage for chunk in short] == [chunk.usage for chunk in long]


async def test_why_a_streamed_answer_was_broken_off_is_told() -> None:
    cut = event({"text": "a"}, reason="UNEXPECTED_TOOL_CALL")
    cut["candidates"][0]["finishMessage"] = "It called list_files."
    chunks, fault, _ = await played(wire(cut))
    assert told(chunks) == [{"content": "a"}]
    assert fault is not None
    assert fault.message.endswith("(UNEXPECTED_TOOL_CALL): It called list_files.")
