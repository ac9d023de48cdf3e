from typing import Any

import pytest
from anthropic.types import OutputConfigParam
from pydantic import TypeAdapter

from gatehook import InvalidRequest, Retry
from gatehook_plugins.vendor_anthropic.parameters import tables
from gatehook_plugins.vendor_anthropic.profile import Defaults

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def json_schema(schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}


async def test_a_bare_chat_sends_the_least(ask: Any) -> None:
    run = await ask()
    assert run.body == {
        "model": "upstream-model",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }
    assert run.dropped == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 1.0}, {"temperature": 1.0}),
        ({"temperature": 0.5, "top_p": 0.0}, {"temperature": 0.5, "top_p": 0.0}),
        ({"top_k": 40}, {"top_k": 40}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": []}, {}),
        ({"stop": None, "temperature": None, "tools": None, "tool_choice": None, "reasoning_effort": None}, {}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": 7, "max_completion_tokens": None}, {"max_tokens": 7}),
        ({"max_tokens": 0}, {"max_tokens": 0}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": json_schema()}, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
        ({"stream": False}, {}),
        ({"service_tier": "standard_only"}, {"service_tier": "standard_only"}),
        ({"service_tier": "default"}, {}),
    ],
)
async def test_mapped_without_loss(ask: Any, given: Any, sent: Any) -> None:
    run = await ask(given)
    assert run.body == {"model": "upstream-model", "max_tokens": 4096, "messages": run.body["messages"]} | sent
    assert run.dropped == []


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": 1.01}, "temperature"),
        ({"stop": " "}, "stop"),
        ({"stop": ["ok", "\n"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_refused_so_that_another_deployment_may_be_tried(ask: Any, given: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(given)
    assert (caught.value.param, caught.value.retry, caught.value.status) == (param, Retry.NEXT, 400)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_k": [1]}, "top_k"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": json_schema("x")}, "response_format"),
    ],
)
async def test_values_that_make_no_sense_are_the_clients_fault(ask: Any, given: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(given)
    assert (caught.value.param, caught.value.retry) == (param, Retry.NEVER)


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 0},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -1},
        {"user": "u"},
        {"safety_identifier": "s"},
        {"service_tier": "flex"},
        {"store": True},
        {"metadata": {"a": "b"}},
        {"prediction": {"type": "content", "content": "x"}},
        {"verbosity": "low"},
        {"prompt_cache_key": "k"},
        {"an_unknown_one": 1},
    ],
)
async def test_dropped_with_a_signal_and_refused_where_nothing_may_be_lost(ask: Any, given: Any) -> None:
    run = await ask(given)
    assert run.dropped == list(given)
    assert set(run.body) == {"model", "max_tokens", "messages"}
    with pytest.raises(InvalidRequest) as caught:
        await ask(given, strict=True)
    assert caught.value.param in given


async def test_values_that_ask_for_nothing_pass_without_a_word(ask: Any) -> None:
    harmless = {
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "logit_bias": {},
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "modalities": ["text"],
        "service_tier": "auto",
        "store": False,
        "metadata": {},
        "audio": None,
        "parallel_tool_calls": True,
    }
    run = await ask(harmless, strict=True)
    assert set(run.body) == {"model", "max_tokens", "messages"}
    assert run.dropped == []


async def test_the_user_is_forwarded_only_where_the_operator_says_so(ask: Any) -> None:
    given = {"user": "u", "safety_identifier": "s"}
    assert "metadata" not in (await ask(given)).body
    run = await ask(given, forward_user=True)
    assert run.body["metadata"] == {"user_id": "u"}
    assert run.dropped == []
    assert (await ask({"safety_identifier": "s"}, forward_user=True)).body["metadata"] == {"user_id": "s"}
    with pytest.raises(InvalidRequest, match="user"):
        await ask({"user": 5}, forward_user=True)


@pytest.mark.parametrize(
    ("given", "cap", "options", "sent", "dropped"),
    [
        ({}, None, {}, 4096, []),
        ({}, 512, {}, 512, []),
        ({}, None, {"default_max_tokens": 99}, 99, []),
        ({"max_tokens": 600}, 512, {}, 512, ["max_tokens"]),
        ({"max_completion_tokens": 600, "max_tokens": 1}, 512, {}, 512, ["max_completion_tokens"]),
        ({"max_tokens": 100}, 512, {}, 100, []),
    ],
)
async def test_max_tokens_is_filled_in_and_kept_within_the_cap(
    ask: Any, given: Any, cap: Any, options: Any, sent: int, dropped: Any
) -> None:
    run = await ask(given, max_tokens=cap, options=options)
    assert (run.body["max_tokens"], run.dropped) == (sent, dropped)


async def test_the_plugins_default_max_tokens_is_used(ask: Any) -> None:
    assert (await ask(defaults=Defaults(max_tokens=77))).body["max_tokens"] == 77


async def test_a_schema_s_description_has_no_place_beside_it(ask: Any) -> None:
    described = json_schema()
    described["json_schema"]["description"] = "a letter"
    run = await ask({"response_format": described})
    assert run.body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert run.dropped == ["response_format.json_schema.description"]


