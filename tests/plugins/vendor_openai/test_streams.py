"""Streams as real servers write them, cut at every byte: what the client gets does not depend on where."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import UpstreamError
from gatehook.testing import Replay, ReplayEgress, attempt, splits
from gatehook_plugins.vendor_openai.vendor import OpenAIVendor

Ask = Callable[..., Any]
Make = Callable[..., Any]

ASKED = {"model": "public", "messages": [{"role": "user", "content": "x"}], "stream": True,
         "stream_options": {"include_usage": True}}  # fmt: skip
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def tool(index: int, arguments: str = "", **rest: str) -> dict[str, Any]:
    """A fragment of a tool call; `id` and `name` come with the first."""
    function = {"arguments": arguments} | ({"name": rest["name"]} if "name" in rest else {})
    first = {"id": rest["id"], "type": "function"} if "id" in rest else {}
    return {"tool_calls": [{"index": index, **first, "function": function}]}


def transcripts(event: Make, sse: Make) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Name: (the bytes, what choice 0 must come to)."""
    role = event({"role": "assistant", "content": "", "refusal": None})
    stop = event({}, "stop")
    bare = {"choices": [], "usage": USAGE}
    hello = [role, event({"content": "Grü"}), event({"content": "ße 😀"}), stop]
    text = {"content": "Grüße 😀", "finish": "stop", "roles": 1}
    calls = {"finish": "tool_calls", "roles": 1, "tools": {
        0: {"id": "call_1", "name": "get_weather", "arguments": '{"city": "Köln"}'},
        1: {"id": "call_2", "name": "now", "arguments": "{}"},
    }}  # fmt: skip
    tools = [
        event({"role": "assistant", "content": None, **tool(0, id="call_1", name="get_weather")}),
        event(tool(0, '{"ci')),
        event(tool(1, id="call_2", name="now")),
        event(tool(0, 'ty": "Kö')),
        event(tool(1, "{")),
        event({"tool_calls": tool(0, 'ln"}')["tool_calls"] + tool(1, "}")["tool_calls"]}),
    ]
    azure = {"choices": [], "created": 0, "id": "", "model": "", "object": "",
             "prompt_filter_results": [{"prompt_index": 0}]}  # fmt: skip
    logprob = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    with_logprobs = event({"content": "Hi"})
    with_logprobs["choices"][0]["logprobs"] = {"content": [logprob], "refusal": None}
    return {
        "text": (sse(*hello), text),
        "text with usage": (sse(*hello, event(**bare)), text),
        "usage null until its chunk": (sse(*({**one, "usage": None} for one in hello), event(**bare)), text),
        "usage in the finish chunk": (sse(*hello[:-1], {**stop, "usage": USAGE}), text),
        "usage in every chunk": (sse(*({**one, "usage": USAGE} for one in hello), event(**bare)), text),
        "no done": (sse(*hello, done=False), text),
        "no last empty line": (sse(*hello, done=False)[:-2], text),
        "no line end after done": (sse(*hello)[:-2], text),
        "CRLF": (sse(*hello, end=b"\r\n\r\n"), text),
        "CR": (sse(*hello, end=b"\r\r"), text),
        "comments": (b": OPENROUTER PROCESSING\n\n" * 2 + sse(hello[0], b":\n\n", *hello[1:], b": bye\n\n"), text),
        "ids, retries and names": (
            b"retry: 5\nid: 1\n\n" + sse(*hello).replace(b"data:", b"event: message\ndata:"), text),
        "heartbeats": (
            sse(b"event: ping\ndata: {}\n\n", role, b'event: beat\ndata: {"type":"ping"}\n\n', *hello[1:]), text),
        "byte order mark": (b"\xef\xbb\xbf" + sse(*hello), text),
        "no space after data": (sse(*hello).replace(b"data: ", b"data:"), text),
        "two spaces after data": (sse(*hello).replace(b"data: ", b"data:  "), text),
        "events over many lines": (sse(*hello).replace(b',"object"', b',\ndata: "object"'), text),
        "one per letter escapes": (sse(*hello).replace(b"model", b"mod\\u0065l"), text),
        "the model's name with escapes": (sse(*hello).replace(b"upstream-model", b"up\\u0073tream-model"), text),
        "an id per chunk": (sse(*({**one, "id": f"c{n}", "created": n} for n, one in enumerate(hello))), text),
        "no head at all": (sse(*({"choices": one["choices"]} for one in hello)), text),
        "another model's name half way": (
            sse(*hello[:2], {**hello[2], "model": "fallback"}, {**stop, "model": None}), text),
        "no role": (sse(*hello[1:]), text),
        "a null role": (sse(event({"role": None, "content": ""}), *hello[1:]), text),
        "finish with the last content": (sse(role, event({"content": "Grüße 😀"}, "stop")), text),
        "a finish without a delta": (
            sse(*hello[:-1], {**stop, "choices": [{"index": 0, "finish_reason": "stop"}]}), text),
        "empty finish reasons until the end": (
            sse(*({**one, "choices": [{**one["choices"][0], "finish_reason": ""}]} for one in hello[:-1]), stop), text),
        "no index": (sse(*({**one, "choices": [{k: v for k, v in one["choices"][0].items() if k != "index"}]}
                           for one in hello)), text),
        "Azure's first chunk": (sse(azure, *hello), text),
        "the word model": (
            sse(role, *(event({"content": piece}) for piece in ('{"model":', "model", '"model"')), stop),
            {"content": '{"model":model"model"', "finish": "stop"}),
        "a lone surrogate": (sse(role, event({"content": "\ud83d"}), event({"content": "\ude00!"}), stop),
                             {"content": "\ud83d\ude00!", "finish": "stop", "roles": 1}),
        "tools": (sse(*tools, event({}, "tool_calls")), calls),
        "tools that stop": (sse(*tools, event({}, "stop")), calls),
        "a tool's name in pieces": (
            sse(event({"role": "assistant", **tool(0, id="call_1", name="get_")}), event(tool(0, name="weather")),
                event(tool(0, "{}")), event({}, "tool_calls")),
            {"finish": "tool_calls", "tools": {0: {"id": "call_1", "name": "get_weather", "arguments": "{}"}}}),
        "the names of two tools in pieces": (
            sse(role, event(tool(0, id="call_1", name="get_")), event(tool(0, name="wea")), event(tool(0, name="ther")),
                event(tool(0, '{"ci')), event(tool(0, 'ty": "Köln"}')), event(tool(1, id="call_2", name="n")),
                event(tool(1, name="ow")), event(tool(1, "{")), event(tool(1, "}")), event({}, "tool_calls")),
            {"finish": "tool_calls", "tools": {
                0: {"id": "call_1", "name": "get_weather", "arguments": '{"city": "Köln"}'},
                1: {"id": "call_2", "name": "now", "arguments": "{}"}}}),
        "a tool's name in pieces, the last with arguments": (
            sse(role, event(tool(0, id="call_1", name="get_")), event(tool(0, '{"a', name="weather")),
                event(tool(0, '": 1}')), event({}, "stop")),
            {"finish": "tool_calls", "tools": {0: {"id": "call_1", "name": "get_weather", "arguments": '{"a": 1}'}}}),
        "a tool's name with every fragment": (
            sse(role, *(event(tool(0, piece, id=id_, name="now")) for piece, id_ in
                        (("", "call_1"), ("", ""), ("{", ""), ('"a":', ""), ("1}", ""))), event({}, "tool_calls")),
            {"finish": "tool_calls", "tools": {0: {"id": "call_1", "name": "now", "arguments": '{"a":1}'}}}),
        "a tool's name alone": (
            sse(role, event(tool(0, id="call_1", name="now")), event({}, "tool_calls")),
            {"finish": "tool_calls", "tools": {0: {"id": "call_1", "name": "now", "arguments": "{}"}}}),
        "a whole tool call with the finish": (
            sse(event({"role": "assistant", **tool(0, "{}", id="call_1", name="now")}, "stop")),
            {"finish": "tool_calls", "tools": {0: {"id": "call_1", "name": "now", "arguments": "{}"}}}),
        "reasoning_content": (
            sse(role, event({"reasoning_content": "hm"}), event({"content": "A"}), stop),
            {"reasoning_content": "hm", "content": "A", "finish": "stop"}),
        "reasoning": (
            sse(role, event({"reasoning": "hm", "reasoning_content": None}), event({"content": "A"}), stop),
            {"reasoning": "hm", "content": "A", "finish": "stop"}),
        "a refusal": (
            sse(role, event({"refusal": "No"}), event({"refusal": "."}), stop), {"refusal": "No.", "finish": "stop"}),
        "logprobs": (sse(role, with_logprobs, stop), {"content": "Hi", "logprobs": [logprob], "finish": "stop"}),
        "a length finish": (sse(role, event({}, "length")), {"content": "", "finish": "length"}),
        "a function call": (
            sse(event({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}),
                event({}, "function_call")), {"finish": "function_call"}),
    }  # fmt: skip


