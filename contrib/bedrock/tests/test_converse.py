"""Chats by Converse: what is sent, and what comes back whole."""

from pathlib import Path
from typing import Any

import pytest

import gatehook_bedrock
from gatehook import Fetched, InvalidRequest, Retry, UpstreamError
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_bedrock.parameters import PARAMETERS
from gatehook_bedrock.signing import Signer
from gatehook_bedrock.vendor import Bedrock

HI = [{"role": "user", "content": "hi"}]
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}


def answer(*content: Any, reason: str = "end_turn") -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": list(content) or [{"text": "Hello"}]}},
        "stopReason": reason,
        "usage": {"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokens": 10, "cacheWriteInputTokens": 5},
    }


async def test_parameters_get_bedrock_s_names(asked: Any) -> None:
    (request,), completion, one = await asked(
        {
            "messages": [{"role": "system", "content": "Be brief."}, *HI],
            "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": "END", "max_tokens": 9, "metadata": {"a": "b"},
            "service_tier": "flex",
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        },
        answer(),
        options={"guardrail": {"guardrailIdentifier": "g", "guardrailVersion": "1"}, "latency": "optimized"},
    )  # fmt: skip
    assert request.path.endswith("eu-central-1.amazonaws.com/model/anthropic.claude-x-v1%3A0/converse")
    assert request.json == {
        "inferenceConfig": {"temperature": 0.5, "topP": 0.9, "maxTokens": 9, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"top_k": 3},
        "outputConfig": {
            "textFormat": {
                "type": "json_schema",
                "structure": {"jsonSchema": {"schema": '{"type":"object"}', "name": "x"}},
            }
        },
        "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
        "requestMetadata": {"a": "b"},
        "performanceConfig": {"latency": "optimized"},
        "serviceTier": {"type": "flex"},
        "system": [{"text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
    }
    assert completion.data["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
    assert completion.usage.as_openai()["prompt_tokens"] == 18
    assert (completion.usage.cached_tokens, completion.usage.cache_write_tokens) == (10, 5)
    assert one.dropped == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"a": "b c/d", "e": ""}, {"a": "b c/d", "e": ""}),
        ({"a": "é", "b": "c", "d": "x" * 257}, {"b": "c"}),
        ({"a": "{}", "b?": "c"}, None),
        ({str(number): "x" for number in range(17)}, {str(number): "x" for number in range(16)}),
    ],
)
async def test_labels_are_those_that_bedrock_takes(asked: Any, given: Any, kept: Any) -> None:
    (request,), _, one = await asked({"messages": HI, "metadata": given}, answer())
    assert request.json.get("requestMetadata") == kept
    assert one.dropped == ([] if kept == given else ["metadata"])


