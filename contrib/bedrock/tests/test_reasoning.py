"""How much a model shall think, how it samples, and how long its answer may be."""

from typing import Any

import pytest

from gatehook import InvalidRequest, Retry

HI = [{"role": "user", "content": "hi"}]
ANSWER = {"output": {"message": {"content": [{"text": "a"}]}}, "stopReason": "end_turn"}


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
        {"messages": HI, "reasoning_effort": "low", **extra}, ANSWER, model=model, options=options
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
    (request,), _, one = await asked({"messages": HI, **given}, ANSWER, max_tokens=8192)
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
    (request,), _, one = await asked(asking, ANSWER, max_tokens=cap)
    assert request.json["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 8192
    assert request.json["inferenceConfig"] == {"maxTokens": limit}
    assert one.dropped == dropped


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("minimal", 1024), ("low", 2048), ("medium", 8192), ("high", 16384), ("xhigh", 32768), ("max", 32768)],
)
async def test_budgets(asked: Any, effort: str, budget: int) -> None:
    (request,), _, _ = await asked({"messages": HI, "reasoning_effort": effort}, ANSWER)
    assert request.json["additionalModelRequestFields"]["thinking"]["budget_tokens"] == budget


@pytest.mark.parametrize("given", [{}, {"max_tokens": 500}, {"max_tokens": 8192}])
async def test_a_budget_that_a_model_has_no_room_for_is_refused(asked: Any, given: Any) -> None:
    with pytest.raises(InvalidRequest, match="no room for an answer within this model's 8192") as caught:
        await asked({"messages": HI, "reasoning_effort": "medium", **given}, ANSWER, max_tokens=8192)
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
    (request,), _, _ = await asked({"messages": HI, "reasoning_effort": effort}, ANSWER, model=model)
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
    (request,), _, _ = await asked(asking, ANSWER, model="amazon.nova-2-lite-v1:0")
    assert request.json["additionalModelRequestFields"] == {"reasoningConfig": sent}


@pytest.mark.parametrize("effort", ["high", "xhigh"])
async def test_nova_s_high_effort_goes_without_sampling_and_a_limit(asked: Any, effort: str) -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "max_completion_tokens": 900}
    asking = {"messages": HI, "reasoning_effort": effort, "stop": "END", **given}
    (request,), _, one = await asked(asking, ANSWER, model="us.amazon.nova-2-lite-v1:0", max_tokens=65535)
    assert request.json["inferenceConfig"] == {"stopSequences": ["END"]}
    assert list(request.json["additionalModelRequestFields"]) == ["reasoningConfig"]
    assert sorted(one.dropped) == sorted(given)
    (request,), _, one = await asked(
        asking | {"reasoning_effort": "medium"}, ANSWER, model="us.amazon.nova-2-lite-v1:0"
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
    (request,), _, one = await asked({"messages": HI, "reasoning_effort": effort}, ANSWER, model=model)
    assert request.json.get("additionalModelRequestFields") == sent
    assert one.dropped == dropped


@pytest.mark.parametrize(
    "model",
    ["us.anthropic.claude-opus-4-7", "anthropic.claude-sonnet-5", "us.openai.gpt-5.6-sol", "global.xai.grok-4.6"],
)
async def test_later_models_have_fixed_sampling(asked: Any, model: str) -> None:
    given = {"messages": HI, "temperature": 0.5, "top_p": 0.9, "top_k": 3}
    (request,), _, one = await asked(given, ANSWER, model=model)
    assert "inferenceConfig" not in request.json
    assert "additionalModelRequestFields" not in request.json
    assert sorted(one.dropped) == ["temperature", "top_k", "top_p"]
    _, _, one = await asked({"messages": HI, "temperature": 1, "top_p": 1.0}, ANSWER, model=model)
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
    (request,), _, one = await asked({"messages": HI, "top_k": 3, **given}, ANSWER, model=model)
    assert request.json["inferenceConfig"] == sent
    assert request.json["additionalModelRequestFields"] == {"top_k": 3}
    assert one.dropped == dropped


@pytest.mark.parametrize("model", ["anthropic.claude-opus-4-20250514-v1:0", "my-profile", "us.amazon.nova-pro-v1:0"])
async def test_other_models_get_temperature_and_top_p_together(asked: Any, model: str) -> None:
    (request,), _, one = await asked({"messages": HI, "temperature": 0.3, "top_p": 0.9}, ANSWER, model=model)
    assert request.json["inferenceConfig"] == {"temperature": 0.3, "topP": 0.9}
    assert one.dropped == []


@pytest.mark.parametrize(
    ("given", "sent", "dropped"), [(1, 0.99, ["top_p"]), (0, 0.01, ["top_p"]), (0.99, 0.99, []), (0.5, 0.5, [])]
)
async def test_cohere_s_models_get_the_nearest_top_p_that_they_take(
    asked: Any, given: float, sent: float, dropped: list[str]
) -> None:
    (request,), _, one = await asked({"messages": HI, "top_p": given}, ANSWER, model="cohere.command-r-plus-v1:0")
    assert request.json["inferenceConfig"] == {"topP": sent}
    assert one.dropped == dropped


async def test_effort_as_bedrock_s_own_field(asked: Any) -> None:
    (request,), _, _ = await asked(
        {"messages": HI, "reasoning_effort": "high"}, ANSWER, options={"reasoning": "effort"}
    )
    assert request.json["outputConfig"] == {"effort": "high"}


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("us.anthropic.claude-sonnet-4-5", True),
        ("us.openai.gpt-6-luna", True),
        ("my-profile", True),
        ("moonshotai.kimi-k2.5", False),
        ("us.amazon.nova-2-lite-v1:0", False),
    ],
)
async def test_reasoning_goes_back_to_models_that_take_it(asked: Any, model: str, kept: bool) -> None:
    thoughts = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "eHg="}]
    for content, left in (("Well.", [{"text": "Well."}]), (None, [] if kept else [{"text": "(nothing)"}])):
        history = [*HI, {"role": "assistant", "content": content, "thinking_blocks": thoughts}, *HI]
        (request,), _, one = await asked({"messages": history}, ANSWER, model=model)
        sent = request.json["messages"][1]["content"]
        assert ["reasoningContent" in block for block in sent] == ([True, True] if kept else []) + [False] * len(left)
        assert [block for block in sent if "text" in block] == left
        assert one.dropped == ([] if kept else ["thinking_blocks"])