NAMES = list(transcripts(lambda *a, **k: {"choices": [{}], "id": "x"}, lambda *a, **k: b""))


@pytest.mark.parametrize("name", NAMES)
async def test_a_transcript_gives_the_same_however_it_is_cut(stream: Ask, event: Make, sse: Make, name: str) -> None:
    body, expected = transcripts(event, sse)[name]
    whole = None
    for pieces in splits(body):
        run = await stream(pieces, ASKED)
        answer = run.answer
        if whole is None:
            whole = answer
            assert {key: answer["choices"][0].get(key) for key in expected} == expected
            assert answer["choices"][0]["roles"] == 1
            if "usage" in name:
                assert (answer["usage"].prompt_tokens, answer["usage"].total_tokens) == (7, 10)
                assert (answer["usage"].cached_tokens, answer["usage"].reasoning_tokens) == (4, 2)
                assert run.chunks[-1].usage_only
                assert [chunk.usage_only for chunk in run.chunks].count(True) == 1
            else:
                assert answer["usage"] is None
        assert answer == whole


async def test_calls_that_a_server_does_not_tell_apart_pass_as_they_are(stream: Ask, event: Make, sse: Make) -> None:
    """Without ids, all with the same index, a second name is as likely another call's as the same one's."""
    deltas = [tool(0, "{}", name="a"), tool(0, "{}", name="b"), tool(0, '{"x":1}', name="a")]
    deltas[0]["tool_calls"][0]["type"] = "function"
    run = await stream(sse(event({"role": "assistant"}), *map(event, deltas), event({}, "tool_calls")))
    assert [chunk.data["choices"][0]["delta"] for chunk in run.chunks[1:-1]] == deltas


