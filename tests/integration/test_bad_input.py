"""Whatever a client sends, it gets a 4xx in OpenAI's shape: no 500, no traceback and no key in any answer or log."""

import asyncio
import gzip
import json
import logging
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook.testing import StubUpstream

House = Callable[..., Any]
Wire = Any

USER: Any = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [USER]}
SECRETS = ("upstream-secret", "client-secret")
KEYS = {"keys": ["client-secret-0123456789"]}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


@pytest.fixture(autouse=True)
def _nothing_leaks(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.DEBUG)
    yield
    log = "\n".join(caplog.handler.format(record) for record in caplog.records)
    assert "Traceback" not in log
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], log
    assert not any(secret in log for secret in SECRETS)


def checked(status: int, answer: Any, *, expect: int | range = range(400, 500)) -> dict[str, Any]:
    """The error object, after everything that must hold for any."""
    assert status in (range(expect, expect + 1) if isinstance(expect, int) else expect), (status, answer)
    assert set(answer) == {"error"}
    error: dict[str, Any] = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    text = json.dumps(answer)
    assert "Traceback" not in text
    assert not re.search(r'File "|msgspec|aiohttp|site-packages|0x[0-9a-f]{8}', text)
    assert not any(secret in text for secret in SECRETS)
    return error


@pytest.fixture
async def home(house: House, openai_wire: Wire) -> AsyncIterator[Any]:
    async with (
        StubUpstream(openai_wire.text("never asked")) as stub,
        house(openai_wire.deployment(stub), server={"max_body": "1MB"}) as opened,
    ):
        yield opened
        assert not stub.requests, "a bad request reached the vendor"


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"   ",
    "no JSON": b"hello",
    "half": b'{"model":"m","messages":[{"role":"us',
    "two": b"{}{}",
    "NaN": b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "an array": b"[1,2]",
    "null": b"null",
    "a string": b'"x"',
    "empty": b"{}",
    "no UTF-8": b'{"model":"\xff\xfe"}',
    "no UTF-8 in an unknown field": b'{"model":"m","messages":[],"input":"x","prompt":"x","zz":"\xff"}',
    "UTF-16": json.dumps(CHAT).encode("utf-16"),
    "deep arrays": b'{"model":"m","messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deeper than the stack": b"[" * 900_000,
    "201 levels": b'{"model":"m","messages":[],"zz":' + b"[" * 201 + b"]" * 201 + b"}",
    "zero bytes": bytes(1000),
    "form data": b"model=m&messages=x",
    "XML": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>",
    "wrong types": b'{"model":{"$ne":1},"messages":"x","input":{},"prompt":{}}',
    "a model of many bytes": json.dumps({**CHAT, "model": "x" * 100_000, "input": "x"}).encode(),
    "a model with controls": json.dumps({**CHAT, "model": "m\r\nX: y\x00\x1b[31m", "input": "x"}).encode(),
    "a model of surrogates": b'{"model":"\\ud800","messages":[{"role":"user","content":"x"}],"input":"x"}',
    "an unknown model": json.dumps({**CHAT, "model": "../../etc/passwd", "input": "x"}).encode(),
}


@pytest.mark.parametrize("path", PATHS)
async def test_a_bad_body_is_a_4xx(home: Any, path: str) -> None:
    for name, body in BODIES.items():
        status, answer, headers = await home.ask(body, path=path)
        assert checked(status, answer), name
        assert headers["X-Request-ID"].startswith("req_")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/octet-stream", 415),
        ("nonsense", 415),
        (";;;", 415),
        ("application/json/x", 415),
        ("application/json; charset=utf-16", 400),
        ("application/json; charset=nonsense", 400),
        ("application/json", 400),
        ("APPLICATION/JSON", 400),
        ("application/vnd.api+json", 400),
    ],
)
async def test_only_json_is_read(home: Any, content_type: str, status: int) -> None:
    got, answer, _ = await home.ask({"model": "m"}, headers={"Content-Type": content_type})
    checked(got, answer, expect=status)


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/v1/models/m"])
async def test_a_wrong_method_is_a_405_that_names_the_right_one(home: Any, path: str) -> None:
    right = "GET, HEAD" if path.startswith("/v1/models") else "POST"
    for method in METHODS:
        async with home.http.request(method, home.url + path) as answer:
            if method in right:
                assert answer.status in (200, 400, 415), method
            else:
                assert (method, answer.status, answer.headers["Allow"]) == (method, 405, right)
                assert method == "HEAD" or checked(answer.status, await answer.json(), expect=405)


