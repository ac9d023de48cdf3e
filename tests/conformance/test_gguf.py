"""The vendor "gguf" keeps to everything the suite asks: with engines that the suite plays, and with its own."""

import asyncio
import importlib.util
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gatehook.testing import Reply
from gatehook.testing.conformance import Failure, Said, Script, VendorAnswers, VendorConformance
from gatehook_plugins.vendor_gguf.host import Host
from gatehook_plugins.vendor_gguf.manager import Manager
from gatehook_plugins.vendor_gguf.sockets import host_socket

TRAINED = Path(__file__).parents[1] / "models" / "tiny-chat.gguf"
KINDS = {"chat": "chat.completion", "completions": "text_completion"}


def error(failure: Failure) -> dict[str, Any]:
    kind = "invalid_request_error" if failure.status == 400 else "server_error"
    codes = {"context_length": "context_length_exceeded", "internal": "engine_failed", "unavailable": "engine_busy"}
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": codes.get(failure.kind)}}


def counted(said: Said) -> dict[str, Any]:
    prompt, answer = said.usage.prompt_tokens, said.usage.completion_tokens
    counts = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    return {"usage": {**counts, "prompt_tokens_details": {"cached_tokens": 0}}}


class EngineScript(Script):
    """What `gatehook_plugins.vendor_gguf.engine` sends: OpenAI's dialect, each tool call in one piece."""

    def plain(self, said: Said) -> Reply | None:
        if said.finish == "content_filter":
            return None  # nobody filters
        if said.operation == "embeddings":
            data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(said.vectors)]
            return Reply.of_json({"object": "list", "data": data, "model": "conformance", **counted(said)})
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": said.finish}
        text = "".join(said.text)
        if said.operation == "completions":
            choice["text"] = text
        else:
            choice["message"] = {"role": "assistant", "content": text or None}
            if said.calls:
                choice["message"]["tool_calls"] = calls_of(said)
        return Reply.of_json({**head(said), "choices": [choice], **counted(said)})

    def stream(self, said: Said) -> Reply | None:
        if said.finish == "content_filter":
            return None
        last: dict[str, Any] = {"text": ""} if said.operation == "completions" else {"delta": {}}
        end = [event(said, finish_reason=said.finish, **last), {**head(said, ".chunk"), "choices": [], **counted(said)}]
        return Reply.of_events([*map(frame, [*spoken(said), *end]), b"data: [DONE]\n\n"])

    def failure(self, failure: Failure) -> Reply | None:
        if failure.kind not in ("invalid", "context_length", "internal", "unavailable"):
            return None  # it asks nobody for a key, and knows one model
        return Reply.of_json(error(failure), status=failure.status, headers=failure.headers)

    def failing_stream(self, said: Said, failure: Failure) -> Reply:
        return Reply.of_events([*map(frame, [*spoken(said), error(failure)])])


def head(said: Said, suffix: str = "") -> dict[str, Any]:
    kind = KINDS[said.operation] + (suffix if said.operation == "chat" else "")
    return {"id": "cmpl-1", "created": 1_700_000_000, "model": "conformance", "object": kind}


def event(said: Said, **choice: Any) -> dict[str, Any]:
    return {**head(said, ".chunk"), "choices": [{"index": 0, "finish_reason": None, **choice}]}


def calls_of(said: Said) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in said.calls
    ]


def spoken(said: Said) -> list[dict[str, Any]]:
    if said.operation == "completions":
        return [event(said, text=text) for text in said.text]
    first = event(said, delta={"role": "assistant", "content": ""})
    calls = [event(said, delta={"tool_calls": [{"index": at, **call}]}) for at, call in enumerate(calls_of(said))]
    return [first, *(event(said, delta={"content": text}) for text in said.text), *calls]