async def test_a_call_begun_is_told_with_the_next_event_and_not_lost(stream: Ask, event: Make, sse: Make) -> None:
    begun, more = event({"role": "assistant", **tool(0, id="c", name="f")}), event(tool(0, "{}"))
    run = await stream([sse(begun, done=False), sse(more, event({}, "tool_calls"))])
    assert [chunk.data for chunk in run.chunks] == [
        {**one, "model": "public"} for one in (begun, more, event({}, "tool_calls"))
    ]
    assert [chunk.content for chunk in run.chunks] == [True, True, False]
    broken = await stream([sse(begun, done=False), b'data: {"error": "boom"}\n\n'])
    assert (broken.chunks, broken.error.message) == ([], "openai: boom")


async def test_two_choices_keep_their_indices_and_roles(stream: Ask, event: Make, sse: Make) -> None:
    body = sse(
        event({"role": "assistant", "content": "A"}, index=0),
        event({"content": "B"}, index=1),
        event({"content": "a"}, index=0),
        event({"content": "b"}, index=1),
        event({}, "stop", index=1),
        event({}, "length", index=0),
    )
    for pieces in splits(body):
        choices = (await stream(pieces)).answer["choices"]
        assert {i: (one["content"], one["finish"], one["roles"]) for i, one in choices.items()} == {
            0: ("Aa", "length", 1),
            1: ("Bb", "stop", 1),
        }