UNKNOWN = (
    "/", "/v1", "/v1/", "/v1/chat/completions/", "/v1/nothing", "//v1/chat/completions", "/v1/../etc/passwd", "/%00",
    "/%ff", "/%", "/%zz", "/v1/chat%2fcompletions", "/" + "x" * 20_000, "/?x=" + "y" * 20_000, "/Größe",
    "/v1/models%20", "/v1/chat/completions%20", "/" + "x" * 100_000,
    "/v1/messages/count_tokens", "/v1/audio/transcriptions",  # served by nobody: no number is better than a wrong one
)  # fmt: skip


async def test_an_unknown_path_is_a_4xx(home: Any) -> None:
    for path in UNKNOWN:
        sent = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        status, answer = await raw(home.port, sent)
        assert checked(status, answer), path


async def raw(port: int, sent: bytes) -> tuple[int, Any]:
    """The status and error of the first answer to any bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(head.split(" ")[1])
        length = int(re.search(r"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
        assert "content-type: application/json" in head.lower(), head
        body = await reader.readexactly(length)
    writer.close()
    return status, json.loads(body)


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
GARBAGE: dict[str, bytes] = {
    "bytes": b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n",
    "words": b"hello there\r\n\r\n",
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n",
    "no header name": POST + b": x\r\n\r\n",
    "a space in a header name": POST + b"Bad Name: x\r\n\r\n",
    "a zero in a header": POST + b"X: a\x00b\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": POST + b"Content-Length: -5\r\n\r\n",
    "a length that is none": POST + b"Content-Length: five\r\n\r\n",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "an unknown transfer encoding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "bad chunks": POST
    + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "an expectation": POST + b"Expect: the-inquisition\r\nContent-Length: 2\r\n\r\n{}",
    "a long request line": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "a long header": POST + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n",
    "a long header name": POST + b"X" * 100_000 + b": x\r\n\r\n",
    "a long authorization": POST + b"Authorization: Bearer client-secret-" + b"x" * 100_000 + b"\r\n\r\n",
    "a bad host": b"GET / HTTP/1.1\r\nHost: ][\r\n\r\n",
    "an absolute path elsewhere": b"GET http://elsewhere.test/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT elsewhere.test:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "an upgrade": POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}",
    "a bad cookie": POST + b"Cookie: \xff=\xff; ;;=;\r\nContent-Length: 2\r\n\r\n{}",
    "bytes in a header": POST + b"Authorization: Bearer \xff\xfe\xfd\r\nContent-Length: 2\r\n\r\n{}",
    "bad gzip": POST + b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    "an unknown encoding": POST
    + b"Content-Type: application/json\r\nContent-Encoding: zz\r\nContent-Length: 5\r\n\r\nhello",
}


async def test_what_is_no_http_is_a_4xx_in_the_same_shape_and_leaves_the_server_serving(home: Any) -> None:
    for name, sent in GARBAGE.items():
        status, answer = await raw(home.port, sent)
        assert checked(status, answer), name
    status, answer, _ = await home.ask({"model": "m"})
    assert checked(status, answer, expect=400)["param"] == "messages"


async def test_too_many_headers_are_told_as_such(home: Any) -> None:
    status, answer = await raw(home.port, POST + b"X: y\r\n" * 200 + b"\r\n")
    assert "too many headers" in checked(status, answer, expect=431)["message"]


async def test_an_encoding_that_cannot_be_undone_is_named(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiohttp.http_parser.HAS_BROTLI", False)
    head = POST + b"Content-Type: application/json\r\nContent-Encoding: br\r\nContent-Length: 5\r\n\r\n"
    status, answer = await raw(home.port, head + b"hello")
    assert "Content-Encoding" in checked(status, answer, expect=415)["message"]


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_bytes_are_answered_or_hung_up_on(home: Any, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
    writer.write(sent + b"\r\n\r\n")
    writer.write_eof()
    async with asyncio.timeout(5):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    writer.close()
    if answer:
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer


MEGABYTE = 1 << 20


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not(home: Any) -> None:
    body = b'{"model":"m"}'
    status, answer, _ = await home.ask(body + b" " * (MEGABYTE - len(body)))
    assert checked(status, answer, expect=400)["param"] == "messages"
    status, answer, _ = await home.ask(body + b" " * (MEGABYTE - len(body) + 1))
    assert checked(status, answer, expect=413)["code"] == "request_too_large"


async def test_a_chunked_body_over_the_limit_is_refused(home: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 100_000

    status, answer, _ = await chunked(home, endless())
    checked(status, answer, expect=413)


async def chunked(home: Any, body: AsyncIterator[bytes]) -> tuple[int, Any, Any]:
    headers = {"Content-Type": "application/json"}
    async with home.http.post(home.url + PATHS[0], data=body, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(home: Any) -> None:
    for encoding, packed in (
        ("gzip", gzip.compress(bytes(200 << 20))),
        ("x-gzip", gzip.compress(bytes(200 << 20))),
        ("gzip, gzip", gzip.compress(gzip.compress(bytes(200 << 20)))),
        ("deflate", zlib.compress(bytes(200 << 20))),
    ):
        assert len(packed) < MEGABYTE
        begun = time.process_time()
        status, answer, _ = await home.ask(packed, headers={"Content-Encoding": encoding})
        assert time.process_time() - begun < 5
        checked(status, answer, expect=413)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate, x-gzip", lambda body: gzip.compress(zlib.compress(body))),
        ("gzip, identity", gzip.compress),
        ("identity", bytes),
        ("utf-8", bytes),
    ],
)
async def test_a_packed_body_is_unpacked(home: Any, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    status, answer, _ = await home.ask(pack(b'{"model":"m"}'), headers={"Content-Encoding": encoding})
    assert checked(status, answer, expect=400)["param"] == "messages"


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body) * 2),
        ("deflate", zlib.compress),
        ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
    ],
)
async def test_a_packed_body_that_is_cut_is_refused_though_what_is_there_is_json(
    home: Any, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    for missing in (1, 4, 8):
        told, answer, _ = await home.ask(pack(b'{"model":"m"}')[:-missing], headers={"Content-Encoding": encoding})
        words = f"cannot be undone: {encoding.rpartition(' ')[2].removeprefix('x-')} ends too early"
        assert words in checked(told, answer, expect=400)["message"]


@pytest.mark.parametrize(
    ("encoding", "status", "words"),
    [
        ("gzip", 400, "cannot be undone: not gzip"),
        ("br", 415, "cannot be undone here; send it as it is, or as gzip"),
        ("x-gzip", 400, "cannot be undone: not gzip"),
        ("compress", 415, "not known here; send it as it is, or as gzip"),
        (", ".join(["gzip"] * 5), 415, "not known here"),
    ],
)
async def test_a_body_that_cannot_be_unpacked_is_refused_naming_why(
    home: Any, encoding: str, status: int, words: str
) -> None:
    told, answer, _ = await home.ask(b"\x1f\x9dpacked", headers={"Content-Encoding": encoding})
    assert words in checked(told, answer, expect=status)["message"]


async def test_a_body_that_is_not_packed_as_it_says_is_told_in_a_line(home: Any) -> None:
    status, answer, _ = await home.ask(b'{"model":"m"}', headers={"Content-Encoding": "gzip"})
    message = checked(status, answer, expect=400)["message"]
    assert message == (
        "the body cannot be read: its Content-Encoding cannot be undone: "
        "not gzip: Error -3 while decompressing data: incorrect header check"
    )


async def test_a_body_that_ends_too_early_disturbs_nobody(home: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
    writer.write(POST + b'Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"model"')
    await writer.drain()
    writer.close()
    assert await reader.read() == b""
    status, answer, _ = await home.ask({"model": "m"})
    checked(status, answer, expect=400)


async def test_a_large_honest_body_does_not_hold_up_the_loop(house: House, openai_wire: Wire) -> None:
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 12_000_000}}
    turns: Any = [{"role": "user", "content": [{"type": "text", "text": f"turn {n}"}]} for n in range(150)]
    body = json.dumps({**CHAT, "messages": [*turns, {"role": "user", "content": [image]}]}).encode()
    async with StubUpstream(openai_wire.text("fine")) as stub, house(openai_wire.deployment(stub)) as home:
        await home.ask()
        begun = time.process_time()
        status, _, _ = await home.ask(body)
        spent = time.process_time() - begun
    assert status == 200
    assert spent < 1, "a byte-by-byte loop in Python over the body takes longer than that"


async def test_a_wrong_key_is_a_401_and_is_not_repeated(house: House, openai_wire: Wire) -> None:
    shown = [
        {}, {"Authorization": "Bearer client-secret-wrong"}, {"Authorization": "Basic Y2xpZW50LXNlY3JldA=="},
        {"Authorization": "client-secret-0123456789"}, {"X-API-Key": "client-secret-0123456789x"},
        {"Authorization": "Bearer "}, {"Authorization": "Bearer client-secret-" + "x" * 20_000},
        {"Authorization": "Bearer größe"},
    ]  # fmt: skip
    async with (
        StubUpstream(openai_wire.text("never")) as stub,
        house(openai_wire.deployment(stub), plugin_auth_keys=KEYS) as home,
    ):
        for headers in shown:
            for path in PATHS:
                for body in (CHAT, b"garbage", b""):
                    status, answer, told = await home.ask(body, path=path, headers=headers)
                    assert checked(status, answer, expect=401)["type"] == "authentication_error"
                    assert told["WWW-Authenticate"] == "Bearer"
        assert not stub.requests


async def test_a_vendor_that_repeats_the_key_is_not_quoted(house: House, wire: Wire) -> None:
    leak = "wrong key upstream-secret-00112233445566778899 given"
    async with StubUpstream(wire.error(401, leak), wire.error(400, leak)) as stub, house(wire.deployment(stub)) as home:
        for expect in (502, 400):
            status, answer, _ = await home.ask()
            checked(status, answer, expect=expect)


# --- any JSON at all

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**30), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from(["", "m", "\ud83d", "user", "auto", "function", "data:image/png;base64,AA", "{}"]),
)  # fmt: skip
ANY: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":"b"}'}}
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
RICH: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s", "name": "n"},
        {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
        {"role": "user", "content": "u"},
    ],
    "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True,
    "max_tokens": 5, "temperature": 0.5, "top_p": 0.5,
    "stop": ["x"], "n": 1, "seed": 1, "user": "u", "metadata": {"a": "b"}, "logit_bias": {"1": 1}, "logprobs": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    "reasoning_effort": "low", "presence_penalty": 0.5, "frequency_penalty": 0.5, "stream": False,
    "service_tier": "auto", "modalities": ["text"], "zz_unknown": {"a": 1},
}  # fmt: skip
SEEDS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [RICH, CHAT, {**CHAT, "stream": True, "stream_options": {"include_usage": True}}],
    "/v1/completions": [
        {"model": "m", "prompt": "p", "max_tokens": 3, "stop": "x", "echo": False, "n": 1, "suffix": "s"}
    ],
    "/v1/embeddings": [{"model": "m", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2, "user": "u"}],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy with the member at `path` changed by `change(container, key)`."""
    copy: Any = json.loads(json.dumps({"root": value}))
    container, key = copy, "root"
    for step in path:
        container, key = container[key], step
    change(container, key)
    return copy.get("root")


