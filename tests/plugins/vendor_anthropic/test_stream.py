from collections.abc import Callable
from typing import Any

import pytest
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from gatehook import RateLimited, UpstreamError, Usage, decode, encode
from gatehook.testing import Replay, splits


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind, **fields}) + b"\n\n"


def start(**usage: Any) -> bytes:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1} | usage,
    }
    return event("message_start", message=message)


def opened(index: int, **block: Any) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def delta(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def stopped(index: int) -> bytes:
    return event("content_block_stop", index=index)


def ending(reason: Any = "end_turn", **usage: Any) -> bytes:
    closing = {"output_tokens": 15} | usage
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=closing) + event(
        "message_stop"
    )


PING = event("ping")
OVERLOADED = event("error", error={"type": "overloaded_error", "message": "Overloaded"})

TEXT = (
    start(cache_read_input_tokens=100)
    + opened(0, type="text", text="")
    + PING
    + delta(0, "text_delta", text="Grüße ")
    + delta(0, "text_delta", text="🦊!")
    + stopped(0)
    + ending()
)
THINKING = (
    start()
    + opened(0, type="thinking", thinking="", signature="")
    + delta(0, "thinking_delta", thinking="Let me ")
    + delta(0, "thinking_delta", thinking="see…")
    + delta(0, "signature_delta", signature="EqQBCg==")
    + stopped(0)
    + opened(1, type="redacted_thinking", data="c2VhbGVk")
    + stopped(1)
    + opened(2, type="text", text="")
    + delta(2, "text_delta", text="Yes")
    + stopped(2)
    + ending(output_tokens_details={"thinking_tokens": 9})
)
PARALLEL = (
    start()
    + opened(0, type="text", text="")
    + delta(0, "text_delta", text="Looking")
    + stopped(0)
    + opened(1, type="tool_use", id="toolu_1", name="look", input={})
    + delta(1, "input_json_delta", partial_json="")
    + delta(1, "input_json_delta", partial_json='{"q": "Zür')
    + delta(1, "input_json_delta", partial_json='ich"}')
    + stopped(1)
    + opened(2, type="tool_use", id="toolu_2", name="find", input={})
    + delta(2, "input_json_delta", partial_json='{"n":1}')
    + stopped(2)
    + ending("tool_use")
)
NO_ARGUMENTS = (
    start() + opened(0, type="tool_use", id="toolu_1", name="now", input={}) + stopped(0) + ending("tool_use")
)
BROKEN = start() + opened(0, type="text", text="") + delta(0, "text_delta", text="Half") + OVERLOADED
CUT = start() + opened(0, type="text", text="") + delta(0, "text_delta", text="Half")
CUT_LATE = TEXT[: TEXT.rindex(b"event: message_stop")]

TRANSCRIPTS = {
    "text": TEXT,
    "text with CRLF": TEXT.replace(b"\n", b"\r\n"),
    "text with CR": TEXT.replace(b"\n", b"\r"),
    "thinking": THINKING,
    "parallel tools": PARALLEL,
    "no arguments": NO_ARGUMENTS,
    "error in the middle": BROKEN,
    "cut": CUT,
    "cut before message_stop": CUT_LATE,
    "last empty line missing": TEXT.rstrip(b"\n"),
}

Assemble = Callable[[Any], dict[str, Any]]


@pytest.mark.parametrize(
    "recording", [TEXT, THINKING, PARALLEL, NO_ARGUMENTS], ids=["text", "thinking", "parallel", "no args"]
)
def test_the_recordings_are_what_the_sdk_reads(recording: bytes) -> None:
    for block in recording.split(b"\n\n")[:-1]:
        name, data = block.split(b"\ndata: ")
        if name != b"event: ping":
            TypeAdapter[Any](RawMessageStreamEvent).validate_python(decode(data))


async def test_text(stream: Any, assembled: Assemble) -> None:
    run = await stream(TEXT, {"stream_options": {"include_usage": True}})
    assert run.body["stream"] is True
    assert run.error is None
    assert assembled(run.chunks) == {
        "content": "Grüße 🦊!",
        "reasoning": "",
        "thinking_blocks": [],
        "tool_calls": [],
        "finish": "stop",
        "usage": Usage(110, 15, cached_tokens=100),
    }