async def test_only_the_choice_with_tool_calls_has_its_finish_corrected(stream: Ask, event: Make, sse: Make) -> None:
    body = sse(
        event({"role": "assistant", "content": "A"}, index=0),
        event({"role": "assistant", **tool(0, "{}", id="c", name="f")}, index=1),
        event({}, "stop", index=0),
        event({}, "stop", index=1),
    )
    choices = (await stream(body)).answer["choices"]
    assert (choices[0]["finish"], choices[1]["finish"]) == ("stop", "tool_calls")


async def test_a_choice_ends_once_however_often_its_end_is_told(stream: Ask, event: Make, sse: Make) -> None:
    stop = event({}, "stop")
    body = sse(event({"role": "assistant", "content": "A"}), stop, stop, {**stop, "usage": USAGE})
    for pieces in splits(body):
        run = await stream(pieces, ASKED)
        told = [(one["delta"], one["finish_reason"]) for chunk in run.chunks for one in chunk.data["choices"]]
        assert told == [({"role": "assistant", "content": "A"}, None), ({}, "stop")]
        assert run.answer["usage"].total_tokens == 10
        assert [chunk.usage_only for chunk in run.chunks] == [False, False, True]


async def test_an_empty_finish_reason_is_told_as_none(stream: Ask, event: Make, sse: Make) -> None:
    """Clients take whatever is not null for the end, and so does what judges tool calls."""
    said = [event({"role": "assistant", "content": ""}), event({"content": "A"}), event({"content": "B"})]
    empty = [{**one, "choices": [{**one["choices"][0], "finish_reason": ""}]} for one in said]
    for pieces in splits(sse(*empty, event({}, "stop"))):
        chunks = (await stream(pieces)).chunks
        assert [chunk.data for chunk in chunks] == [{**one, "model": "public"} for one in (*said, event({}, "stop"))]


async def test_the_role_is_never_said_twice_by_a_mended_event(stream: Ask, event: Make, sse: Make) -> None:
    first, *rest = event({"role": "assistant", "content": "A"}), event({"content": "B"}), event({}, "stop")
    run = await stream(sse(first, *({**one, "id": f"other-{n}"} for n, one in enumerate(rest))))
    deltas = [chunk.data["choices"][0]["delta"] for chunk in run.chunks if chunk.data["choices"]]
    assert deltas == [{"role": "assistant", "content": "A"}, {"content": "B"}, {}]


async def test_events_that_need_no_mending_keep_their_bytes(stream: Ask, event: Make, sse: Make) -> None:
    odd = (
        b'{"id" : "chatcmpl-up", "created":1700000000,"model":"upstream-model", "zz":1.50, '
        b'"choices":[ {"index":0,"delta":{"content":"x"}} ] }'
    )
    run = await stream(sse(event({"role": "assistant"}), odd.decode(), event({}, "stop")))
    assert run.chunks[1].raw == odd.replace(b"upstream-model", b"public")


async def test_a_nested_model_is_not_renamed(stream: Ask, event: Make, sse: Make) -> None:
    nested = event({"content": "B", "annotations": {"model": "upstream-model"}})
    del nested["model"]
    run = await stream(sse(event({"role": "assistant", "content": "A"}), nested, event({}, "stop")))
    data = run.chunks[1].data
    assert (data["model"], data["choices"][0]["delta"]["annotations"]) == ("public", {"model": "upstream-model"})


