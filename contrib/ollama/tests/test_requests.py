"""What Ollama is asked."""

import base64
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import gatehook_ollama
from gatehook import Fetched, GatewayError, InvalidRequest, Retry, Usage
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_ollama.options import DEFAULT_BASE
from gatehook_ollama.parameters import PARAMETERS
from gatehook_ollama.vendor import Ollama

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HI = [{"role": "user", "content": "hi"}]
DONE = {"message": {"role": "assistant", "content": "Hello"}, "done": True, "done_reason": "stop"}


async def test_a_chat_goes_to_ollama_s_own_path_with_the_server_s_options(asked: Any) -> None:
    request, _, _ = await asked(
        {
            "messages": [{"role": "system", "content": "Be brief."}, *HI],
            "temperature": 0.5, "top_k": 3, "seed": 7, "stop": "END", "max_tokens": 9, "max_completion_tokens": 5,
        },
        DONE,
        model="qwen3:8b",
        base_url="http://ollama:11434/v1/",
        options={"num_ctx": 4096, "keep_alive": "30m", "runtime": {"num_gpu": 1, "temperature": 1}},
    )  # fmt: skip
    assert request.path == "http://ollama:11434/api/chat"
    assert request.json == {
        "model": "qwen3:8b",
        "stream": False,
        "keep_alive": "30m",
        "options": {
            "num_gpu": 1, "temperature": 0.5, "num_ctx": 4096, "top_k": 3, "seed": 7, "stop": ["END"], "num_predict": 5,
        },
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "sent"), [("10m", "10m"), ("-1", -1), (-1, -1), (0, 0), ("300", 300), (None, "never said")]
)
async def test_seconds_of_keep_alive_are_a_number(asked: Any, given: Any, sent: Any) -> None:
    request, _, _ = await asked({"messages": HI}, DONE, options={} if given is None else {"keep_alive": given})
    assert request.json.get("keep_alive", "never said") == sent


async def test_the_plugin_s_keep_alive_is_for_models_that_say_none() -> None:
    egress = ReplayEgress(Replay(b'{"message":{"role":"assistant","content":"a"},"done":true}'))
    vendor = Ollama(egress, DEFAULT_BASE, "-1")
    await vendor.complete(attempt({"model": "m", "messages": HI}))
    await vendor.complete(attempt({"model": "m", "messages": HI}, options={"keep_alive": 0}))
    assert [request.json["keep_alive"] for request in egress.requests] == [-1, 0]


@pytest.mark.parametrize(
    ("effort", "think"), [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("xhigh", "high")]
)
@pytest.mark.parametrize(
    ("model", "options"), [("gpt-oss:20b", {"think": True}), ("hf.co/x/GPT-OSS-20b", {}), ("new", {"think": "low"})]
)
async def test_effort_is_a_level_where_the_model_has_levels(
    asked: Any, model: str, options: Any, effort: str, think: Any
) -> None:
    asking = {"messages": HI, "reasoning_effort": effort}
    request, _, _ = await asked(asking, DONE, model=model, options=options)
    assert request.json["think"] == think


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("minimal", True), ("low", True), ("xhigh", True)])
@pytest.mark.parametrize("usual", [True, False])
async def test_effort_is_thinking_or_not_where_it_has_none(asked: Any, effort: str, think: bool, usual: bool) -> None:
    asking = {"messages": HI, "reasoning_effort": effort}
    request, _, one = await asked(asking, DONE, model="qwen3:8b", options={"think": usual})
    assert request.json["think"] is think
    assert one.dropped == []


async def test_thinking_of_the_deployment_holds_where_nobody_says_another(asked: Any) -> None:
    request, _, _ = await asked({"messages": HI}, DONE, options={"think": False})
    assert request.json["think"] is False


async def test_formats(asked: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for given, sent in (
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, schema),
    ):
        request, _, _ = await asked({"messages": HI, "response_format": given}, DONE)
        assert request.json.get("format") == sent


async def test_tools_calls_and_results_go_round(asked: Any) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    history = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    request, _, _ = await asked({"messages": history, "tools": tools}, DONE)
    assert request.json["tools"] == tools
    assert request.json["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "tool_name": "add", "tool_call_id": "c1", "content": "2"},
    ]
    request, _, _ = await asked({"messages": HI, "tools": tools, "tool_choice": "none"}, DONE)
    assert "tools" not in request.json


