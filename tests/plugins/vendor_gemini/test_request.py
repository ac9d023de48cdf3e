"""What goes to Gemini for a chat: parameters, system text, turns, tools."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from gatehook import Attempt, InvalidRequest, Misconfigured, Retry, Target, Vendor
from gatehook.parameters import sift
from gatehook.testing import Recorded, Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_gemini import VendorGemini
from gatehook_plugins.vendor_gemini.vendor import Gemini

ANSWER = json.dumps({"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}).encode()
USER = {"role": "user", "content": "hello"}


def sifted(payload: Mapping[str, Any], **target: Any) -> Attempt:
    """An attempt after the kernel applied the vendor's table."""
    one = attempt({"model": "public"}, **({"model": "gemini-2.5-flash"} | target))
    kept, lost = sift({"model": "public", **payload}, Gemini.parameters[one.call.operation], vendor="gemini")
    one = attempt(kept, target=one.target, operation=one.call.operation)
    one.dropped = lost
    return one


async def post(payload: Mapping[str, Any], **target: Any) -> tuple[Recorded, Attempt]:
    egress = ReplayEgress(Replay(ANSWER))
    one = sifted(payload, **target)
    await Gemini(egress).complete(one)
    return egress.requests[0], one


async def body(payload: Mapping[str, Any], **target: Any) -> dict[str, Any]:
    request, _ = await post({"messages": [USER], **payload}, **target)
    written: dict[str, Any] = request.json
    return written


async def config(payload: Mapping[str, Any], **target: Any) -> dict[str, Any]:
    written: dict[str, Any] = (await body(payload, **target)).get("generationConfig", {})
    return written


async def refusal(payload: Mapping[str, Any], **target: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await body(payload, **target)
    return caught.value


def tool(name: str = "look", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def call(id_: str, name: str = "look", arguments: str = "{}", *, extra_content: Any = None) -> dict[str, Any]:
    return {
        "id": id_,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
        "extra_content": extra_content,
    }


async def contents(*messages: Mapping[str, Any], **target: Any) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = (await body({"messages": list(messages)}, **target))["contents"]
    return written


def test_the_plugin_offers_one_vendor() -> None:
    class House:
        egress = ReplayEgress(Replay(b""))

    (vendor,) = VendorGemini(VendorGemini.Settings()).register_vendors(House())  # type: ignore[arg-type]
    assert isinstance(vendor, Vendor)
    assert vendor.name == "gemini"


@pytest.mark.parametrize(
    ("base", "model", "url"),
    [
        ("", "gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro"),
        ("https://proxy.example", "m", "https://proxy.example/v1beta/models/m"),
        ("https://proxy.example/g/", "m", "https://proxy.example/g/v1beta/models/m"),
        ("https://proxy.example/g/v1beta/", "m", "https://proxy.example/g/v1beta/models/m"),
        ("https://proxy.example/v1alpha", "models/m", "https://proxy.example/v1alpha/models/m"),
        ("https://proxy.example/v1", "tunedModels/m-1", "https://proxy.example/v1/tunedModels/m-1"),
        ("", "../a b?key=1#é", "https://generativelanguage.googleapis.com/v1beta/models/..%2Fa%20b%3Fkey%3D1%23%C3%A9"),
    ],
)
async def test_the_address_is_made_from_base_url_and_quoted_model(base: str, model: str, url: str) -> None:
    request, _ = await post({"messages": [USER]}, base_url=base, model=model)
    assert request.path == url + ":generateContent"


async def test_the_key_travels_in_a_header_only() -> None:
    request, _ = await post({"messages": [USER]}, api_key=SecretStr("AIza-secret"))
    assert request.headers["x-goog-api-key"] == "AIza-secret"
    assert "secret" not in request.path
    request, _ = await post({"messages": [USER]})
    assert "x-goog-api-key" not in request.headers


async def test_a_deployment_that_changed_under_its_key_is_called_anew() -> None:
    egress = ReplayEgress(Replay(ANSWER))
    vendor = Gemini(egress)
    for base in ("https://one.example", "https://two.example"):
        target = Target(key="m#1", name="m", vendor="gemini", model="m", base_url=base)
        await vendor.complete(attempt({"messages": [USER]}, target=target))
    assert [request.path.split("/v1beta")[0] for request in egress.requests] == [
        "https://one.example",
        "https://two.example",
    ]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, {}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "topP": 0.5}),
        ({"temperature": None}, {}),
        ({"top_k": 3}, {"topK": 3}),
        ({"presence_penalty": -1, "frequency_penalty": 0.5}, {"presencePenalty": -1, "frequencyPenalty": 0.5}),
        ({"seed": -(2**31)}, {"seed": -(2**31)}),
        ({"seed": 0}, {"seed": 0}),
        ({"n": 1}, {}),
        ({"n": 8}, {"candidateCount": 8}),
        ({"stop": "x"}, {"stopSequences": ["x"]}),
        ({"stop": ["a", "b", "c", "d", "e"]}, {"stopSequences": ["a", "b", "c", "d", "e"]}),
        ({"stop": []}, {}),
        ({"max_tokens": 5}, {"maxOutputTokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"maxOutputTokens": 7}),
        ({"logprobs": False}, {}),
        ({"logprobs": True}, {"responseLogprobs": True}),
        ({"logprobs": True, "top_logprobs": 3}, {"responseLogprobs": True, "logprobs": 3}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#/$defs/x"}}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"$ref": "#/$defs/x"}},
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"responseMimeType": "application/json"}),
        ({"parallel_tool_calls": True, "logit_bias": {}, "modalities": ["text"]}, {}),
        ({"parallel_tool_calls": False}, {}),
        ({"modalities": ["image", "text", "image"]}, {"responseModalities": ["IMAGE", "TEXT"]}),
    ],
)
async def test_parameters_become_generation_config(given: dict[str, Any], written: dict[str, Any]) -> None:
    assert await config(given) == written


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"seed": 2**31}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"stop": ["a", "b", "c", "d", "e", "f"]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": "json"}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": []}, "modalities"),
        ({"modalities": "image"}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [tool(), {"type": "custom", "custom": {"name": "x"}}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool()], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "system", "content": "alone"}]}, "messages"),
    ],
)
async def test_what_gemini_cannot_do_is_refused_by_name_and_left_to_another(given: dict[str, Any], param: str) -> None:
    error = await refusal(given)
    assert (error.param, error.retry, error.status) == (param, Retry.NEXT, 400)