async def test_every_stream_keeps_openais_invariants(stream: Any) -> None:
    run = await stream(PARALLEL, {"stream_options": {"include_usage": True}})
    head = [(c.data["id"], c.data["created"], c.data["model"], c.data["object"]) for c in run.chunks]
    assert len(set(head)) == 1
    assert head[0][2:] == ("claude", "chat.completion.chunk")
    choices = [c.data["choices"] for c in run.chunks]
    assert choices[0][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in c[0]["delta"] for c in choices[1:-1])
    assert choices[-2][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}
    assert choices[-1] == []
    assert [c.usage_only for c in run.chunks] == [False] * (len(run.chunks) - 1) + [True]
    assert all(c.data["usage"] is None for c in run.chunks[:-1])
    assert [c.content for c in run.chunks[:2]] == [False, True]
    assert [c.finished for c in run.chunks].count(True) == 1


async def test_thinking_is_streamed_as_reasoning_and_its_signed_block_follows(stream: Any, assembled: Assemble) -> None:
    run = await stream(THINKING)
    whole = assembled(run.chunks)
    assert (whole["reasoning"], whole["content"]) == ("Let me see…", "Yes")
    assert whole["thinking_blocks"] == [
        {"type": "thinking", "thinking": "Let me see…", "signature": "EqQBCg=="},
        {"type": "redacted_thinking", "data": "c2VhbGVk"},
    ]
    assert whole["usage"].reasoning_tokens == 9


async def test_thinking_without_a_text_still_gives_its_signature(stream: Any, assembled: Assemble) -> None:
    body = (
        start() + opened(0, type="thinking", thinking="", signature="") + delta(0, "signature_delta", signature="Eq==")
    )
    run = await stream(body + stopped(0) + ending())
    assert assembled(run.chunks)["thinking_blocks"] == [{"type": "thinking", "thinking": "", "signature": "Eq=="}]
    assert not any(chunk.content for chunk in run.chunks)


async def test_a_signature_in_pieces_is_put_together(stream: Any, assembled: Assemble) -> None:
    halves = delta(0, "signature_delta", signature="EqQB") + delta(0, "signature_delta", signature="Cg==")
    run = await stream(THINKING.replace(delta(0, "signature_delta", signature="EqQBCg=="), halves))
    assert assembled(run.chunks)["thinking_blocks"] == assembled((await stream(THINKING)).chunks)["thinking_blocks"]


async def test_parallel_tool_calls_are_numbered_by_calls_not_by_blocks(stream: Any, assembled: Assemble) -> None:
    run = await stream(PARALLEL)
    whole = assembled(run.chunks)
    assert whole["content"] == "Looking"
    assert whole["tool_calls"] == [
        {"id": "toolu_1", "name": "look", "arguments": '{"q": "Zürich"}'},
        {"id": "toolu_2", "name": "find", "arguments": '{"n":1}'},
    ]
    assert whole["finish"] == "tool_calls"
    first = next(c.data["choices"][0]["delta"] for c in run.chunks if "tool_calls" in str(c.data["choices"]))
    assert first["tool_calls"] == [
        {"index": 0, "id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": ""}}
    ]


async def test_a_call_without_arguments_gets_an_empty_object_once(stream: Any, assembled: Assemble) -> None:
    assert assembled((await stream(NO_ARGUMENTS)).chunks)["tool_calls"][0]["arguments"] == "{}"
    left_open = NO_ARGUMENTS.replace(stopped(0), b"")
    assert assembled((await stream(left_open)).chunks)["tool_calls"][0]["arguments"] == "{}"


async def test_arguments_that_come_with_the_blocks_start_are_the_first_fragment(
    stream: Any, assembled: Assemble
) -> None:
    body = (
        start() + opened(0, type="tool_use", id="t", name="n", input={"a": [1, "é"]}) + stopped(0) + ending("tool_use")
    )
    assert assembled((await stream(body)).chunks)["tool_calls"] == [
        {"id": "t", "name": "n", "arguments": '{"a":[1,"é"]}'}
    ]


