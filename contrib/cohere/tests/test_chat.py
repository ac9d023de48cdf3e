"""Chats, there and back."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import gatehook_cohere
from gatehook import GatewayError, InvalidRequest, Retry, UpstreamError, UpstreamTimeout
from gatehook.testing import Replay, ReplayEgress, attempt, splits
from gatehook_cohere.parameters import PARAMETERS
from gatehook_cohere.vendor import Cohere

HI = [{"role": "user", "content": "hi"}]
USAGE = {
    "billed_units": {"input_tokens": 3.0, "output_tokens": 2.0},
    "tokens": {"input_tokens": 9.0, "output_tokens": 2.0},
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def answer(**message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]} | message
    return {"id": "x", "finish_reason": "COMPLETE", "message": said, "usage": USAGE}


async def test_parameters_get_cohere_s_names(asked: Any) -> None:
    (request,), _, _ = await asked(
        {
            "messages": [{"role": "system", "content": "Be brief."}, *HI],
            "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 7, "stop": "END", "max_tokens": 9,
            "presence_penalty": 0.5, "reasoning_effort": "low",
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        },
        answer(),
        model="command-a",
        api_key=SecretStr("k" * 20),
        options={"safety_mode": "STRICT", "extra": {"citation_options": {"mode": "OFF"}}},
    )  # fmt: skip
    assert request.path == "https://api.cohere.com/v2/chat"
    assert request.headers["Authorization"] == "Bearer " + "k" * 20
    assert request.json == {
        "model": "command-a", "stream": False, "temperature": 0.5, "p": 0.9, "k": 3, "seed": 7,
        "stop_sequences": ["END"], "max_tokens": 9, "presence_penalty": 0.5, "safety_mode": "STRICT",
        "thinking": {"type": "enabled", "token_budget": 1024}, "citation_options": {"mode": "OFF"},
        "response_format": {"type": "json_object", "json_schema": {"type": "object"}},
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "sent", "count"),
    [
        ("auto", None, 2),
        ("none", "NONE", 2),
        ("required", "REQUIRED", 2),
        ({"type": "function", "function": {"name": "add"}}, "REQUIRED", 1),
    ],
)
async def test_tool_choice(asked: Any, choice: Any, sent: str | None, count: int) -> None:
    other = {"type": "function", "function": {"name": "other", "strict": True}}
    (request,), _, _ = await asked({"messages": HI, "tools": [TOOL, other], "tool_choice": choice}, answer())
    assert request.json.get("tool_choice") == sent
    assert len(request.json["tools"]) == count
    assert request.json.get("strict_tools", False) is (count == 2)


async def test_tools_results_and_pictures_go_round(asked: Any) -> None:
    picture = "data:image/png;base64,iVBORw0KGgo="
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    history = [
        {"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": picture, "detail": "low"}},
        ]},
        {"role": "assistant", "content": "well", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]  # fmt: skip
    (request,), _, _ = await asked({"messages": history, "tools": [TOOL]}, answer())
    assert request.json["messages"] == [
        {"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": picture, "detail": "low"}},
        ]},
        {"role": "assistant", "content": "well", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({"messages": HI, "frequency_penalty": -1}, "frequency_penalty"),
        ({"messages": HI, "stop": list("abcdef")}, "stop"),
        ({"messages": HI, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"messages": HI, "tool_choice": "any"}, "tool_choice"),
        ({"messages": HI, "tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"messages": HI, "response_format": {"type": "grammar"}}, "response_format.type"),
        ({"messages": HI, "response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"messages": HI, "reasoning_effort": "absurd"}, "reasoning_effort"),
        ({"messages": [{"role": "system", "content": "alone"}]}, "messages"),
    ],
)
async def test_what_cohere_cannot_do_is_refused_by_name_for_another_to_try(
    asked: Any, payload: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked(payload, answer())
    assert (caught.value.param, caught.value.retry) == (param, Retry.NEXT)


async def test_a_whole_answer_with_thoughts_plan_calls_and_citations(asked: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    content = [{"type": "thinking", "thinking": "hm "}, {"type": "text", "text": "Hello"}]
    reply = answer(content=content, tool_plan="I add.", tool_calls=[call], citations=[{"start": 0}])
    _, completion, one = await asked({"messages": HI}, reply | {"finish_reason": "TOOL_CALL"})
    (choice,) = completion.data["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": "Hello", "reasoning_content": "hm I add.", "tool_calls": [call],
    }  # fmt: skip
    assert choice["finish_reason"] == "tool_calls"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (9, 2)
    assert one.dropped == ["citations"]


def event(kind: str, message: dict[str, Any] | None = None, **delta: Any) -> dict[str, Any]:
    return {"type": kind, "delta": ({"message": message} if message is not None else {}) | delta}


STREAM = [
    event("message-start", {"role": "assistant"}),
    event("tool-plan-delta", {"tool_plan": "I add."}),
    event("content-start", {"content": {"type": "text", "text": ""}}),
    event("content-delta", {"content": {"text": "Hé"}}),
    event("content-delta", {"content": {"text": "llo"}}),
    {"type": "content-end", "index": 0},
    event("citation-start", {"citations": {"start": 0}}),
    event(
        "tool-call-start",
        {"tool_calls": {"id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}},
    ),
    event("tool-call-delta", {"tool_calls": {"function": {"arguments": '{"a"'}}}),
    event("tool-call-delta", {"tool_calls": {"function": {"arguments": ":1}"}}}),
    {"type": "tool-call-end", "index": 0},
    event("message-end", finish_reason="TOOL_CALL", usage=USAGE),
]


def called(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "add", "arguments": "{}"}}


async def test_who_asks_for_one_call_at_a_time_gets_the_first(asked: Any) -> None:
    reply = answer(tool_calls=[called("c1"), called("c2")])
    _, completion, one = await asked({"messages": HI, "tools": [TOOL], "parallel_tool_calls": False}, reply)
    (choice,) = completion.data["choices"]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["c1"]
    assert one.dropped == ["answer.tool_calls"]


async def test_who_asks_for_one_call_at_a_time_is_streamed_the_first(streamed: Any, events: Any) -> None:
    more = [
        event("tool-call-start", {"tool_calls": called("c2")}),
        event("tool-call-delta", {"tool_calls": {"function": {"arguments": "more"}}}),
        {"type": "tool-call-end", "index": 1},
    ]
    chunks, one = await streamed([events(*STREAM[:-1], *more, STREAM[-1])], parallel_tool_calls=False)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.data["choices"]]
    calls = [(call["index"], call["function"]["arguments"]) for told in deltas for call in told.get("tool_calls", ())]
    assert calls == [(0, ""), (0, '{"a"'), (0, ":1}")]
    assert one.dropped == ["citations", "answer.tool_calls"]


async def test_a_stream_is_the_same_wherever_it_is_cut(streamed: Any, events: Any) -> None:
    for pieces in splits(events(*STREAM)):
        chunks, one = await streamed(pieces)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.data["choices"]]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "I add."
        assert "".join(delta.get("content", "") for delta in deltas) == "Héllo"
        fragments = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
        assert "".join(fragments) == '{"a":1}'
        assert [chunk.data["choices"][0]["finish_reason"] for chunk in chunks if chunk.finished] == ["tool_calls"]
        assert chunks[-1].usage.total_tokens == 11
        assert one.dropped == ["citations"]


async def test_a_call_without_arguments_has_an_empty_object_of_them(asked: Any, streamed: Any, events: Any) -> None:
    """Cohere gives no text for them at all, or, in a whole answer, "null"."""

    def begun(known: str, arguments: str) -> dict[str, Any]:
        call = {"id": known, "type": "function", "function": {"name": "now", "arguments": arguments}}
        return event("tool-call-start", {"tool_calls": call})

    over = {"type": "tool-call-end", "index": 0}
    given = event("tool-call-delta", {"tool_calls": {"function": {"arguments": '{"zone":"UTC"}'}}})
    end = event("message-end", finish_reason="TOOL_CALL", usage=USAGE)
    stream = events(
        STREAM[0], begun("c1", ""), over, begun("c2", ""), given, over, begun("c3", '{"zone":1}'), over, end
    )
    for pieces in splits(stream):
        chunks, _ = await streamed(pieces)
        found: dict[int, str] = {}
        for chunk in chunks:
            for choice in chunk.data["choices"]:
                for call in choice["delta"].get("tool_calls", ()):
                    found[call["index"]] = found.get(call["index"], "") + call["function"]["arguments"]
        assert found == {0: "{}", 1: '{"zone":"UTC"}', 2: '{"zone":1}'}
    for arguments in ("null", "", None):
        call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}}
        _, completion, _ = await asked({"messages": HI}, answer(content=[], tool_calls=[call]))
        (call,) = completion.data["choices"][0]["message"]["tool_calls"]
        assert call["function"]["arguments"] == "{}"


@pytest.mark.parametrize(("reason", "kind"), [("ERROR", UpstreamError), ("TIMEOUT", UpstreamTimeout)])
async def test_an_answer_that_ends_in_an_error_is_one(
    asked: Any, streamed: Any, events: Any, reason: str, kind: type[GatewayError]
) -> None:
    with pytest.raises(kind, match="broken"):
        await streamed([events(STREAM[0], event("message-end", finish_reason=reason, error="broken"))])
    with pytest.raises(kind, match=reason):
        await asked({"messages": HI}, answer() | {"finish_reason": reason})


@pytest.mark.parametrize(
    "body",
    [
        b"data: <html>\n\n",
        b"data: [1]\n\n",
        b'data: {"type":"content-delta","delta":{}}\n\n',
        b'data: {"type":"content-delta","delta":{"message":{"content":{"text":7}}}}\n\n',
        b'data: {"type":"tool-call-start","delta":{"message":{"tool_calls":{}}}}\n\n',
        b'data: {"type":"tool-call-delta","delta":{"message":{"tool_calls":{"function":{"arguments":"x"}}}}}\n\n',
        b'data: {"type":"message-end","delta":{}}\n\n',
        b'data: {"message":"internal error"}\n\n',
    ],
)
async def test_garbage_is_the_vendor_s_failure(streamed: Any, body: bytes) -> None:
    with pytest.raises(UpstreamError, match="cohere"):
        await streamed([body])


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "upstream_credential_rejected"), (498, "upstream_credential_rejected"), (404, "upstream_model_not_found")],
)
async def test_errors_keep_their_meaning_and_no_secret(status: int, code: str) -> None:
    secret = "co-secret-" + "k" * 20
    egress = ReplayEgress(Replay(json.dumps({"message": f"no: {secret}"}).encode(), status=status))
    with pytest.raises(UpstreamError) as caught:
        await Cohere(egress, "https://a").complete(attempt({"messages": HI}, api_key=SecretStr(secret)))
    assert caught.value.code == code
    assert secret not in caught.value.message


async def test_text_completions(asked: Any, streamed: Any, events: Any) -> None:
    (request,), completion, _ = await asked({"prompt": "Once"}, answer(), operation="completions")
    assert request.json["messages"] == [{"role": "user", "content": "Once"}]
    assert completion.data["choices"][0]["text"] == "Hello"
    chunks, _ = await streamed([events(*STREAM)], "completions")
    assert chunks[0].data["object"] == "text_completion"


async def test_wrong_options_are_told() -> None:
    one = attempt({"messages": HI}, options={"safety_mode": "MAYBE"})
    vendor = Cohere(ReplayEgress(), "https://a")
    assert "safety_mode" in "".join(vendor.check(one.target))
    with pytest.raises(GatewayError, match="safety_mode"):
        await vendor.complete(one)


def test_every_mapped_parameter_is_read_somewhere() -> None:
    folder = Path(gatehook_cohere.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "parameters.py")
    told = {"model", "messages", "stream", "stream_options", "prompt"}
    for table in PARAMETERS.values():
        names = {name for name, rule in table.items() if rule.disposition == "mapped"} - told
        assert {name for name in names if f'"{name}"' not in text} == set()


async def test_a_tool_without_a_function_is_the_client_s_fault(asked: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked({"messages": HI, "tools": [{"type": "function"}]}, answer())
    assert caught.value.param == "tools[0].function"


async def test_instructions_in_the_middle_stay_there(asked: Any) -> None:
    said = [("system", "first"), ("user", "a"), ("assistant", "b"), ("system", "now"), ("user", "c")]
    history = [{"role": role, "content": words} for role, words in said]
    (request,), _, one = await asked({"messages": history}, answer())
    assert request.json["messages"] == history
    assert one.dropped == []