async def test_completions_stream_without_roles(stream: Ask, sse: Make) -> None:
    def piece(text: str, finish: str | None = None) -> dict[str, Any]:
        return {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "upstream-model",
                "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]}  # fmt: skip

    body = sse(piece("Once "), piece("upon"), piece("", "length"))
    asked = {"model": "public", "prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    for pieces in splits(body):
        run = await stream(pieces, asked, operation="completions")
        choice = run.answer["choices"][0]
        assert (choice["text"], choice["finish"], choice["roles"]) == ("Once upon", "length", 0)
        assert run.answer["content"] == 2


async def test_usage_with_the_finish_gets_an_event_of_its_own_for_who_asked(
    stream: Ask, event: Make, sse: Make
) -> None:
    body = sse(event({"role": "assistant", "content": "A"}), {**event({}, "stop"), "usage": USAGE})
    last = (await stream(body, ASKED)).chunks[-1]
    assert last.usage_only
    assert (last.data["choices"], last.data["object"]) == ([], "chat.completion.chunk")
    assert last.data["usage"]["total_tokens"] == 10
    assert not any(chunk.usage_only for chunk in (await stream(body)).chunks)


async def test_usage_that_is_told_again_is_passed_on_once(stream: Ask, event: Make, sse: Make) -> None:
    again = {**USAGE, "completion_tokens": 5, "total_tokens": 12}
    bare = [{**event(), "choices": [], "usage": usage} for usage in (USAGE, again)]
    run = await stream(sse(event({"role": "assistant", "content": "A"}), event({}, "stop"), *bare), ASKED)
    assert [chunk.data["usage"]["total_tokens"] for chunk in run.chunks if chunk.usage_only] == [10]


@pytest.mark.parametrize("usage", [{}, [], {"prompt_tokens": "7"}, {"prompt_tokens": 0, "completion_tokens": 0}])
async def test_usage_that_counts_nothing_is_unknown_and_for_nobody_who_did_not_ask(
    stream: Ask, event: Make, sse: Make, usage: Any
) -> None:
    said = [{**event({"role": "assistant", "content": "A"}), "usage": usage}, event({}, "stop")]
    run = await stream(sse(*said, {**event(), "choices": [], "usage": usage}))
    assert [chunk.data["choices"][0]["finish_reason"] for chunk in run.chunks] == [None, "stop"]
    assert [chunk.usage for chunk in run.chunks] == [None, None]


BROKEN: dict[str, list[str | bytes]] = {
    "nothing": [],
    "done only": ["[DONE]"],
    "done without a finish": ["{role}", "{text}", "[DONE]"],
    "an end without a finish": ["{role}", "{text}"],
    "malformed": ["{role}", '{"id":"x","choices":[{"delta"'],
    "malformed, then fine": ["{role}", "{oops}", "{text}", "{stop}", "[DONE]"],
    "not an object": ["{role}", "[]", "{stop}", "[DONE]"],
    "a bare word": ["{role}", "hello", "{stop}", "[DONE]"],
    "a number": ["{role}", "17", "{stop}", "[DONE]"],
    "NaN": ["{role}", '{"choices":[],"x":NaN}', "{stop}", "[DONE]"],
    "choices of a wrong type": ["{role}", '{"choices":{}}', "{stop}"],
    "a choice of a wrong type": ["{role}", '{"choices":["x"]}', "{stop}"],
    "a delta of a wrong type": ["{role}", '{"choices":[{"delta":"x"}]}', "{stop}"],
    "an index of a wrong type": ["{role}", '{"choices":[{"index":"0"}]}', "{stop}"],
    "a finish of a wrong type": ["{role}", '{"choices":[{"finish_reason":7}]}', "{stop}"],
    "an id of a wrong type": ["{role}", '{"id":7,"choices":[]}', "{stop}"],
    "a number of thousands of digits": ['{"choices":[{"delta":{"content":"A"}}],"x":' + "9" * 5000 + "}", "{stop}"],
    "not UTF-8": ["{role}", b'data: {"model":"\xff","choices":[]}\n\n', "{stop}"],
    "not UTF-8 where nobody looks": ["{role}", b'data: {"choices":[{"logprobs":"\xff"}]}\n\n', "{stop}"],
    "an error in a choice": ["{role}", '{"choices":[{"finish_reason":"error","error":{"message":"boom"}}]}', "{stop}"],
    "a finish that is none": [
        "{role}",
        "{text}",
        '{"choices":[{"delta":{"content":""},"finish_reason":"error"}]}',
        "[DONE]",
    ],
    "DeepSeek's finish that is none": ["{role}", '{"choices":[{"finish_reason":"insufficient_system_resource"}]}'],
    "far too deep": ["{role}", "[" * 100_000, "{stop}"],
    "an object far too deep": ["{role}", '{"a":' * 100_000, "{stop}"],
    "one of two choices unfinished": ["{role}", "{second}", "{stop}", "[DONE]"],
    "an error object": ["{role}", '{"error":{"message":"boom","code":500}}', "{stop}", "[DONE]"],
    "an error as text": ["{role}", '{"error":"boom"}', "{stop}"],
    "an error by event name": ["{role}", b'event: error\ndata: {"message":"boom"}\n\n', "{stop}"],
    "an error by event name as text": ["{role}", b"event: error\ndata: boom\n\n", "{stop}"],
    "llama.cpp's error": ["{role}", b'error: {"error":{"message":"boom"}}\n\n'],
    "vLLM's older error": ["{role}", '{"object":"error","message":"boom","type":"x","code":500}', "{stop}"],
    "an error after the finish": ["{role}", "{stop}", '{"error":{"message":"boom"}}'],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_stream_is_an_upstream_failure(stream: Ask, event: Make, sse: Make, name: str) -> None:
    stand_ins = {
        "{role}": event({"role": "assistant", "content": ""}),
        "{text}": event({"content": "A"}),
        "{stop}": event({}, "stop"),
        "{second}": event({"content": "B"}, index=1),
    }
    body = sse(*(stand_ins.get(one, one) if isinstance(one, str) else one for one in BROKEN[name]), done=False)
    cuts = splits(body) if len(body) < 5000 else [[body]]
    for pieces in cuts:
        run = await stream(pieces)
        assert isinstance(run.error, UpstreamError), run.chunks
        assert run.closed
    if "error" in name and "text" not in name:
        assert "boom" in run.error.message


@pytest.mark.parametrize(
    ("error", "status", "type"),
    [
        ({"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}, 429, "rate_limit_error"),
        ({"message": "slow down", "code": 429}, 429, "rate_limit_error"),
        ({"message": "slow down", "code": "429"}, 429, "rate_limit_error"),
        ({"message": "slow down", "code": None, "status": 429}, 429, "rate_limit_error"),
        ({"message": "too long", "code": "context_length_exceeded"}, 400, "invalid_request_error"),
        ({"message": "no", "code": 400}, 400, "invalid_request_error"),
        ({"message": "busy", "code": 503}, 503, "server_error"),
        ({"message": "?", "code": 99999}, 502, "server_error"),
        ({"message": "?", "code": "²²²"}, 502, "server_error"),
        ({"message": "?", "code": "4" * 5000}, 502, "server_error"),
        ({"message": "?", "code": True}, 502, "server_error"),
        ({"message": ["?"], "code": {}}, 502, "server_error"),
        ("bad day", 502, "server_error"),
    ],
)
async def test_an_error_in_the_stream_has_its_status(
    stream: Ask, event: Make, sse: Make, error: Any, status: int, type: str
) -> None:
    run = await stream(sse({"error": error}))
    assert (run.error.status, run.error.type) == (status, type)
    assert run.error.message.startswith("openai: ")


async def test_what_follows_done_is_not_read(stream: Ask, event: Make, sse: Make) -> None:
    run = await stream(sse(event({"role": "assistant", "content": "A"}, "stop")) + b"data: garbage\n\n")
    assert run.answer["choices"][0]["content"] == "A"


async def test_the_end_of_the_line_counts_as_the_end_only_after_the_finish(stream: Ask, event: Make, sse: Make) -> None:
    """At every byte: the line is cut there, cleanly or not. Complete after the last finish, broken before."""
    body = sse(
        event({"role": "assistant", "content": "A"}),
        event({"content": "B"}),
        event({}, "stop"),
        event(choices=[], usage=USAGE),
    )
    finish = body.index(b'"stop"')
    end_of_finish = body.index(b"\n\n", finish)
    for place in range(len(body)):
        for fails in (None, UpstreamError("openai: the connection was cut in the middle of the answer")):
            replay = Replay([body[:place]], content_type="text/event-stream", fails=fails)
            run = await stream(replay=replay)
            if place >= end_of_finish + 2:
                assert run.answer["choices"][0]["content"] == "AB"
            elif place < end_of_finish:
                assert isinstance(run.error, UpstreamError), place
            assert run.closed


async def test_the_secret_of_the_deployment_is_taken_out_of_errors(stream: Ask, ask: Ask, sse: Make) -> None:
    error = {"error": {"message": "Incorrect API key: vendor-secret-0123456789abcdef and sk-abcd1234"}}
    streamed = await stream(sse(error))
    plain = await ask(answer=error)
    refused = await ask(replay=Replay(json.dumps(error).encode(), status=401))
    for run in (streamed, plain, refused):
        assert run.error.message == "openai: Incorrect API key: [redacted] and [redacted]"


@pytest.mark.parametrize(
    ("answer", "content_type", "status"),
    [
        (b'{"error":{"message":"slow","code":429}}', "application/json", 429),
        (b'{"id":"x","choices":[{"message":{"content":"whole"},"finish_reason":"stop"}]}', "application/json", 502),
        (b"<html>gateway</html>", "text/html", 502),
        (b"", "", 502),
        (b"[]", "application/json", 502),
    ],
)
async def test_a_stream_request_answered_with_no_stream_fails(
    stream: Ask, answer: bytes, content_type: str, status: int
) -> None:
    run = await stream(replay=Replay(answer, content_type=content_type))
    assert run.error.status == status
    assert "<html>" not in run.error.message


async def test_an_event_without_end_is_given_up(stream: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatehook import sse as wire

    monkeypatch.setattr(wire.Reader.__init__, "__defaults__", (1000,))
    run = await stream([b"data: " + b"x" * 500] * 3)
    assert isinstance(run.error, UpstreamError)
    assert run.closed


async def test_leaving_a_stream_closes_the_upstream(event: Make, sse: Make) -> None:
    replay = Replay(
        [sse(event({"content": "A"}), done=False), sse(event({"content": "B"}))], content_type="text/event-stream"
    )
    source = OpenAIVendor(ReplayEgress(replay)).stream(attempt({"model": "public", "stream": True}))
    await anext(source)
    assert not replay.closed
    await source.aclose()  # type: ignore[attr-defined]  # an async generator, says the interface's text
    assert replay.closed


TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ['"', "\\", '","', '"}}]}\n\ndata: {', "\ud83d", "\ude00", "", "public", "upstream-model", '"model":']
    ),
)
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"reasoning_content": text}, TEXTS),
    st.builds(lambda text, index: tool(index, text), TEXTS, st.integers(0, 1)),
    st.builds(lambda text, name: {"content": text, name: text}, TEXTS, st.sampled_from(["refusal", "model", "zz"])),
)


@given(st.lists(st.tuples(DELTAS, st.sampled_from([0, 0, 0, 1])), max_size=12), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
async def test_any_stream_arrives_as_it_was_sent_but_for_the_name(
    stream: Ask, event: Make, sse: Make, deltas: list[tuple[dict[str, Any], int]], data: st.DataObject
) -> None:
    sent = [event({"role": "assistant", "content": ""}, index=index) for index in (0, 1)]
    sent += [event(delta, index=index) for delta, index in deltas]
    sent += [event({}, "length", index=index) for index in (0, 1)]
    body = sse(*(json.dumps(one, ensure_ascii=data.draw(st.booleans())) if _writable(one) else one for one in sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=4)))
    run = await stream([body[start:end] for start, end in itertools.pairwise([0, *cuts, len(body)])])
    assert run.error is None
    assert [json.loads(chunk.raw) for chunk in run.chunks] == [{**one, "model": "public"} for one in sent]
    assert sum(chunk.content for chunk in run.chunks) == sum(any(_texts(delta)) for delta, _ in deltas)


def _writable(event: Any) -> bool:
    try:
        json.dumps(event, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(delta: dict[str, Any]) -> list[Any]:
    return [delta.get(key) for key in ("content", "reasoning_content", "refusal", "tool_calls")]