def frame(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class PlayedEngine:
    """In the place of a model's process: ready at once, and answers at a socket of the suite's."""

    context = 256
    memory = 0

    def __init__(self, at: str) -> None:
        self.socket = at
        self._over = asyncio.Event()

    async def begin(self, progress: Callable[[float], None], timeout: float) -> None:
        progress(1.0)

    async def wait(self) -> None:
        await self._over.wait()

    def stop(self) -> None:
        self._over.set()


class PlayedHost(threading.Thread):
    """In the place of the process that keeps models: a thread, whose engines are played at one socket."""

    def __init__(self, folder: Path, engine: str) -> None:
        super().__init__(name=f"host in {folder}")
        self._folder = folder
        self._engine = engine
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(host_socket(folder)))
        self._sock.listen()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async def measured(_: object) -> None:
            return None

        host = Host(self._folder)
        host.manager = Manager(lambda _: PlayedEngine(self._engine), measured)
        await host.serve(self._sock)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Has engines played at a socket; all hosts end with their gateways."""
    hosts: list[PlayedHost] = []

    def at(engine: str) -> None:
        def begin(folder: Path) -> str:
            hosts.append(host := PlayedHost(folder, engine))
            host.start()
            return ""

        monkeypatch.setattr("gatehook_plugins.vendor_gguf.link._begin_host", begin)
        monkeypatch.setattr("gatehook_plugins.vendor_gguf.plugin.is_installed", lambda: True)  # it is not needed

    yield at
    for host in hosts:
        host.join(10)
    assert not [host for host in hosts if host.is_alive()]


class TestGGUF(VendorConformance):
    plugin = "vendor_gguf"
    label = "gguf"
    script = EngineScript()
    codes: Mapping[str, str] = {"internal": "engine_failed", "unavailable": "engine_busy"}
    samples: Mapping[str, Any] = {"chat_template_kwargs": {"calm": True}, "min_p": 0.1, "repeat_penalty": 1.2}
    upstream_model = "tiny"

    @pytest.fixture(autouse=True)
    def _with_a_model(self, tmp_path: Path, play: Callable[[str], None]) -> None:
        shutil.copy(TRAINED, tmp_path / "tiny.gguf")
        self.settings = f'[plugins.vendor_gguf]\nmodels_dir = "{tmp_path}"\n'
        self.uds = str(tmp_path / "engine")
        play(self.uds)


FRANCE = "What is the capital of France?"
LENGTH = len("The capital of France is Paris.")
"""Tokens of it: this model writes letter by letter."""


TWICE = {
    "parallel_tool_calls": True,
    "frequency_penalty": 2,
    "presence_penalty": 2,
    "logit_bias": {"2": -10, "321": -3},
}
"""Has it call a second time, for another city: it is loath to end (token 2), to say "Z" (321), and to repeat itself."""


class TrueEngine(Script):
    """Nobody tells a model what to say: it is asked in such a way that it says just this."""

    def plain(self, said: Said) -> Mapping[str, Any] | None:
        if said.finish == "content_filter":
            return None
        return {"embedding": True, "pooling": "mean"} if said.operation == "embeddings" else {}

    def stream(self, said: Said) -> Mapping[str, Any] | None:
        return self.plain(said)

    def asks(self, said: Said) -> Mapping[str, Any]:
        if said.calls:
            many = TWICE if len(said.calls) > 1 else {}
            return {"tools": [weather_in(said)], "tool_choice": "required", **many}
        if said.operation == "completions":
            return {"prompt": f"<|user|>{FRANCE}</s><|assistant|>", "max_tokens": 2 * LENGTH}
        return {"max_tokens": LENGTH} if said.finish == "length" else {}


def weather_in(said: Said) -> Mapping[str, Any]:
    """A tool that can only be called as it is in what is to be said."""
    cities = [json.loads(call.arguments)["city"] for call in said.calls]
    schema = {"type": "object", "properties": {"city": {"enum": cities}}, "required": ["city"]}
    function = {"name": "get_weather", "parameters": {**schema, "additionalProperties": False}}
    return {"type": "function", "function": function}


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
class TestGGUFWithItsEngine(VendorAnswers):
    """All that a trained model can be made to answer; what its engine refuses and survives, its own tests tell."""

    plugin = "vendor_gguf"
    label = "gguf"
    script = TrueEngine()
    is_real = True
    upstream_model = "tiny"
    deployment: Mapping[str, Any] = {"parameters": {"default_temperature": 0}}
    prompt = FRANCE
    says = ("The capital of France is Paris.",)

    # What it makes of tools' results nobody can tell; that they reach it, its own tests do.
    test_what_a_tool_gave_reaches_the_upstream = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True)
    def _with_a_model(self, tmp_path: Path) -> None:
        shutil.copy(TRAINED, tmp_path / "tiny.gguf")
        table = f'[plugins.vendor_gguf]\nmodels_dir = "{tmp_path}"\ncontext = 1024\nslots = 2\nthreads = 1\n'
        self.settings = table