async def test_what_has_no_counterpart_is_dropped_with_a_signal() -> None:
    given = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "flex",
        "prediction": {},
        "verbosity": "low",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "unheard_of": 1,
    }
    request, one = await post({"messages": [USER], **given})
    assert one.dropped == list(given)
    assert request.json == {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}


async def test_max_tokens_above_the_models_cap_is_cut_and_told() -> None:
    request, one = await post({"messages": [USER], "max_completion_tokens": 900}, max_tokens=100)
    assert request.json["generationConfig"] == {"maxOutputTokens": 100}
    assert one.dropped == ["max_completion_tokens"]
    _, one = await post({"messages": [USER], "max_tokens": 100}, max_tokens=100)
    assert one.dropped == []


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash-lite", "minimal", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("models/gemini-2.5-pro", "medium", {"thinkingBudget": 8192, "includeThoughts": True}),
        ("gemini-2.5-pro", "high", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-3-pro-preview", "medium", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        ("gemini-3-flash-preview", "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
        ("gemini-3.5-flash", "high", {"thinkingLevel": "HIGH", "includeThoughts": True}),
    ],
)
async def test_reasoning_effort_by_model_family(model: str, effort: str, thinking: dict[str, Any]) -> None:
    assert await config({"reasoning_effort": effort}, model=model) == {"thinkingConfig": thinking}


async def test_no_reasoning_asked_of_a_model_that_cannot_reason_is_no_fault() -> None:
    assert await config({"reasoning_effort": "none"}, model="gemini-2.0-flash") == {}


@pytest.mark.parametrize(
    ("model", "effort"),
    [
        ("gemini-2.5-flash", "extreme"),
        ("gemini-2.5-flash", 3),
        ("gemini-2.5-flash", "xhigh"),
        ("gemini-2.5-pro", "none"),
        ("gemini-3-flash-preview", "none"),
        ("gemini-2.0-flash", "low"),
        ("tuned-by-us", "low"),
    ],
)
async def test_an_effort_the_model_does_not_know_is_refused(model: str, effort: Any) -> None:
    assert (await refusal({"reasoning_effort": effort}, model=model)).param == "reasoning_effort"


async def test_the_operator_can_set_the_table_of_efforts() -> None:
    options = {"reasoning_effort": {"low": 77, "xhigh": "xhigh"}, "include_thoughts": False}
    low = await config({"reasoning_effort": "low"}, model="tuned-by-us", options=options)
    assert low == {"thinkingConfig": {"thinkingBudget": 77}}
    most = await config({"reasoning_effort": "xhigh"}, model="tuned-by-us", options=options)
    assert most == {"thinkingConfig": {"thinkingLevel": "XHIGH"}}


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"reasoning_effort": {"low": 1.5}}, "options: reasoning_effort[...]: expected int | str, got float"),
        ({"reasoning_effort": {"low": True}}, "options: reasoning_effort[...]: expected int | str, got bool"),
        ({"reasoning_effort": "low"}, "options: reasoning_effort: expected object, got str"),
        ({"safety_settings": "off"}, "options: safety_settings: expected object | array, got str"),
        ({"json_schema": "no"}, "options: json_schema: expected bool, got str"),
        ({"json_shema": False}, "options: json_shema: no such field; did you mean 'json_schema'?"),
    ],
)
async def test_a_wrong_option_is_the_operators_fault_and_told_before_serving(
    options: dict[str, Any], fault: str
) -> None:
    target = attempt({}, options=options).target
    assert Gemini(ReplayEgress()).check(target) == [fault]
    with pytest.raises(Misconfigured) as caught:
        await body({}, options=options)
    assert (caught.value.status, caught.value.retry, caught.value.fault) == (500, Retry.NEXT, fault)