async def test_structured_outputs_can_be_switched_off_for_a_model(ask: Any) -> None:
    with pytest.raises(InvalidRequest, match="structured_outputs") as caught:
        await ask({"response_format": json_schema()}, options={"structured_outputs": False})
    assert caught.value.retry is Retry.NEXT


@pytest.mark.parametrize(
    ("model", "can"),
    [
        ("claude-3-5-haiku-20241022", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-opus-4-1-20250805", True),
        ("claude-haiku-4-5", True),
        ("claude-sonnet-5", True),
        ("some-alias", True),
    ],
)
async def test_whether_a_model_can_be_held_to_a_schema_is_read_off_its_name(ask: Any, model: str, can: bool) -> None:
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}]
    run = await ask({"tools": tools}, model=model)
    assert ("strict" in run.body["tools"][0], run.dropped) == (can, [] if can else ["tools[0].function.strict"])
    for options in ({}, {"structured_outputs": True}, {"structured_outputs": False}):
        asked = ask({"response_format": json_schema()}, model=model, options=options)
        if options.get("structured_outputs", can):
            assert "format" in (await asked).body["output_config"]
        else:
            with pytest.raises(InvalidRequest, match="cannot hold its answer to a schema"):
                await asked


async def test_json_object_is_refused_with_what_to_use_instead(ask: Any) -> None:
    with pytest.raises(InvalidRequest, match="json_schema"):
        await ask({"response_format": {"type": "json_object"}})


async def test_schema_and_effort_share_the_output_config(ask: Any) -> None:
    run = await ask({"response_format": json_schema(), "reasoning_effort": "low"}, model="claude-opus-4-8")
    TypeAdapter(OutputConfigParam).validate_python(run.body["output_config"])
    assert run.body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("claude-3-5-sonnet-20241022", True),
        ("claude-sonnet-4-6", True),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", True),
        ("claude-opus-4-20250514", True),
        ("some-alias", True),
        ("claude-opus-4-7", False),
        ("claude-sonnet-5", False),
        ("claude-opus-5-5", False),
        ("claude-opus-10-1", False),
    ],
)
async def test_models_with_fixed_sampling_get_no_sampling_parameters(ask: Any, model: str, takes: bool) -> None:
    run = await ask({"temperature": 0.3, "top_k": 5}, model=model)
    assert ("temperature" in run.body, "top_k" in run.body) == (takes, takes)
    assert run.dropped == ([] if takes else ["temperature", "top_k"])
    run = await ask({"top_p": 1}, model=model)
    assert ("top_p" in run.body, run.dropped) == (takes, [])


@pytest.mark.parametrize(
    "model", ["claude-opus-4-1-20250805", "claude-haiku-4-5", "claude-4.5-sonnet", "claude-opus-4-6"]
)
@pytest.mark.parametrize(
    ("temperature", "top_p", "sent", "dropped"),
    [
        (0.3, 0.9, {"temperature": 0.3}, ["top_p"]),
        (0, 1, {"temperature": 0}, []),
        (1, 0.9, {"top_p": 0.9}, []),
        (0.0, 0.0, {"temperature": 0.0}, ["top_p"]),
        (None, 0.9, {"top_p": 0.9}, []),
        (0.3, None, {"temperature": 0.3}, []),
    ],
)
async def test_models_that_take_temperature_or_top_p_get_one_of_them(
    ask: Any, model: str, temperature: Any, top_p: Any, sent: Any, dropped: Any
) -> None:
    run = await ask({"temperature": temperature, "top_p": top_p}, model=model)
    assert {name: run.body[name] for name in ("temperature", "top_p") if name in run.body} == sent
    assert run.dropped == dropped


@pytest.mark.parametrize("model", ["claude-3-5-sonnet-20241022", "claude-opus-4-20250514", "some-alias"])
async def test_other_models_get_temperature_and_top_p_together(ask: Any, model: str) -> None:
    run = await ask({"temperature": 0.3, "top_p": 0.9}, model=model)
    assert (run.body["temperature"], run.body["top_p"], run.dropped) == (0.3, 0.9, [])


async def test_a_strict_deployment_refuses_what_it_cannot_take_together(ask: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask({"temperature": 0.3, "top_p": 0.9}, model="claude-sonnet-4-5", strict=True)
    assert caught.value.param == "top_p"


async def test_the_newer_api_version_takes_no_sampling_parameters_from_any_model(ask: Any) -> None:
    newer = Defaults(version="2026-10-21")
    run = await ask({"temperature": 1, "top_p": 0.5}, model="claude-sonnet-4-5", defaults=newer)
    assert "temperature" not in run.body
    assert run.dropped == ["top_p"]
    told = await ask({"temperature": 0.2}, model="claude-opus-5", options={"sampling": True})
    assert told.body["temperature"] == 0.2


def test_every_disposition_says_why() -> None:
    for table in tables(forward_user=False).values():
        assert all(rule.note for rule in table.values())
        assert {"model", "stream", "stream_options"} <= set(table)