async def test_pictures_travel_as_base64_those_by_url_are_fetched_first() -> None:
    encoded, url = base64.b64encode(PNG).decode(), "https://pictures.example/a.png"
    egress = ReplayEgress(
        Replay(b'{"message":{"role":"assistant","content":"a"},"done":true}'), fetched={url: Fetched(PNG, "")}
    )
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    await Ollama(egress, DEFAULT_BASE).complete(
        attempt({"model": "m", "messages": [{"role": "user", "content": content}]})
    )
    (sent,) = egress.requests[0].json["messages"]
    assert sent == {"role": "user", "content": "look", "images": [encoded, encoded]}


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({"messages": HI, "tool_choice": "required"}, "tool_choice"),
        ({"messages": HI, "tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"messages": [{"role": "system", "content": "alone"}]}, "messages"),
        ({"messages": HI, "reasoning_effort": "absurd"}, "reasoning_effort"),
        ({"messages": HI, "response_format": {"type": "grammar"}}, "response_format.type"),
        ({"messages": HI, "response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages[0].content[0].file",
        ),
    ],
)
async def test_what_ollama_cannot_do_is_refused_by_name_for_another_to_try(
    asked: Any, payload: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked(payload, DONE)
    assert (caught.value.param, caught.value.retry) == (param, Retry.NEXT)


async def test_wrong_options_are_the_operator_s_fault_and_told_by_the_check(asked: Any) -> None:
    one = attempt({"model": "m", "messages": HI}, options={"num_ctx": "many"})
    vendor = Ollama(ReplayEgress(), DEFAULT_BASE)
    (fault,) = vendor.check(one.target)
    assert "num_ctx" in fault
    with pytest.raises(GatewayError, match="num_ctx") as caught:
        await vendor.complete(one)
    assert caught.value.code == "misconfigured_model"
    assert list(vendor.check(attempt({"model": "m"}).target)) == []


async def test_a_key_is_sent_as_a_bearer_token() -> None:
    egress = ReplayEgress(Replay(b'{"embeddings":[[1.0]],"prompt_eval_count":2}'))
    one = attempt({"model": "m", "input": "hi"}, operation="embeddings", api_key=SecretStr("k" * 20))
    await Ollama(egress, DEFAULT_BASE).complete(one)
    assert egress.requests[0].headers["Authorization"] == "Bearer " + "k" * 20


async def test_embeddings_both_ways(asked: Any) -> None:
    reply = {"embeddings": [[0.5, 1.0], [2, 3]], "prompt_eval_count": 6}
    request, answer, _ = await asked(
        {"input": ["a", "b"], "dimensions": 2}, reply, operation="embeddings", options={"truncate": False}
    )
    assert request.path.endswith("/api/embed")
    assert request.json == {"model": "upstream-model", "input": ["a", "b"], "dimensions": 2, "truncate": False}
    assert [one["embedding"] for one in answer.data["data"]] == [[0.5, 1.0], [2, 3]]
    assert answer.data["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    _, answer, _ = await asked(
        {"input": "a", "encoding_format": "base64"}, {"embeddings": [[1]]}, operation="embeddings"
    )
    assert answer.data["data"][0]["embedding"] == "AACAPw=="
    assert answer.usage == Usage(1, estimated=True)
    assert answer.data["usage"] == {"prompt_tokens": 1, "total_tokens": 1}
    with pytest.raises(GatewayError, match="1 embeddings"):
        await asked({"input": "a"}, reply, operation="embeddings")
    with pytest.raises(InvalidRequest, match="input"):
        await asked({"input": [[1, 2]]}, reply, operation="embeddings")


def test_every_mapped_parameter_is_read_somewhere() -> None:
    folder = Path(gatehook_ollama.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "parameters.py")
    told = {"model", "messages", "stream", "stream_options", "prompt", "n"}
    for table in PARAMETERS.values():
        names = {name for name, rule in table.items() if rule.disposition == "mapped"} - told
        assert {name for name in names if f'"{name}"' not in text} == set()


async def test_a_tool_without_a_function_is_the_client_s_fault(asked: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked({"messages": HI, "tools": [{"type": "function"}]}, DONE)
    assert caught.value.param == "tools[0].function"


async def test_instructions_in_the_middle_stay_there(asked: Any) -> None:
    said = [("system", "first"), ("user", "a"), ("assistant", "b"), ("system", "now"), ("user", "c")]
    history = [{"role": role, "content": words} for role, words in said]
    request, _, one = await asked({"messages": history}, DONE)
    assert request.json["messages"] == history
    assert one.dropped == []