async def test_tools_results_marks_and_thoughts_go_round(asked: Any) -> None:
    long = "c|1" * 40
    call = {"id": long, "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    history = [
        {"role": "user", "content": [
            {"type": "text", "text": "add", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [call], "thinking_blocks": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"}, {"type": "redacted_thinking", "data": "eHg="},
        ]},
        {"role": "tool", "tool_call_id": long, "content": "2"},
    ]  # fmt: skip
    tool = TOOL | {"cache_control": {"type": "ephemeral"}}
    (request,), _, _ = await asked({"messages": history, "tools": [tool], "tool_choice": "required"}, answer())
    assert request.json["toolConfig"] == {
        "tools": [
            {"toolSpec": {"name": "add", "description": "adds", "inputSchema": {"json": {"type": "object"}}}},
            {"cachePoint": {"type": "default"}},
        ],
        "toolChoice": {"any": {}},
    }
    user, assistant, result = (message["content"] for message in request.json["messages"])
    assert user == [{"text": "add"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    assert assistant[:2] == [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "eHg="}},
    ]
    use, given = assistant[2]["toolUse"], result[0]["toolResult"]
    assert (use["name"], use["input"]) == ("add", {"a": 1})
    assert use["toolUseId"] == given["toolUseId"]
    assert len(use["toolUseId"]) <= 64
    assert given["content"] == [{"text": "2"}]
    (request,), _, _ = await asked({"messages": history}, answer())
    assert request.json["toolConfig"]["tools"][0]["toolSpec"]["name"] == "add", "Bedrock wants to know it still"


@pytest.mark.parametrize(
    ("model", "given", "kept"),
    [
        ("moonshot.kimi-k2-thinking", "functions.add:0", True),
        ("moonshot.kimi-k2-thinking", "functions.add 0", False),
        ("moonshot.kimi-k2-thinking", "x" * 65, False),
        ("us.anthropic.claude-sonnet-4-5", "functions.add:0", False),
        ("us.anthropic.claude-sonnet-4-5", "tooluse_a-B1", True),
    ],
)
async def test_ids_of_calls_go_back_as_the_model_wrote_them(asked: Any, model: str, given: str, kept: bool) -> None:
    """Kimi learns from them which call it made; Claude takes fewer letters than Bedrock itself."""
    call = {"id": given, "type": "function", "function": {"name": "add", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": given, "content": "2"}
    history = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, result]
    (request,), _, _ = await asked({"messages": history, "tools": [TOOL]}, answer(), model=model)
    _, use, back = (message["content"][0] for message in request.json["messages"])
    assert use["toolUse"]["toolUseId"] == back["toolResult"]["toolUseId"]
    assert (use["toolUse"]["toolUseId"] == given) is kept


@pytest.mark.parametrize("blank", ["", "\n", "  "])
async def test_results_hold_no_blank_text(asked: Any, blank: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    marked = {"type": "text", "text": blank, "cache_control": {"type": "ephemeral"}}
    for given, sent in (
        (blank, ["(nothing)"]),
        ([{"type": "text", "text": "2\n"}, {"type": "text", "text": blank}], ["2\n"]),
        ([{"type": "text", "text": "2"}, marked], ["2"]),
    ):
        result = {"role": "tool", "tool_call_id": "c1", "content": given}
        history = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, result]
        (request,), _, _ = await asked({"messages": history, "tools": [TOOL]}, answer())
        block, *_ = request.json["messages"][-1]["content"]
        assert block["toolResult"]["content"] == [{"text": text} for text in sent]


@pytest.mark.parametrize(
    ("content", "claude_s", "other_s"),
    [
        ("Answer: ", [{"text": "Answer:"}], [{"text": "Answer: "}]),
        ([{"type": "text", "text": "A\n"}, {"type": "text", "text": " "}], [{"text": "A"}], [{"text": "A\n"}]),
        ([{"type": "text", "text": "A ", "cache_control": {"type": "ephemeral"}}],
         [{"text": "A"}, {"cachePoint": {"type": "default"}}], [{"text": "A "}]),
        (" ", [{"text": "hi"}], [{"text": " "}]),
    ],
)  # fmt: skip
async def test_an_answer_that_claude_is_to_continue_ends_in_no_white_space(
    asked: Any, content: Any, claude_s: Any, other_s: Any
) -> None:
    history = [{"role": "assistant", "content": "Hm. "}, *HI, {"role": "assistant", "content": content}]
    for model, sent in (("us.anthropic.claude-sonnet-4-5", claude_s), ("qwen.qwen3-32b-v1:0", other_s)):
        (request,), _, _ = await asked({"messages": history}, answer(), model=model)
        assert request.json["messages"][0]["content"] == [{"text": "Hm. "}], "only the last is to be continued"
        assert request.json["messages"][-1]["content"] == sent


@pytest.mark.parametrize(
    ("mime", "kind", "form"),
    [
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "document", "docx"),
        ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "document", "xlsx"),
        ("application/msword", "document", "doc"),
        ("application/vnd.ms-excel", "document", "xls"),
        ("video/mp4", "video", "mp4"),
        ("video/quicktime", "video", "mov"),
        ("video/3gpp", "video", "three_gp"),
    ],
)
async def test_office_s_documents_and_films_are_files(asked: Any, mime: str, kind: str, form: str) -> None:
    part = {"type": "file", "file": {"file_data": f"data:{mime};base64,AAAA", "filename": "a"}}
    (request,), _, _ = await asked({"messages": [{"role": "user", "content": [part]}]}, answer())
    *_, block = request.json["messages"][0]["content"]
    name = {"name": "a 1"} if kind == "document" else {}
    assert block == {kind: {"format": form, "source": {"bytes": "AAAA"}} | name}


