"""What an engine refuses, and how one that cannot begin says so."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a"}}
TOOL = {"type": "function", "function": {"name": "a"}}
HALF = {"type": "text", "text": "half a character: \udc00"}
CALLED = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": NaN}'}}]}


def with_schema(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"temperature": 50}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"seed": 1.5}, "seed"),
        ({"logit_bias": {"cat": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "a\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [HALF]}]}, "messages[0].content[0].text"),
        ({"stop": ["a", "\ud800"]}, "stop[1]"),
        ({"logit_bias": {"\ud800": 1}}, "logit_bias"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (with_schema({"type": "dragon"}), "response_format.json_schema.schema"),
        (with_schema({"$ref": "#/nowhere"}), "response_format.json_schema.schema"),
        (with_schema({"$ref": "https://127.0.0.1/a"}), "response_format.json_schema.schema"),
        (with_schema({"type": "string", "pattern": "^[$"}), "response_format.json_schema.schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a\n"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"messages": [CALLED]}, "messages[0].tool_calls[0]"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_field_at_fault_is_named(shared: Any, wish: dict[str, Any], param: str | None) -> None:
    assert (await shared.refused("chat/completions", {**ASK, **wish}))[0] == param


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"echo": True, "logprobs": 0}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": [[1], [-1]]}, "prompt[...][...]"),
        ({"prompt": ["a"] * 200}, "prompt"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_completions_name_the_field_too(shared: Any, wish: dict[str, Any], param: str) -> None:
    told = (await shared.refused("completions", {"prompt": "a", **wish}))[0]
    assert told is not None
    assert told.startswith(param.partition("[...]")[0])


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": NaN}', b'{"messages": "\xff"}', b"[" * 100_000])
@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_no_request_is_refused(shared: Any, body: bytes) -> None:
    await shared.refused("chat/completions", body)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_prompt_longer_than_the_context_is_told_with_both_numbers(shared: Any) -> None:
    status, answer = await shared.post("chat/completions", {"messages": [{"role": "user", "content": "x" * 5000}]})
    error = answer["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert "1024" in error["message"]
    assert "5004" in error["message"]


@pytest.mark.asyncio(loop_scope="module")
async def test_other_paths_and_embeddings_are_refused(shared: Any) -> None:
    assert (await shared.post("nothing", {}))[0] == 404
    assert "writes text" in (await shared.refused("embeddings", {"input": "a"}))[1]


async def test_a_template_that_refuses_is_quoted(begin_engine: Callable[..., Any], trained: Path) -> None:
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('users begin') }}{% endif %}{{ messages[9].x.y }}"
    async with begin_engine(trained, chat_template=template) as engine:
        system = {"messages": [{"role": "system", "content": "a"}]}
        assert (await engine.refused("chat/completions", system))[1].endswith("refuses them: users begin")
        assert "fails at them" in (await engine.refused("chat/completions", ASK))[1]


async def test_a_template_reaches_nothing_outside(begin_engine: Callable[..., Any], trained: Path) -> None:
    template = "{{ messages.__class__.__mro__[1].__subclasses__() }}{{ messages.append(1) }}"
    async with begin_engine(trained, chat_template=template) as engine:
        assert "fails at them" in (await engine.refused("chat/completions", ASK))[1]


async def failure(start_engine: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    process = await start_engine(options)
    output = await process.stdout.read()  # `communicate` may close its input, which is the sign to end
    assert await process.wait() == 1
    process.stdin.close()
    told: dict[str, Any] = json.loads(output.splitlines()[-1])["failed"]
    return told


@pytest.mark.parametrize(
    ("name", "reason"), [("cut.gguf", "file bounds"), ("other.gguf", "magic"), ("none.gguf", "no such file")]
)
async def test_files_that_cannot_be_loaded_are_told(
    start_engine: Callable[..., Any], broken: Path, name: str, reason: str
) -> None:
    told = await failure(start_engine, {"path": str(broken / name), "socket": str(broken / "s"), "name": "a"})
    assert told["code"] == "load_failed"
    assert str(broken / name) in told["message"]
    assert reason in told["message"]


@pytest.fixture
def broken(trained: Path, tmp_path: Path) -> Path:
    """A folder with files that are no models."""
    (tmp_path / "cut.gguf").write_bytes(trained.read_bytes()[:300_000])
    (tmp_path / "other.gguf").write_bytes(b"GIF89a, no model at all")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ({"chat_template": "{% if %}"}, "load_failed", "chat template is no valid jinja"),
        ({"embedding": True}, "load_failed", "set pooling"),
        ({"socket": "/nowhere/at/all"}, "socket_failed", "/nowhere/at/all"),
        ({"colour": "red"}, "bad_options", "colour"),
        ({"pooling": "max"}, "bad_options", "pooling must be 'mean', 'cls' or 'last'"),
        ({"batch": -1}, "bad_options", "batch must be 1 or more"),
        ({"slots": 257}, "bad_options", "slots must be 1 or more, and 256 at most"),
        ({"context": 1 << 40}, "bad_options", "context must be 0 or more, and 2147483647 at most"),
    ],
)
async def test_options_that_cannot_be_met_are_told(
    start_engine: Callable[..., Any], trained: Path, tmp_path: Path, options: dict[str, Any], code: str, reason: str
) -> None:
    told = await failure(start_engine, {"path": str(trained), "socket": f"{tmp_path}/s", "name": "a", **options})
    assert told["code"] == code
    assert reason in told["message"]


async def test_an_engine_ends_when_its_input_does_also_in_mid_answer(
    begin_engine: Callable[..., Any], random_model: Path
) -> None:
    body = {"prompt": "a", "max_tokens": 2000, "logit_bias": {"2": -100}, "stream": True}
    url = "http://engine/v1/completions"
    async with begin_engine(random_model) as engine, engine.client.post(url, json=body) as response:
        await response.content.readline()
        engine.process.stdin.close()
        async with asyncio.timeout(5):
            assert await engine.process.wait() == 0


async def test_an_engine_whose_parent_is_killed_ends(trained: Path, tmp_path: Path) -> None:
    options = {"path": str(trained), "socket": f"{tmp_path}/s", "name": "a"}
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'gatehook_plugins.vendor_gguf.engine'], stdin=-1)\n"
        "child.stdin.write(sys.argv[1].encode() + b'\\n'); child.stdin.flush(); child.wait()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, json.dumps(options), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    while b"ready" not in await process.stdout.readline():
        pass
    process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(10):
        await process.stdout.read()  # to its end: the last one that had it open is gone
    await process.wait()