async def test_text_that_comes_with_the_blocks_start_is_kept(stream: Any, assembled: Assemble) -> None:
    body = start() + opened(0, type="text", text="A") + delta(0, "text_delta", text="B") + stopped(0) + ending()
    assert assembled((await stream(body)).chunks)["content"] == "AB"


@pytest.mark.parametrize("first", [{}, {"thinking": "h", "signature": "s"}])
async def test_a_block_whose_start_says_much_or_nothing(stream: Any, assembled: Assemble, first: Any) -> None:
    """Anthropic's own begins with empty fields; servers that speak its dialect leave them out, or fill them."""
    rest = "hm"[len(first.get("thinking", "")) :]
    body = start() + opened(0, type="thinking", **first) + delta(0, "thinking_delta", thinking=rest)
    body += b"" if first else delta(0, "signature_delta", signature="s")
    body += stopped(0) + opened(1, type="text") + delta(1, "text_delta", text="A") + stopped(1) + ending()
    answer = assembled((await stream(body)).chunks)
    assert (answer["reasoning"], answer["content"]) == ("hm", "A")
    assert answer["thinking_blocks"] == [{"type": "thinking", "thinking": "hm", "signature": "s"}]


async def test_half_an_emoji_in_each_of_two_deltas_survives(stream: Any) -> None:
    halves = [
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\u%b"}}' % h
        for h in (b"d83e", b"dd8a")
    ]
    body = (
        start()
        + opened(0, type="text", text="")
        + b"".join(b"data: %b\n\n" % h for h in halves)
        + stopped(0)
        + ending()
    )
    run = await stream(body)
    assert run.error is None
    raw = b"".join(chunk.raw for chunk in run.chunks)
    assert b"\\ud83e" in raw
    assert b"\\udd8a" in raw


async def test_what_nobody_asked_for_is_ignored(stream: Any, assembled: Assemble) -> None:
    body = (
        PING
        + b": a comment\n\n"
        + b'data: {"type":"a_new_event","index":"x"}\n\n'
        + start()
        + opened(0, type="server_tool_use", id="s", name="web_search", input={})
        + delta(0, "input_json_delta", partial_json='{"query":1}')
        + stopped(0)
        + opened(1, type="text", text="")
        + delta(1, "citations_delta", citation={"type": "char_location"})
        + delta(1, "text_delta", text="A", more=[1])
        + delta(1, "a_new_delta", text="no")
        + stopped(1)
        + ending()
        + delta(1, "text_delta", text="after the end")
        + OVERLOADED
        + b"data: {not json\n\n"
    )
    run = await stream(body)
    assert run.error is None
    assert assembled(run.chunks)["content"] == "A"
    assert assembled(run.chunks)["tool_calls"] == []


async def test_the_first_delta_carries_the_role_also_when_a_ping_comes_before_it(stream: Any) -> None:
    run = await stream(PING + TEXT)
    assert run.chunks[0].data["choices"][0]["delta"]["role"] == "assistant"


async def test_counts_replace_each_other_and_a_report_without_them_takes_nothing_away(
    stream: Any, assembled: Assemble
) -> None:
    body = (
        start(cache_creation_input_tokens=30)
        + event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 4, "input_tokens": 12})
        + event(
            "message_delta",
            delta={"stop_reason": "end_turn"},
            usage={"output_tokens": 9, "cache_read_input_tokens": None},
        )
        + event("message_delta", delta={})
        + event("message_stop")
    )
    run = await stream(body)
    assert assembled(run.chunks)["usage"] == Usage(42, 9, cache_write_tokens=30)
    assert assembled(run.chunks)["finish"] == "stop"


async def test_counts_of_the_start_are_told_with_it(stream: Any) -> None:
    """Who leaves in the middle has used the prompt, and what of it was cached."""
    run = await stream(TEXT)
    assert run.chunks[0].usage == Usage(110, 1, cached_tokens=100)
    assert [chunk.usage for chunk in run.chunks[1:-1]] == [None] * (len(run.chunks) - 2)
    assert not run.chunks[0].usage_only


