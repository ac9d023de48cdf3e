"""Through a whole gateway, against a server on a real socket."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession

import gatehook_ollama
from gatehook import GatewayError
from gatehook.testing import Replay, ReplayEgress, Reply, StubUpstream, attempt, built, serving
from gatehook_ollama import OllamaPlugin, library
from gatehook_ollama.vendor import Ollama

PLUGINS = {"ollama": OllamaPlugin}
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TAGS = {"models": [{"name": "qwen3:8b", "size": 5_200_000_000, "details": {"parameter_size": "8.2B"}}]}
PULL = [
    {"status": "pulling manifest"},
    {"status": "pulling abc", "digest": "sha256:abc", "total": 10, "completed": 5},
    {"status": "success"},
]
ADMIN = "[plugins.auth_keys]\nadmin_keys = ['0123456789abcdef0']\n"
AUTH = {"Authorization": "Bearer 0123456789abcdef0"}


def ndjson(body: bytes) -> Reply:
    return Reply(body=body, content_type="application/x-ndjson")


async def told(settings: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """The status and the body of an answer, as far as it came."""
    data = bytearray()
    async with (
        serving(settings, plugins=PLUGINS) as served,
        ClientSession(served.url) as session,
        session.post("/v1/chat/completions", json=body) as answer,
    ):
        with suppress(ClientPayloadError):
            async for piece in answer.content.iter_any():
                data += piece
    return answer.status, bytes(data)


async def test_a_stream_reaches_the_client(settings: Any, lines: Any) -> None:
    body = lines(
        {"message": {"role": "assistant", "content": "Hel"}, "done": False},
        {"message": {"role": "assistant", "content": "lo"}, "done": False},
        {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "length", "eval_count": 2},
    )
    async with StubUpstream(ndjson(body)) as stub:
        _, data = await told(settings(stub.url), ASK | {"stream": True})
    events = [json.loads(event[6:]) for event in data.split(b"\n\n") if event[6:7] == b"{"]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in events) == "Hello"
    assert events[-1]["choices"][0]["finish_reason"] == "length"


async def test_a_cut_stream_is_no_whole_answer(settings: Any, lines: Any) -> None:
    line = lines({"message": {"role": "assistant", "content": "Hel"}, "done": False})
    async with StubUpstream(ndjson(line)) as stub:
        _, data = await told(settings(stub.url), ASK | {"stream": True})
    assert b"upstream_truncated" in data
    assert b"[DONE]" not in data


async def test_a_missing_model_says_how_to_get_it(settings: Any) -> None:
    missing = Reply.of_json({"error": "model 'qwen3:8b' not found"}, status=404)
    async with StubUpstream(missing) as stub:
        status, data = await told(settings(stub.url), ASK)
    error = json.loads(data)["error"]
    assert (status, error["code"]) == (502, "upstream_model_not_found")
    assert "gatehook ollama pull qwen3:8b" in error["message"]


async def test_an_administrator_sees_the_models_and_loads_one(settings: Any, lines: Any) -> None:
    async with StubUpstream(Reply.of_json(TAGS), ndjson(lines(*PULL))) as stub:
        text = ADMIN + settings(stub.url)
        async with serving(text, plugins=PLUGINS) as served, ClientSession(served.url) as session:
            async with session.get("/admin/ollama/models") as answer:
                assert answer.status == 401
            async with session.get("/admin/ollama/models", headers=AUTH) as answer:
                assert await answer.json() == {"servers": [{"server": stub.url, "models": TAGS["models"]}]}
            async with session.post("/admin/ollama/pull", headers=AUTH, json={"model": "qwen3:8b"}) as answer:
                states = [json.loads(line) for line in (await answer.read()).splitlines()]
    assert [one["status"] for one in states] == ["pulling manifest", "pulling abc", "success"]
    assert (states[1]["completed"], states[1]["total"]) == (5, 10)
    assert stub.requests[-1].json == {"model": "qwen3:8b", "stream": True}


async def test_a_server_that_is_silent_does_not_hold_up_the_list(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_SECONDS", 0.05)
    async with StubUpstream(Reply(end="silence", status=0)) as stub:
        url, text = stub.url, ADMIN + settings(stub.url)
        async with (
            serving(text, plugins=PLUGINS) as served,
            ClientSession(served.url) as session,
            session.get("/admin/ollama/models", headers=AUTH) as answer,
        ):
            (told,) = (await answer.json())["servers"]
    assert told == {"server": url, "models": [], "error": "ollama: no list of models within 0.05 s"}


async def test_a_pull_never_goes_to_a_server_that_the_operator_has_not_named(settings: Any) -> None:
    async with StubUpstream(Reply.of_json({})) as stub:
        text = ADMIN + settings(stub.url)
        async with serving(text, plugins=PLUGINS) as served, ClientSession(served.url) as session:
            for body in ({"model": "x", "server": "http://169.254.169.254"}, {"modell": "x"}, {}):
                async with session.post("/admin/ollama/pull", headers=AUTH, json=body) as answer:
                    assert answer.status == 400, await answer.text()
    assert stub.requests == []


async def test_a_pull_that_fails_at_once_has_a_status_later_a_line(settings: Any, lines: Any) -> None:
    failed = {"error": "pull model manifest: file does not exist"}
    replies = (ndjson(lines(failed)), ndjson(lines(PULL[0], failed)), ndjson(lines(PULL[0])))
    async with StubUpstream(*replies) as stub:
        text = ADMIN + settings(stub.url)
        async with serving(text, plugins=PLUGINS) as served, ClientSession(served.url) as session:
            async with session.post("/admin/ollama/pull", headers=AUTH, json={"model": "x"}) as answer:
                assert answer.status == 502
            for words in ("file does not exist", "broke off"):
                async with session.post("/admin/ollama/pull", headers=AUTH, json={"model": "x"}) as answer:
                    assert answer.status == 200
                    last = json.loads((await answer.read()).splitlines()[-1])
                    assert words in last["error"]["message"]


async def test_a_client_that_leaves_stops_the_pull(settings: Any, lines: Any) -> None:
    stalled = Reply(body=lines(PULL[0]), content_type="application/x-ndjson", end="silence")
    async with StubUpstream(stalled) as stub:
        text = ADMIN + settings(stub.url)
        async with serving(text, plugins=PLUGINS) as served, ClientSession(served.url) as session:
            async with session.post("/admin/ollama/pull", headers=AUTH, json={"model": "x"}) as answer:
                await answer.content.readline()
                answer.close()
            await stub.closed_early.wait()


async def command(stub: StubUpstream, *words: str) -> int:
    """`gatehook ollama`, in a thread of its own as it makes a loop of its own."""
    gateway = built(f'[plugins.ollama]\nbase_url = "{stub.url}"', plugins=PLUGINS)
    (one,) = OllamaPlugin(OllamaPlugin.Settings(base_url=stub.url)).register_commands(gateway)
    return await asyncio.to_thread(one.run, words)


async def test_the_command_lists_loads_and_removes(lines: Any, capsys: pytest.CaptureFixture[str]) -> None:
    replies = (Reply.of_json(TAGS), ndjson(lines(*PULL)), Reply(), Reply.of_json({"error": "gone"}, status=404))
    async with StubUpstream(*replies) as stub:
        assert await command(stub, "list") == 0
        assert await command(stub, "pull", "qwen3:8b") == 0
        assert await command(stub, "remove", "qwen3:8b") == 0
        assert await command(stub, "remove", "qwen3:8b") == 1
    out = capsys.readouterr()
    assert "qwen3:8b" in out.out
    assert "5.2 GB  8.2B" in out.out
    assert "pulling manifest\npulling abc\nsuccess\n" in out.out
    assert "ollama: gone" in out.err
    assert [(one.method, one.path) for one in stub.requests] == [
        ("GET", "/api/tags"),
        ("POST", "/api/pull"),
        ("DELETE", "/api/delete"),
        ("DELETE", "/api/delete"),
    ]


async def test_the_probe_loads_nothing() -> None:
    egress = ReplayEgress(Replay(b'{"version":"0.12"}'), Replay(b"", status=500))
    vendor, target = Ollama(egress, "http://here:1"), attempt({"model": "m"}).target
    await vendor.probe(target)
    assert egress.requests[0].path == "http://here:1/api/version"
    with pytest.raises(GatewayError):
        await vendor.probe(target)


def test_it_stands_in_no_other_s_kernel() -> None:
    """A third party's code: only the public API is imported."""
    for path in Path(gatehook_ollama.__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith("from gatehook."):
                assert line.split()[1] in ("gatehook.legacy", "gatehook.sse"), (path.name, line)
