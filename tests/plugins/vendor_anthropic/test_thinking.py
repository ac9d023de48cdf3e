from typing import Any

import pytest
from anthropic.types import ThinkingConfigParam
from pydantic import TypeAdapter

from gatehook import InvalidRequest, Retry
from gatehook_plugins.vendor_anthropic.thinking import BUDGETS

OLD, NEW = "claude-sonnet-4-5", "claude-opus-4-6"
TOOLS = [{"type": "function", "function": {"name": "look"}}]


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("minimal", 1024), ("low", 2048), ("medium", 8192), ("high", 16384), ("xhigh", 32768), ("max", 65536)],
)
async def test_effort_is_a_budget_for_models_that_think_within_one(ask: Any, effort: str, budget: int) -> None:
    run = await ask({"reasoning_effort": effort}, model=OLD)
    TypeAdapter(ThinkingConfigParam).validate_python(run.body["thinking"])
    assert run.body["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert run.body["max_tokens"] > budget
    assert "output_config" not in run.body


@pytest.mark.parametrize(
    ("effort", "sent"),
    [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "max"), ("max", "max")],
)
async def test_effort_stays_an_effort_for_models_that_decide_themselves(ask: Any, effort: str, sent: str) -> None:
    run = await ask({"reasoning_effort": effort, "max_tokens": 50}, model=NEW)
    assert run.body["thinking"] == {"type": "adaptive"}
    assert run.body["output_config"] == {"effort": sent}
    assert (run.body["max_tokens"], run.dropped) == (50, [])


@pytest.mark.parametrize("model", [OLD, NEW])
async def test_an_effort_in_anthropic_s_own_words_is_sent_as_it_is(ask: Any, model: str) -> None:
    for thinking in ({}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}):
        asked = {"output_config": {"effort": "xhigh"}, "reasoning_effort": "high", "max_tokens": 2000, **thinking}
        run = await ask(asked, model=model)
        assert run.body["output_config"] == {"effort": "xhigh"}
        assert ({name: run.body[name] for name in thinking}, run.dropped) == (thinking, [])
        assert ("thinking" in run.body) == bool(thinking)


async def test_the_rest_of_those_words_is_dropped(ask: Any) -> None:
    run = await ask({"output_config": {"format": {"type": "json_schema"}}})
    assert (run.body.get("output_config"), run.dropped) == (None, ["output_config.format"])
    with pytest.raises(InvalidRequest, match="output_config: expected an object"):
        await ask({"output_config": "high"})


@pytest.mark.parametrize("model", ["claude-opus-4-7", "claude-opus-5", "claude-sonnet-5", "claude-fable-5"])
async def test_later_models_are_asked_to_show_their_thinking_and_know_one_effort_more(ask: Any, model: str) -> None:
    run = await ask({"reasoning_effort": "xhigh"}, model=model)
    assert run.body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert run.body["output_config"] == {"effort": "xhigh"}
    own = {"type": "adaptive", "display": "omitted"}
    run = await ask({"reasoning_effort": "low", "thinking": own}, model=model)
    assert run.body["thinking"] == own


@pytest.mark.parametrize("model", [OLD, NEW])
async def test_no_effort_switches_thinking_off(ask: Any, model: str) -> None:
    run = await ask({"reasoning_effort": "none", "temperature": 0.5}, model=model)
    assert run.body["thinking"] == {"type": "disabled"}
    assert "output_config" not in run.body


@pytest.mark.parametrize("effort", ["huge", "", 5, True, ["low"]])
async def test_an_unknown_effort_is_refused_with_the_known_ones(ask: Any, effort: Any) -> None:
    with pytest.raises(InvalidRequest, match="none, minimal, low") as caught:
        await ask({"reasoning_effort": effort})
    assert caught.value.param == "reasoning_effort"


@pytest.mark.parametrize(
    ("model", "options", "kind"),
    [
        ("claude-3-7-sonnet-20250219", {}, "enabled"),
        ("claude-haiku-4-5-20251001", {}, "enabled"),
        ("claude-opus-4-20250514", {}, "enabled"),
        ("alias", {}, "enabled"),
        ("alias", {"thinking": "adaptive"}, "adaptive"),
        ("claude-sonnet-4-6", {}, "adaptive"),
        ("claude-opus-5", {}, "adaptive"),
        ("claude-fable-5-1", {}, "adaptive"),
        ("claude-opus-4-6", {"thinking": "budget"}, "enabled"),
    ],
)
async def test_the_way_of_thinking_is_read_off_the_model_unless_its_options_tell(
    ask: Any, model: str, options: Any, kind: str
) -> None:
    run = await ask({"reasoning_effort": "low"}, model=model, options=options)
    assert run.body["thinking"]["type"] == kind