async def test_a_stream_without_counts_gives_no_made_up_ones(stream: Any) -> None:
    body = (
        event("message_start", message={})
        + event("message_delta", delta={"stop_reason": "end_turn"})
        + event("message_stop")
    )
    run = await stream(body)
    assert run.error is None
    assert run.chunks[-1].finished


@pytest.mark.parametrize(
    ("reason", "finish", "told"),
    [("max_tokens", "length", []), ("refusal", "content_filter", []), ("tired", "stop", ["stop_reason=tired"])],
)
async def test_stop_reasons(stream: Any, assembled: Assemble, reason: str, finish: str, told: Any) -> None:
    run = await stream(TEXT.replace(b'"end_turn"', f'"{reason}"'.encode()))
    assert (assembled(run.chunks)["finish"], run.dropped) == (finish, told)


async def test_why_the_model_refused_comes_before_the_end(stream: Any) -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "Against the policy."}
    body = (
        event("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 1}})
        + event("message_delta", delta={"stop_reason": "refusal", "stop_details": details}, usage={"output_tokens": 2})
        + event("message_stop")
    )
    run = await stream(body)
    choices = [choice for chunk in run.chunks for choice in chunk.data["choices"]]
    assert [choice["delta"].get("refusal") for choice in choices] == [None, "Against the policy.", None]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "content_filter"]


async def test_a_message_that_begins_anew_in_its_middle_is_the_vendors_failure(
    stream: Any, assembled: Assemble
) -> None:
    """A proxy that tries again has spliced two answers: neither is whole."""
    run = await stream(CUT + stopped(0) + TEXT)
    assert run.error is not None
    assert "begins anew" in run.error.message
    assert assembled(run.chunks)["content"] == "Half"
    run = await stream(start() + TEXT)
    assert run.error is None
    assert assembled(run.chunks)["content"] == "Grüße 🦊!"


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (CUT, "Half"),
        (CUT_LATE, "Grüße 🦊!"),
        (b"", ""),
        (CUT + event("message_stop"), "Half"),
        (CUT + b'data: {"type": "content_bl', "Half"),
        (CUT + b"data: {]\n\n", "Half"),
        (CUT + b"data: [1]\n\n", "Half"),
        (CUT + b"data: \xff\xfe\n\n", "Half"),
        (CUT + b"event: error\ndata: oops\n\n", "Half"),
        (CUT + event("content_block_delta", index=0), "Half"),
        (CUT + event("content_block_delta", index="0", delta={}), "Half"),
        (CUT + event("content_block_start", index=1, content_block=None), "Half"),
        (CUT + event("message_start"), "Half"),
        (CUT + event("message_delta", delta=[]), "Half"),
        (CUT + delta(7, "text_delta", text="x"), "Half"),
        (CUT + stopped(7), "Half"),
        (CUT + delta(0, "text_delta", text=5), "Half"),
        (CUT + delta(0, "thinking_delta"), "Half"),
        (
            CUT + opened(1, type="thinking", thinking="", signature="") + delta(1, "signature_delta", signature=5),
            "Half",
        ),
        (CUT + opened(1, type="redacted_thinking"), "Half"),
        (CUT + opened(1, type="tool_use", name="n", input={}), "Half"),
        (CUT + opened(1, type="tool_use", id="i", input={}), "Half"),
        (CUT + opened(1, type="tool_use", id="i", name="n", input=[1]), "Half"),
        (CUT + opened(1, type="tool_use", id="i", name="n") + delta(1, "input_json_delta", partial_json={}), "Half"),
        (
            CUT
            + opened(1, type="tool_use", id="i", name="n")
            + opened(2, type="tool_use", id="j", name="n")
            + delta(1, "input_json_delta", partial_json="{}"),
            "Half",
        ),
    ],
)
async def test_a_broken_stream_gives_what_came_and_then_fails(
    stream: Any, assembled: Assemble, body: bytes, content: str
) -> None:
    run = await stream(body)
    assert isinstance(run.error, UpstreamError)
    assert run.error.message.startswith("anthropic: ")
    whole = assembled(run.chunks)
    assert (whole["content"], whole["finish"]) == (content, None)
    counted = any(chunk.usage_only for chunk in run.chunks)
    assert counted == (body == CUT_LATE), "the last counts, if they have come"
    assert counted or "usage" not in whole or whole["usage"].completion_tokens == 1, "what the start told, and no more"
    assert run.closed


