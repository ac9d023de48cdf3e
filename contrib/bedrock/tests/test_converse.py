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
    ("model", "options", "extra", "sent", "dropped"),
    [
        ("anthropic.x", {}, {"max_tokens": 5000}, {"thinking": {"type": "enabled", "budget_tokens": 2048}}, []),
        ("anthropic.x", {}, {"max_tokens": 500},
         {"thinking": {"type": "enabled", "budget_tokens": 2048}}, ["max_tokens"]),
        ("anthropic.x", {}, {"max_tokens": 9000, "temperature": 0, "top_k": 2},
         {"thinking": {"type": "enabled", "budget_tokens": 2048}}, ["temperature", "top_k"]),
        ("anthropic.x", {}, {"max_tokens": 9000, "top_p": 0.94},
         {"thinking": {"type": "enabled", "budget_tokens": 2048}}, ["top_p"]),
        ("us.anthropic.claude-sonnet-4-6", {}, {"top_p": 0.95},
         {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, []),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", {}, {"max_tokens": 5000},
         {"thinking": {"type": "enabled", "budget_tokens": 2048}}, []),
        ("us.anthropic.claude-sonnet-4-6", {}, {"max_tokens": 500},
         {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, []),
        ("anthropic.claude-opus-4-8-v1", {}, {},
         {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}}, []),
        ("arn:aws:bedrock:x:1:inference-profile/us.anthropic.claude-opus-5", {}, {"temperature": 0.5, "top_k": 2},
         {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}},
         ["temperature", "top_k"]),
        ("my-profile", {"reasoning": "adaptive"}, {},
         {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, []),
        ("us.amazon.nova-2-lite-v1:0", {}, {},
         {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}, []),
        ("us.amazon.nova-2-lite-v1:0", {}, {"top_k": 5},
         {"inferenceConfig": {"topK": 5}, "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}, []),
        ("us.amazon.nova-pro-v1:0", {}, {}, None, ["reasoning_effort"]),
        ("openai.gpt-oss-120b", {}, {}, {"reasoning_effort": "low"}, []),
        ("us.openai.gpt-5.6-sol", {}, {"temperature": 0.5, "top_p": 1}, {"reasoning": {"effort": "low"}},
         ["temperature"]),
        ("my-profile", {"reasoning": "openai", "extra": {"reasoning": {"summary": "auto"}}}, {},
         {"reasoning": {"summary": "auto", "effort": "low"}}, []),
        ("meta.llama", {}, {}, None, ["reasoning_effort"]),
        ("meta.llama", {"reasoning": "field"}, {}, {"reasoning_effort": "low"}, []),
    ],
)  # fmt: skip
async def test_effort_is_told_as_the_model_understands_it(
    asked: Any, model: str, options: Any, extra: Any, sent: Any, dropped: list[str]
) -> None:
    (request,), _, one = await asked(
        {"messages": HI, "reasoning_effort": "low", **extra}, answer(), model=model, options=options
    )
    assert request.json.get("additionalModelRequestFields") == sent
    assert one.dropped == dropped


@pytest.mark.parametrize(
    ("given", "sent", "dropped"),
    [
        ({"max_tokens": 9000}, 8192, ["max_tokens"]),
        ({"max_completion_tokens": 9000, "max_tokens": 1}, 8192, ["max_completion_tokens"]),
        ({"max_tokens": 8192}, 8192, []),
        ({}, 8192, []),
    ],
)
async def test_the_limit_of_an_answer_is_no_more_than_the_model_can_give(
    asked: Any, given: Any, sent: int, dropped: list[str]
) -> None:
    (request,), _, one = await asked({"messages": HI, **given}, answer(), max_tokens=8192)
    assert request.json["inferenceConfig"] == {"maxTokens": sent}
    assert one.dropped == dropped


@pytest.mark.parametrize(
    ("given", "cap", "limit", "dropped"),
    [
        ({"max_tokens": 90000}, 64000, 64000, ["max_tokens"]),
        ({"max_completion_tokens": 4096, "max_tokens": 1}, None, 12288, ["max_completion_tokens"]),
        ({"max_tokens": 8192}, 64000, 16384, ["max_tokens"]),
        ({"max_tokens": 4096}, 10000, 10000, ["max_tokens"]),
        ({"max_tokens": 8193}, 10000, 8193, []),
        ({}, 10000, 10000, []),
        ({}, None, 12288, []),
    ],
)
async def test_the_limit_of_an_answer_is_raised_by_a_budget_that_it_does_not_hold(
    asked: Any, given: Any, cap: int | None, limit: int, dropped: list[str]
) -> None:
    asking = {"messages": HI, "reasoning_effort": "medium", **given}
    (request,), _, one = await asked(asking, answer(), max_tokens=cap)
    assert request.json["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 8192
    assert request.json["inferenceConfig"] == {"maxTokens": limit}
    assert one.dropped == dropped


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("minimal", 1024), ("low", 2048), ("medium", 8192), ("high", 16384), ("xhigh", 32768), ("max", 32768)],
)
async def test_budgets(asked: Any, effort: str, budget: int) -> None:
    (request,), _, _ = await asked({"messages": HI, "reasoning_effort": effort}, answer())
    assert request.json["additionalModelRequestFields"]["thinking"]["budget_tokens"] == budget


