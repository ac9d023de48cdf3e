import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from gatehook import Chunk, Operation
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_bedrock.signing import Signer
from gatehook_bedrock.vendor import Bedrock


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AWS's own example key, and nothing of this machine's."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)


def _header(name: str, value: str) -> bytes:
    text = value.encode()
    return struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(text)) + text


def _message(headers: dict[str, str], payload: bytes) -> bytes:
    packed = b"".join(_header(f":{name}", value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    body = prelude + struct.pack("!I", crc32(prelude)) + packed + payload
    return body + struct.pack("!I", crc32(body))


@pytest.fixture
def events() -> Callable[..., bytes]:
    """Pairs of an event's type and its payload as AWS frames them; a type that ends in Exception is one."""

    def framed(*pairs: tuple[str, Any]) -> bytes:
        found = b""
        for kind, payload in pairs:
            failed = kind.endswith("Exception")
            headers = (
                {"message-type": "exception", "exception-type": kind}
                if failed
                else {"message-type": "event", "event-type": kind, "content-type": "application/json"}
            )
            found += _message(headers, json.dumps(payload).encode() if not isinstance(payload, bytes) else payload)
        return found

    return framed


@pytest.fixture
def bare() -> Callable[..., bytes]:
    """One message with these headers, and nothing in it."""
    return lambda headers: _message({name.removeprefix(":"): value for name, value in headers.items()}, b"")


@pytest.fixture
def asked() -> Callable[..., Any]:
    """What the vendor sends for a plain request, what it gives, and the attempt with what it tells as lost."""

    async def ask(payload: dict[str, Any], *replies: Any, operation: Operation = "chat", **target: Any) -> Any:
        egress = ReplayEgress(*(Replay(json.dumps(reply).encode()) for reply in replies))
        fields = {"vendor": "bedrock", "model": "anthropic.claude-x-v1:0"} | target
        one = attempt({"model": "m", **payload}, operation=operation, **fields)
        completion = await Bedrock(egress, Signer()).complete(one)
        return egress.requests, completion, one

    return ask


@pytest.fixture
def streamed() -> Callable[..., Any]:
    """All chunks of a streamed answer that arrives in these pieces, and the attempt."""

    signer = Signer()

    async def run(pieces: Sequence[bytes], operation: Operation = "chat", **more: Any) -> tuple[list[Chunk], Any]:
        asked = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", **more}
        one = attempt({"model": "m", "stream": True, **asked}, operation=operation, vendor="bedrock")
        replay = Replay(pieces, content_type="application/vnd.amazon.eventstream")
        vendor = Bedrock(ReplayEgress(replay), signer, "us-east-1")
        return [chunk async for batch in vendor.stream(one) for chunk in batch], one

    return run