async def test_an_error_in_the_middle_comes_after_the_content_before_it(stream: Any, assembled: Assemble) -> None:
    run = await stream(BROKEN)
    assert assembled(run.chunks)["content"] == "Half"
    assert (run.error.status, run.error.code) == (503, "upstream_overloaded")
    limited = BROKEN.replace(b"overloaded_error", b"rate_limit_error")
    assert isinstance((await stream(limited)).error, RateLimited)


async def test_a_cut_line_is_told_and_the_upstream_closed(stream: Any) -> None:
    replay = Replay([CUT], content_type="text/event-stream", fails=UpstreamError("anthropic: cut"))
    run = await stream([], replay=replay)
    assert run.error.message == "anthropic: cut"
    assert run.closed


@pytest.mark.parametrize("fails", [UpstreamError("anthropic: cut"), None], ids=["cut", "ended"])
async def test_the_last_counts_are_told_of_an_answer_that_breaks_off_after_them(stream: Any, fails: Any) -> None:
    replay = Replay([CUT_LATE], content_type="text/event-stream", fails=fails)
    run = await stream([], replay=replay)
    assert run.error is not None
    told = [chunk.usage for chunk in run.chunks if chunk.usage]
    whole = [chunk.usage for chunk in (await stream(TEXT)).chunks if chunk.usage]
    assert told[-1] == whole[-1] != told[0]
    early = await stream([], replay=Replay([CUT], content_type="text/event-stream"))
    assert len([chunk for chunk in early.chunks if chunk.usage]) == 1, "no other counts have come yet"


async def test_a_line_that_is_cut_after_the_end_is_nobodys_concern(stream: Any, assembled: Assemble) -> None:
    replay = Replay([TEXT], content_type="text/event-stream", fails=UpstreamError("anthropic: cut"))
    run = await stream([], replay=replay)
    assert run.error is None
    assert assembled(run.chunks)["finish"] == "stop"


@pytest.mark.parametrize("cut", [b"", b"\n"], ids=["no line end", "one line end"])
async def test_a_last_event_without_its_empty_line_still_counts(stream: Any, assembled: Assemble, cut: bytes) -> None:
    run = await stream(TEXT.rstrip(b"\n") + cut)
    assert run.error is None
    assert assembled(run.chunks) == assembled((await stream(TEXT)).chunks)


async def test_the_body_is_drained_after_its_end_so_that_the_connection_can_be_used_again(stream: Any) -> None:
    drained = False

    class Watched(Replay):
        async def drain(self) -> None:
            nonlocal drained
            drained = True

    run = await stream([], replay=Watched([TEXT, PING], content_type="text/event-stream"))
    assert (run.error, run.batches, drained) == (None, 1, True)


async def test_an_event_over_the_limit_is_the_vendors_failure(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatehook.sse import Reader
    from gatehook_plugins.vendor_anthropic import vendor

    monkeypatch.setattr(vendor, "Reader", lambda: Reader(limit=300))
    run = await stream([start(), delta(0, "text_delta", text="x" * 500)[:400]])
    assert isinstance(run.error, UpstreamError)
    assert "larger than" in run.error.message


async def test_each_read_is_one_batch_and_a_ping_alone_is_an_empty_one(stream: Any) -> None:
    run = await stream([TEXT[:20], TEXT[20:], PING])
    assert run.batches == 2
    split = TEXT.index(b"event: ping")
    run = await stream([TEXT[:split], PING, TEXT[split + len(PING) :]])
    assert run.batches == 3


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", TRANSCRIPTS)
async def test_a_stream_split_at_any_byte_says_the_same(stream: Any, assembled: Assemble, name: str) -> None:
    def essence(run: Any) -> Any:
        return assembled(run.chunks), run.error and (type(run.error), run.error.message, run.error.status), run.closed

    body = TRANSCRIPTS[name]
    whole = essence(await stream(body))
    for pieces in splits(body):
        assert essence(await stream(pieces)) == whole