@pytest.mark.parametrize("given", [{}, {"max_tokens": 500}, {"max_tokens": 8192}])
async def test_a_budget_that_a_model_has_no_room_for_is_refused(asked: Any, given: Any) -> None:
    with pytest.raises(InvalidRequest, match="no room for an answer within this model's 8192") as caught:
        await asked({"messages": HI, "reasoning_effort": "medium", **given}, answer(), max_tokens=8192)
    assert (caught.value.param, caught.value.retry) == ("reasoning_effort", Retry.NEXT)


@pytest.mark.parametrize(
    ("model", "effort", "sent"),
    [
        ("anthropic.claude-sonnet-4-6", "none", None),
        ("anthropic.claude-sonnet-4-6", "minimal", "low"),
        ("anthropic.claude-sonnet-4-6", "xhigh", "max"),
        ("anthropic.claude-sonnet-5", "none", None),
        ("anthropic.claude-sonnet-5", "xhigh", "xhigh"),
        ("anthropic.claude-sonnet-5", "max", "max"),
    ],
)
async def test_claude_that_decides_how_much_it_thinks_has_efforts_of_its_own(
    asked: Any, model: str, effort: str, sent: str | None
) -> None:
    (request,), _, _ = await asked({"messages": HI, "reasoning_effort": effort}, answer(), model=model)
    fields = request.json["additionalModelRequestFields"]
    assert fields["thinking"]["type"] == ("adaptive" if sent else "disabled")
    assert fields.get("output_config", {}).get("effort") == sent


@pytest.mark.parametrize(
    ("effort", "sent"),
    [
        ("none", {"type": "disabled"}),
        ("minimal", {"type": "enabled", "maxReasoningEffort": "low"}),
        ("medium", {"type": "enabled", "maxReasoningEffort": "medium"}),
        ("xhigh", {"type": "enabled", "maxReasoningEffort": "high"}),
    ],
)
async def test_nova_has_three_efforts(asked: Any, effort: str, sent: dict[str, str]) -> None:
    asking = {"messages": HI, "reasoning_effort": effort}
    (request,), _, _ = await asked(asking, answer(), model="amazon.nova-2-lite-v1:0")
    assert request.json["additionalModelRequestFields"] == {"reasoningConfig": sent}


@pytest.mark.parametrize("effort", ["high", "xhigh"])
async def test_nova_s_high_effort_goes_without_sampling_and_a_limit(asked: Any, effort: str) -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "max_completion_tokens": 900}
    asking = {"messages": HI, "reasoning_effort": effort, "stop": "END", **given}
    (request,), _, one = await asked(asking, answer(), model="us.amazon.nova-2-lite-v1:0", max_tokens=65535)
    assert request.json["inferenceConfig"] == {"stopSequences": ["END"]}
    assert list(request.json["additionalModelRequestFields"]) == ["reasoningConfig"]
    assert sorted(one.dropped) == sorted(given)
    (request,), _, one = await asked(
        asking | {"reasoning_effort": "medium"}, answer(), model="us.amazon.nova-2-lite-v1:0"
    )
    assert request.json["inferenceConfig"]["maxTokens"] == 900
    assert one.dropped == []