def test_options_that_fit_have_no_fault() -> None:
    options = {"safety_settings": [{"category": "a", "threshold": "OFF"}], "reasoning_effort": {"low": 9, "high": "X"}}
    assert Gemini(ReplayEgress()).check(attempt({}, options=options).target) == []


@pytest.mark.parametrize(
    "setting",
    [{"HARM_CATEGORY_HARASSMENT": "OFF"}, [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]],
)
async def test_safety_settings_come_from_the_operator(setting: Any) -> None:
    written = await body({}, options={"safety_settings": setting})
    assert written["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]


async def test_system_and_developer_texts_anywhere_become_one_instruction_in_order() -> None:
    request, one = await post(
        {
            "messages": [
                {"role": "system", "content": "first"},
                USER,
                {
                    "role": "developer",
                    "content": [{"type": "text", "text": "second"}, {"type": "text", "text": "third"}],
                },
            ]
        }
    )
    assert request.json["systemInstruction"] == {"parts": [{"text": "first"}, {"text": "second"}, {"text": "third"}]}
    assert request.json["contents"] == [{"role": "user", "parts": [{"text": "hello"}]}]
    assert one.dropped == ["messages[2].position"]


async def test_turns_alternate_and_empty_text_makes_no_part() -> None:
    turns = await contents(
        USER,
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "so"}]},
    )
    assert turns == [
        {"role": "user", "parts": [{"text": "hello"}, {"text": "again"}]},
        {"role": "model", "parts": [{"text": "yes"}]},
        {"role": "user", "parts": [{"text": "so"}]},
    ]


async def test_cache_markers_and_names_are_dropped_with_a_signal() -> None:
    text = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    request, one = await post({"messages": [{"role": "user", "name": "eve", "content": [text]}]})
    assert request.json["contents"] == [{"role": "user", "parts": [{"text": "x"}]}]
    assert one.dropped == ["messages[0].name", "cache_control"]


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ("[1, 2]", {"result": "[1, 2]"}),
        ("sunny", {"result": "sunny"}),
        ("{not json", {"result": "{not json"}),
        ("", {"result": ""}),
        ("3", {"result": "3"}),
    ],
)
async def test_a_tool_result_is_an_object_under_the_tools_name(text: str, response: dict[str, Any]) -> None:
    turns = await contents(
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call("call_1")]},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
    )
    assert turns[1] == {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {}}}]}
    assert turns[2] == {"role": "user", "parts": [{"functionResponse": {"name": "look", "response": response}}]}


async def test_parallel_results_stand_in_one_turn_before_the_users_words() -> None:
    turns = await contents(
        USER,
        {"role": "assistant", "content": "let me", "tool_calls": [call("a", "one", '{"x": 1}'), call("b", "two", "")]},
        {"role": "tool", "tool_call_id": "b", "content": "B"},
        {"role": "tool", "tool_call_id": "a", "content": "A"},
        {"role": "user", "content": "well?"},
    )
    assert turns[1]["parts"] == [
        {"text": "let me"},
        {"functionCall": {"name": "one", "args": {"x": 1}}},
        {"functionCall": {"name": "two", "args": {}}},
    ]
    assert turns[2]["parts"] == [
        {"functionResponse": {"name": "two", "response": {"result": "B"}}},
        {"functionResponse": {"name": "one", "response": {"result": "A"}}},
        {"text": "well?"},
    ]
    assert len(turns) == 3