@pytest.mark.parametrize(
    "thinking",
    [
        {"type": "enabled", "budget_tokens": 1024},
        {"type": "enabled", "budget_tokens": 0},
        {"type": "disabled"},
        {"type": "between_tools"},
        {"type": "adaptive", "display": "summarized"},
    ],
)
async def test_anthropics_own_parameter_goes_through_as_it_is(ask: Any, thinking: Any) -> None:
    run = await ask({"thinking": thinking})
    assert run.body["thinking"] == thinking
    assert run.dropped == []


async def test_thinking_and_effort_go_together_only_where_both_mean_something(ask: Any) -> None:
    both = {"thinking": {"type": "adaptive", "display": "summarized"}, "reasoning_effort": "high"}
    run = await ask(both, model=NEW)
    assert run.body["thinking"] == both["thinking"]
    assert run.body["output_config"] == {"effort": "high"}
    for payload, model in ((both, OLD), (both | {"reasoning_effort": "none"}, NEW)):
        with pytest.raises(InvalidRequest, match="together"):
            await ask(payload, model=model)


@pytest.mark.parametrize(
    "thinking", ["on", {}, {"type": 5}, {"type": "enabled"}, {"type": "enabled", "budget_tokens": "9"}]
)
async def test_a_malformed_thinking_is_refused(ask: Any, thinking: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^thinking"):
        await ask({"thinking": thinking})


@pytest.mark.parametrize(
    ("given", "cap", "sent", "dropped"),
    [
        ({}, None, 4096 + 8192, []),
        ({"max_tokens": 100}, None, 100 + 8192, ["max_tokens"]),
        ({"max_completion_tokens": 8192}, None, 2 * 8192, ["max_completion_tokens"]),
        ({"max_tokens": 9000}, None, 9000, []),
        ({"max_tokens": 1000}, 9000, 9000, ["max_tokens"]),
        ({}, 9000, 9000, []),
    ],
)
async def test_max_tokens_is_raised_above_the_budget_within_the_cap(
    ask: Any, given: Any, cap: Any, sent: int, dropped: Any
) -> None:
    run = await ask({"reasoning_effort": "medium", **given}, model=OLD, max_tokens=cap)
    assert run.body["thinking"]["budget_tokens"] == BUDGETS["medium"]
    assert (run.body["max_tokens"], run.dropped) == (sent, dropped)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"reasoning_effort": "medium"}, "reasoning_effort"),
        ({"thinking": {"type": "enabled", "budget_tokens": 8192}}, "thinking"),
    ],
)
async def test_a_budget_that_leaves_no_room_under_the_cap_is_refused_not_cut(ask: Any, asked: Any, param: str) -> None:
    with pytest.raises(InvalidRequest, match="no room") as caught:
        await ask(asked, model=OLD, max_tokens=8192)
    assert (caught.value.param, caught.value.retry) == (param, Retry.NEXT)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"top_k": 4}, "top_k"),
    ],
)
@pytest.mark.parametrize(
    "asked", [{"reasoning_effort": "low"}, {"thinking": {"type": "enabled", "budget_tokens": 2000}}]
)
@pytest.mark.parametrize("model", [OLD, NEW])
async def test_what_cannot_go_with_thinking_is_refused_with_the_reason(
    ask: Any, given: Any, param: str, asked: Any, model: str
) -> None:
    with pytest.raises(InvalidRequest, match="while the model thinks") as caught:
        await ask(given | asked, model=model)
    assert (caught.value.param, caught.value.retry) == (param, Retry.NEXT)


FORCED = ["required", {"type": "function", "function": {"name": "look"}}]


@pytest.mark.parametrize("choice", FORCED)
@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ({"reasoning_effort": "low"}, OLD),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, OLD),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, NEW),
    ],
)
async def test_no_tool_can_be_forced_while_the_model_thinks_within_a_budget(
    ask: Any, choice: Any, asked: Any, model: str
) -> None:
    with pytest.raises(InvalidRequest, match="while the model thinks within a budget") as caught:
        await ask({"tools": TOOLS, "tool_choice": choice, **asked}, model=model)
    assert (caught.value.param, caught.value.retry) == ("tool_choice", Retry.NEXT)


@pytest.mark.parametrize("choice", FORCED)
@pytest.mark.parametrize("asked", [{"reasoning_effort": "low"}, {"thinking": {"type": "adaptive"}}])
async def test_a_tool_can_be_forced_where_the_model_decides_how_much_to_think(
    ask: Any, choice: Any, asked: Any
) -> None:
    run = await ask({"tools": TOOLS, "tool_choice": choice, **asked}, model=NEW)
    assert run.body["thinking"] == {"type": "adaptive"}
    assert run.body["tool_choice"]["type"] in ("any", "tool")
    assert run.dropped == []


async def test_what_can_go_with_thinking_does(ask: Any) -> None:
    given = {"temperature": 1, "top_p": 0.95, "tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False}
    run = await ask(given | {"reasoning_effort": "low"}, model=OLD)
    assert run.body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