@pytest.mark.parametrize(
    ("model", "effort", "sent", "dropped"),
    [
        ("openai.gpt-oss-120b-1:0", "none", None, ["reasoning_effort"]),
        ("openai.gpt-oss-120b-1:0", "minimal", {"reasoning_effort": "low"}, []),
        ("openai.gpt-oss-120b-1:0", "xhigh", {"reasoning_effort": "high"}, []),
        ("global.openai.gpt-6-luna", "none", {"reasoning": {"effort": "none"}}, []),
        ("global.openai.gpt-6-luna", "minimal", {"reasoning": {"effort": "low"}}, []),
        ("global.openai.gpt-6-luna", "max", {"reasoning": {"effort": "max"}}, []),
    ],
)
async def test_openai_s_models_have_efforts_of_their_own(
    asked: Any, model: str, effort: str, sent: Any, dropped: list[str]
) -> None:
    (request,), _, one = await asked({"messages": HI, "reasoning_effort": effort}, answer(), model=model)
    assert request.json.get("additionalModelRequestFields") == sent
    assert one.dropped == dropped


@pytest.mark.parametrize(
    "model",
    ["us.anthropic.claude-opus-4-7", "anthropic.claude-sonnet-5", "us.openai.gpt-5.6-sol", "global.xai.grok-4.6"],
)
async def test_later_models_have_fixed_sampling(asked: Any, model: str) -> None:
    given = {"messages": HI, "temperature": 0.5, "top_p": 0.9, "top_k": 3}
    (request,), _, one = await asked(given, answer(), model=model)
    assert "inferenceConfig" not in request.json
    assert "additionalModelRequestFields" not in request.json
    assert sorted(one.dropped) == ["temperature", "top_k", "top_p"]
    _, _, one = await asked({"messages": HI, "temperature": 1, "top_p": 1.0}, answer(), model=model)
    assert one.dropped == []


@pytest.mark.parametrize(
    "model", ["anthropic.claude-opus-4-1-20250805-v1:0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"]
)
@pytest.mark.parametrize(
    ("given", "sent", "dropped"),
    [
        ({"temperature": 0.3, "top_p": 0.9}, {"temperature": 0.3}, ["top_p"]),
        ({"temperature": 0, "top_p": 1}, {"temperature": 0}, []),
        ({"temperature": 1, "top_p": 0.9}, {"topP": 0.9}, []),
        ({"top_p": 0.9}, {"topP": 0.9}, []),
        ({"temperature": 0.3}, {"temperature": 0.3}, []),
    ],
)
async def test_claudes_that_take_temperature_or_top_p_get_one_of_them(
    asked: Any, model: str, given: Any, sent: Any, dropped: list[str]
) -> None:
    (request,), _, one = await asked({"messages": HI, "top_k": 3, **given}, answer(), model=model)
    assert request.json["inferenceConfig"] == sent
    assert request.json["additionalModelRequestFields"] == {"top_k": 3}
    assert one.dropped == dropped


@pytest.mark.parametrize("model", ["anthropic.claude-opus-4-20250514-v1:0", "my-profile", "us.amazon.nova-pro-v1:0"])
async def test_other_models_get_temperature_and_top_p_together(asked: Any, model: str) -> None:
    (request,), _, one = await asked({"messages": HI, "temperature": 0.3, "top_p": 0.9}, answer(), model=model)
    assert request.json["inferenceConfig"] == {"temperature": 0.3, "topP": 0.9}
    assert one.dropped == []


@pytest.mark.parametrize(
    ("given", "sent", "dropped"), [(1, 0.99, ["top_p"]), (0, 0.01, ["top_p"]), (0.99, 0.99, []), (0.5, 0.5, [])]
)
async def test_cohere_s_models_get_the_nearest_top_p_that_they_take(
    asked: Any, given: float, sent: float, dropped: list[str]
) -> None:
    (request,), _, one = await asked({"messages": HI, "top_p": given}, answer(), model="cohere.command-r-plus-v1:0")
    assert request.json["inferenceConfig"] == {"topP": sent}
    assert one.dropped == dropped


async def test_effort_as_bedrock_s_own_field(asked: Any) -> None:
    (request,), _, _ = await asked(
        {"messages": HI, "reasoning_effort": "high"}, answer(), options={"reasoning": "effort"}
    )
    assert request.json["outputConfig"] == {"effort": "high"}


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
    (block,) = request.json["messages"][0]["content"]
    name = {"name": "a 1"} if kind == "document" else {}
    assert block == {kind: {"format": form, "source": {"bytes": "AAAA"}} | name}


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
    image, document = egress.requests[0].json["messages"][0]["content"]
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


async def test_a_tool_without_a_function_is_the_client_s_fault(asked: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked({"messages": HI, "tools": [{"type": "function"}]}, answer())
    assert caught.value.param == "tools[0].function"