async def test_ids_that_gemini_gave_go_back_and_others_do_not() -> None:
    given = {"google": {"function_call_id": "fc-9"}}
    messages: list[Any] = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call("fc-9", extra_content=given), call("call_foreign")]},
        {"role": "tool", "tool_call_id": "fc-9", "content": "A"},
        {"role": "tool", "tool_call_id": "call_foreign", "content": "B"},
    ]
    turns = await contents(*messages)
    assert [part["functionCall"].get("id") for part in turns[1]["parts"]] == ["fc-9", None]
    assert [part["functionResponse"].get("id") for part in turns[2]["parts"]] == ["fc-9", None]
    turns = await contents(*messages, options={"function_ids": False})
    assert "fc-9" not in json.dumps(turns)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "tool", "tool_call_id": "x", "content": ""}], "messages[0].tool_call_id"),
        ([{"role": "assistant", "tool_calls": [call("x")]}], "messages"),
        (
            [{"role": "assistant", "tool_calls": [call("x", "f", "[1]")]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ([{"role": "assistant", "tool_calls": [call("x", "f", "{")]}], "messages[0].tool_calls[0].function.arguments"),
    ],
)
async def test_orphans_and_bad_arguments_are_refused(messages: list[Any], param: str) -> None:
    assert (await refusal({"messages": messages})).param == param


async def test_signatures_of_calls_go_back_where_they_came_from() -> None:
    signed = {"google": {"thought_signature": "c2ln"}}
    turns = await contents(
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call("a", extra_content=signed), call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        model="gemini-3-flash-preview",
    )
    assert [part.get("thoughtSignature") for part in turns[1]["parts"]] == ["c2ln", None]


async def test_unsigned_calls_are_excused_where_signatures_are_checked() -> None:
    messages: list[Any] = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "tool", "tool_call_id": "b", "content": ""},
    ]
    turns = await contents(*messages, model="gemini-3-flash-preview")
    skip = "skip_thought_signature_validator"
    assert [part.get("thoughtSignature") for part in turns[1]["parts"]] == [skip, None]
    turns = await contents(*messages, model="gemini-2.5-flash")
    assert [part.get("thoughtSignature") for part in turns[1]["parts"]] == [None, None]


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"content": "words"}, [{"text": "words", "thoughtSignature": "c2ln"}]),
        ({"content": ""}, [{"text": "", "thoughtSignature": "c2ln"}]),
        (
            {"content": None, "tool_calls": [call("a")]},
            [{"text": "", "thoughtSignature": "c2ln"}, {"functionCall": {"name": "look", "args": {}}}],
        ),
    ],
)
async def test_signatures_of_words_go_back_even_without_words(message: dict[str, Any], parts: list[Any]) -> None:
    answered = [{"role": "tool", "tool_call_id": "a", "content": ""}] if "tool_calls" in message else []
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    history = [USER, {"role": "assistant", **message, **signed}, *answered]
    request, one = await post({"messages": history})
    assert request.json["contents"][1] == {"role": "model", "parts": parts}
    assert one.dropped == []


async def test_what_a_message_has_beside_its_signature_is_told_as_dropped() -> None:
    extra = {"google": {"thought_signature": "c2ln", "mood": "fine"}}
    for given in (extra, {**extra, "other": 1}, {"other": 1}):
        message = {"role": "assistant", "content": "yes", "extra_content": given}
        _, one = await post({"messages": [USER, message, USER]})
        assert one.dropped == ["messages[1].extra_content"]


async def test_reasoning_of_other_vendors_is_not_shown_to_gemini() -> None:
    thinking = [
        {"type": "thinking", "thinking": "hm", "signature": "other"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    message = {"role": "assistant", "content": "yes", "reasoning_content": "hm", "thinking_blocks": thinking}
    request, one = await post({"messages": [USER, message, USER]})
    assert request.json["contents"][1] == {"role": "model", "parts": [{"text": "yes"}]}
    assert one.dropped == ["messages[1].thinking_blocks", "messages[1].reasoning_content"]


@pytest.mark.parametrize("junk", [1, "x", {"google": 1}, {"google": {"thought_signature": 5, "function_call_id": []}}])
async def test_junk_in_extra_content_is_no_signature(junk: Any) -> None:
    turns = await contents(
        USER,
        {"role": "assistant", "content": "yes", "extra_content": junk, "tool_calls": [call("a", extra_content=junk)]},
        {"role": "tool", "tool_call_id": "a", "content": ""},
    )
    assert turns[1]["parts"] == [{"text": "yes"}, {"functionCall": {"name": "look", "args": {}}}]


async def test_a_legacy_completion_is_a_chat_of_one_message() -> None:
    egress = ReplayEgress(Replay(ANSWER))
    one = attempt({"model": "public", "prompt": "say hi", "max_tokens": 3, "stop": "x"}, operation="completions")
    answer = await Gemini(egress).complete(one)
    assert egress.requests[0].json == {
        "contents": [{"role": "user", "parts": [{"text": "say hi"}]}],
        "generationConfig": {"maxOutputTokens": 3, "stopSequences": ["x"]},
    }
    assert answer.data["object"] == "text_completion"
    assert answer.data["choices"] == [{"index": 0, "text": "hi", "logprobs": None, "finish_reason": "stop"}]