@pytest.mark.parametrize("words", [[], ["  "], ["Sum it up."]])
async def test_a_document_has_words_beside_it(asked: Any, words: list[str]) -> None:
    part = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a"}}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    history = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]
    history.append({"role": "tool", "tool_call_id": "c1", "content": "2"})
    history.append({"role": "user", "content": [*({"type": "text", "text": text} for text in words), part]})
    (request,), _, _ = await asked({"messages": history, "tools": [TOOL]}, answer())
    result, text, document = request.json["messages"][-1]["content"]
    assert (list(result), list(document)) == (["toolResult"], ["document"])
    assert text == {"text": "Sum it up." if words == ["Sum it up."] else "(document)"}


async def test_pictures_and_documents() -> None:
    url = "https://pictures.example/a.png"
    egress = ReplayEgress(
        Replay(b'{"output":{"message":{"content":[{"text":"a"}]}},"stopReason":"end_turn"}'),
        fetched={url: Fetched(PNG, "")},
    )
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a_b?.pdf"}},
    ]
    await Bedrock(egress, Signer()).complete(attempt({"messages": [{"role": "user", "content": content}]}))
    image, _, document = egress.requests[0].json["messages"][0]["content"]
    assert image["image"]["format"] == "png"
    assert document == {"document": {"format": "pdf", "name": "a b pdf 1", "source": {"bytes": "JVBERi0="}}}


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({"messages": [{"role": "assistant", "content": "first"}]}, "messages"),
        ({"messages": HI, "response_format": {"type": "json_object"}}, "response_format.type"),
        ({"messages": HI, "response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"messages": HI, "reasoning_effort": "absurd"}, "reasoning_effort"),
        ({"messages": HI, "service_tier": "gold"}, "service_tier"),
        ({"messages": HI, "temperature": 1.1}, "temperature"),
        ({"messages": HI, "tools": [TOOL], "tool_choice": "required", "reasoning_effort": "low"}, "tool_choice"),
        ({"messages": HI, "tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"messages": HI, "tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
         "messages[0].content[0].file"),
    ],
)  # fmt: skip
async def test_what_bedrock_cannot_do_is_refused_by_name_for_another_to_try(
    asked: Any, payload: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked(payload, answer())
    assert (caught.value.param, caught.value.retry) == (param, Retry.NEXT)


@pytest.mark.parametrize(
    "model", ["us.anthropic.claude-sonnet-4-5", "qwen.qwen3-32b-v1:0", "zai.glm-4.7", "moonshotai.kimi-k2.5"]
)
async def test_a_conversation_may_begin_with_a_greeting_where_the_model_lets_it(asked: Any, model: str) -> None:
    history = [{"role": "assistant", "content": "What can I do?"}, *HI]
    (request,), _, _ = await asked({"messages": history}, answer(), model=model)
    assert [message["role"] for message in request.json["messages"]] == ["assistant", "user"]
    with pytest.raises(InvalidRequest, match="begins with a user message"):
        await asked({"messages": history}, answer(), model="amazon.nova-pro-v1:0")
    with pytest.raises(InvalidRequest, match="needs a user message"):
        await asked({"messages": history[:1]}, answer(), model=model)


async def test_a_whole_answer_with_reasoning_and_calls(asked: Any) -> None:
    _, completion, one = await asked(
        {"messages": HI},
        answer(
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
            {"reasoningContent": {"redactedContent": "eHg="}},
            {"text": "Well."},
            {"toolUse": {"toolUseId": "t1", "name": "add", "input": {"a": 1}}},
            {"video": {}},
            reason="tool_use",
        ),
    )
    (choice,) = completion.data["choices"]
    message = choice["message"]
    assert message["content"] == "Well."
    assert message["reasoning_content"] == "hm"
    assert message["thinking_blocks"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "eHg="},
    ]
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a":1}'}
    assert choice["finish_reason"] == "tool_calls"
    assert one.dropped == ["content.video"]


@pytest.mark.parametrize(
    ("details", "hour"),
    [
        ([{"ttl": "1h", "inputTokens": 3}, {"ttl": "5m", "inputTokens": 2}], 3),
        ([{"ttl": "1h", "inputTokens": 1}, {"ttl": "1h", "inputTokens": 2}], 3),
        ([{"ttl": "1h", "inputTokens": 99}], 5),
        ([{"ttl": "1h", "inputTokens": "3"}, {"ttl": "1h"}, None], 0),
        ({"ttl": "1h", "inputTokens": 3}, 0),
        (None, 0),
    ],
)
async def test_what_is_written_to_the_cache_for_an_hour_is_counted_apart(asked: Any, details: Any, hour: int) -> None:
    reply = answer()
    _, completion, _ = await asked({"messages": HI}, reply | {"usage": reply["usage"] | {"cacheDetails": details}})
    assert (completion.usage.cache_write_tokens, completion.usage.cache_write_1h_tokens) == (5, hour)


async def test_what_a_tool_of_bedrock_s_own_did_is_no_call_for_the_client(asked: Any) -> None:
    used = {"toolUseId": "t1", "name": "nova_grounding", "input": {"query": "x"}, "type": "server_tool_use"}
    found = {"toolResult": {"toolUseId": "t1", "content": [{"text": "y"}], "type": "nova_grounding_result"}}
    _, completion, one = await asked({"messages": HI}, answer({"toolUse": used}, found, {"text": "It is y."}))
    (choice,) = completion.data["choices"]
    assert choice["message"] == {"role": "assistant", "content": "It is y."}
    assert choice["finish_reason"] == "stop"
    assert one.dropped == ["content.toolUse", "content.toolResult"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [("max_tokens", "length"), ("guardrail_intervened", "content_filter"), ("stop_sequence", "stop"), ("new", "stop")],
)
async def test_reasons(asked: Any, reason: str, told: str) -> None:
    _, completion, one = await asked({"messages": HI}, answer(reason=reason))
    assert completion.data["choices"][0]["finish_reason"] == told
    assert bool(one.dropped) is (reason == "new")


async def test_who_asks_for_one_call_at_a_time_gets_the_first(asked: Any) -> None:
    calls: list[dict[str, Any]] = [{"toolUse": {"toolUseId": name, "name": name, "input": {}}} for name in ("t1", "t2")]
    payload = {"messages": HI, "tools": [TOOL], "parallel_tool_calls": False}
    _, completion, one = await asked(payload, answer(*calls, reason="tool_use"))
    (choice,) = completion.data["choices"]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["t1"]
    assert one.dropped == ["answer.tool_calls"]


@pytest.mark.parametrize(
    "reply", [{}, {"output": {"message": {}}}, answer(reason="malformed_tool_use"), answer() | {"stopReason": None}, []]
)
async def test_what_is_no_answer_is_the_vendor_s_failure(asked: Any, reply: Any) -> None:
    with pytest.raises(UpstreamError, match="bedrock"):
        await asked({"messages": HI}, reply)


def test_every_mapped_parameter_is_read_somewhere() -> None:
    folder = Path(gatehook_bedrock.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "parameters.py")
    told = {"model", "messages", "stream", "stream_options", "prompt"}
    for table in PARAMETERS.values():
        names = {name for name, rule in table.items() if rule.disposition == "mapped"} - told
        assert {name for name in names if f'"{name}"' not in text} == set()