@st.composite
def mutants(draw: st.DrawFn, seeds: list[dict[str, Any]]) -> Any:
    """A valid body with one to three places replaced, removed or doubled."""
    body: Any = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(body)))
        kind = draw(st.sampled_from(["replace", "replace", "remove", "wrap", "add"]))
        new = draw(ANY)

        def change(container: Any, key: Any, kind: str = kind, new: Any = new) -> None:
            if kind == "remove" and key != "root":
                del container[key]
            elif kind == "wrap":
                container[key] = [container[key], new]
            elif kind == "add" and isinstance(container[key], dict):
                container[key]["zz" if not isinstance(new, str) else new] = new
            else:
                container[key] = new

        body = changed(body, path, change)
    return body


@pytest.mark.parametrize("path", PATHS)
async def test_no_json_whatsoever_is_a_500(house: House, wire: Wire, path: str) -> None:
    """One gateway, a few hundred bodies: statuses below 500, and the shape of errors."""
    async with StubUpstream(wire.text("fine")) as stub, house(wire.deployment(stub)) as home:
        loop = asyncio.get_running_loop()
        found: list[tuple[int, Any, Any]] = []

        async def sent(body: Any) -> tuple[int, Any]:
            raw_body = json.dumps(body, ensure_ascii=True).encode()
            status, answer, _ = await home.ask(raw_body, path=path)
            return status, answer

        @given(mutants(SEEDS[path]))
        @settings(max_examples=110, deadline=None, suppress_health_check=list(HealthCheck))
        def every(body: Any) -> None:
            status, answer = asyncio.run_coroutine_threadsafe(sent(body), loop).result(10)
            if status >= 500 and status != 502:
                found.append((status, answer, body))
            streams = isinstance(body, dict) and body.get("stream") is True
            if status in (200, 502):
                # The stub answers each request with one plain chat answer, which fits neither a stream nor embeddings.
                assert status == 200 or streams or path != PATHS[0], (status, answer, body)
                if status == 502:
                    checked(status, answer, expect=502)
                    assert answer["error"]["code"] != "vendor_plugin_error", (answer, body)
            else:
                checked(status, answer)

        await asyncio.to_thread(every)
    assert not found


@pytest.mark.parametrize("path", PATHS)
async def test_no_json_whatsoever_is_a_500_with_the_mock(house: House, path: str) -> None:
    async with house({"name": "m", "vendor": "mock"}) as home:
        loop = asyncio.get_running_loop()

        @given(mutants(SEEDS[path]))
        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
        def every(body: Any) -> None:
            asking = home.ask(json.dumps(body).encode(), path=path)
            status, answer, headers = asyncio.run_coroutine_threadsafe(asking, loop).result(10)
            if status == 200:
                assert "error" not in (answer if isinstance(answer, dict) else {}), body
                assert headers["X-Gatehook-Deployment"].startswith("m")
            else:
                checked(status, answer)

        await asyncio.to_thread(every)
