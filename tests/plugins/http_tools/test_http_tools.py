"""Declared tools against a real server: what is sent, what the model is told, and what may not be asked."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import Call
from gatehook.app import Gateway
from gatehook.config.settings import load
from gatehook.errors import StartupError
from gatehook.model import ToolCall
from gatehook.testing import Reply, StubUpstream, built, serving

SECRET = "token-nobody-may-see"


def table(**fields: Any) -> str:
    """Settings with one tool "t"."""
    fields = {"description": "Does.", **fields}
    return "[plugins.http_tools.tools.t]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in fields.items())


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


@contextlib.asynccontextmanager
async def tool(reply: Reply, path: str = "/x", **fields: Any) -> AsyncIterator[Any]:
    """Runs the tool "t" of a real gateway against a server that gives this reply."""
    async with StubUpstream(reply) as stub, serving(table(url=stub.url + path, **fields)) as served:
        own = served.gateway.pipeline.concerns.own_tools
        assert own is not None

        async def run(**arguments: Any) -> str:
            call = ToolCall("c", "t", json.dumps(arguments))
            return await own.execute(Call("chat", "test", {}, model="m"), call)

        run.stub = stub  # type: ignore[attr-defined]
        yield run


ANY: dict[str, Any] = {"properties": {"a": {}, "b": {}, "c": {}}}


async def test_the_arguments_of_the_url_are_texts_that_must_be_given_if_nothing_else_is_said() -> None:
    async with tool(Reply(b"sunny", content_type="text/plain"), "/v1/{city}?units=si") as run:
        assert await run(city="São Paulo") == "sunny"
        assert (await run()).startswith("error: the call is invalid: the arguments: 'city' is a required property")
        assert (await run(city="a", x=1)).startswith("error: the call is invalid: the arguments: 'x' is not expected")
        assert await run(city="a/b") == "error: city: must not hold '/', '\\' or control characters"
    (request,) = run.stub.requests
    assert (request.method, request.path, request.body) == ("GET", "/v1/S%C3%A3o%20Paulo?units=si", b"")


async def test_what_is_left_goes_into_the_query_of_a_get() -> None:
    async with tool(Reply(b"ok"), "/{a}", parameters={**ANY, "required": ["a"]}) as run:
        await run(a="p", b=[1, 2], c="x&y=z")
    assert run.stub.requests[0].path == "/p?b=1&b=2&c=x%26y%3Dz"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_what_is_left_goes_as_json_with_other_methods(method: str) -> None:
    parameters = {**ANY, "required": ["a"]}
    async with tool(Reply(b"ok"), "/{a}", method=method, parameters=parameters, query=["b"]) as run:
        await run(a="p", b=1, c={"deep": ["x"]})
    (request,) = run.stub.requests
    assert (request.method, request.path, request.json) == (method, "/p?b=1", {"c": {"deep": ["x"]}})
    assert request.headers["content-type"] == "application/json"


async def test_the_headers_are_the_operator_s_and_no_argument_adds_one() -> None:
    headers = {"Authorization": f"Bearer {SECRET}", "X-Team": "weather-team"}
    async with tool(Reply(b"ok"), "/?q={q}", headers=headers) as run:
        assert await run(q="x\r\nX-Evil: 1") == "ok"
    (request,) = run.stub.requests
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert "x-evil" not in request.headers
    assert request.path == "/?q=x%0D%0AX-Evil%3A%201"


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_no_secret_is_told_to_the_model_or_the_log(status: int, caplog: pytest.LogCaptureFixture) -> None:
    body = f"you sent Bearer {SECRET}, that is {SECRET}, as application/json".encode()
    headers = {"Authorization": f"Bearer {SECRET}", "Accept": "application/json"}
    async with tool(Reply(body, status=status), headers=headers) as run:
        told = await run()
    assert SECRET not in told + caplog.text
    assert "as application/json" in told


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(b'{"a": 1}'), '{"a": 1}'),
        (Reply(b"", status=201), "(done, 201)"),
        (Reply(b"gr\xfc\xdfe", content_type="text/plain; charset=ISO-8859-1"), "grüße"),
        (Reply(b"gr\xfc", content_type="text/plain; charset=none-such"), "gr�"),
        (Reply(b"\x89PNG\r\n", content_type="image/png"), "[not a text: image/png, 6 bytes]"),
        (Reply(b"a\0b", content_type="text/plain"), "[not a text: text/plain, 3 bytes]"),
        (Reply(b"x" * 2000, content_type="text/plain"), "x" * 1024 + "\n[cut: 1024 bytes of more]"),
        (
            Reply([b"x" * 1024, b"y"], end="silence", content_type="text/plain"),
            "x" * 1024 + "\n[cut: 1024 bytes of more]",
        ),
        (Reply(b"no such city", status=404), "error: t: answered 404: no such city"),
        (Reply(b"", status=302, headers={"Location": "http://127.0.0.1/"}), "error: t: answered 302: "),
        (Reply(b"half", end="cut"), "error: tool t: "),
        (Reply(status=0, end="close"), "error: tool t: "),
    ],
)
async def test_what_the_model_is_told_of_an_answer(reply: Reply, told: str) -> None:
    async with tool(reply, max_result="1KB") as run:
        answer = await run()
    assert answer.startswith(told)
    assert told.startswith("error: tool") or answer == told


async def test_a_server_that_is_away_or_silent_is_told_and_the_timeout_holds() -> None:
    async with tool(Reply(end="silence", status=0), timeout=0.1) as run:
        assert await run() == "error: t: no answer within 0.1 s"
        await run.stub.closed_early.wait()


async def test_an_answer_without_end_is_cut_and_its_line_closed() -> None:
    async with tool(Reply([b"x" * 4096, b"y"], end="silence"), max_result="1KB") as run:
        assert "[cut: 1024 bytes of more]" in await run()
        await run.stub.closed_early.wait()


# --- who chooses the host ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["{url}", "http://{host}:80/"])
@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "localhost", "10.0.0.1", "2130706433"])
async def test_where_an_argument_chooses_the_host_it_cannot_be_a_private_one(url: str, host: str) -> None:
    async with serving(table(url=url)) as served:
        own = served.gateway.pipeline.concerns.own_tools
        assert own is not None
        arguments = {"url": f"http://{host}/"} if url == "{url}" else {"host": host}
        call = ToolCall("c", "t", json.dumps(arguments))
        told = await own.execute(Call("chat", "test", {}, model="m"), call)
    assert told.startswith("error: ")
    assert "public" in told


async def test_where_an_argument_chooses_the_host_it_is_fetched_as_clients_urls_are() -> None:
    reply = Reply(b"a page", content_type="text/html")
    settings = table(url="{url}") + "[egress]\nallow_private_urls = true\n"
    async with StubUpstream(reply) as stub, serving(settings) as served:
        own = served.gateway.pipeline.concerns.own_tools
        assert own is not None
        call = ToolCall("c", "t", json.dumps({"url": f"{stub.url}/a/../b"}))
        assert await own.execute(Call("chat", "test", {}, model="m"), call) == "a page"
        for wrong in ("file:///etc/passwd", "http://u:p@h/", "nonsense"):
            call = ToolCall("c", "t", json.dumps({"url": wrong}))
            assert (await own.execute(Call("chat", "test", {}, model="m"), call)).startswith("error: url: ")


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "no-address"}, "url: must be an"),
        (
            {"url": "https://h/{a}", "parameters": ANY},
            "parameters: 'a' stands in the url, and must be among the required",
        ),
        ({"url": "https://h/", "query": ["z"]}, "parameters: 'z' is used, and must be among the properties"),
        ({"url": "https://h/?a=1", "parameters": ANY}, "parameters: 'a' stands in the url's query already"),
        ({"url": "https://{h}/", "method": "POST"}, "method must be GET"),
        ({"url": "https://{h}/", "headers": {"X-Key": "value"}}, "headers: would be sent to whatever host"),
        ({"url": "https://h/", "headers": {"Host": "other"}}, "'Host' is not a header that can be set"),
        ({"url": "https://h/", "headers": {"X": "a\r\nY: b"}}, "holds what cannot be sent in a header"),
        ({"url": "https://h/", "method": "TRACE"}, "method"),
        ({"url": "https://h/", "parameters": {"properties": 1}}, "must be a JSON Schema of an object"),
        ({"url": "https://h/", "parameters": {"properties": {"a": {"type": "no"}}}}, "'no' is not valid"),
        ({"url": "https://h/", "description": ""}, "description"),
        ({"url": "https://h/", "surprise": 1}, "surprise"),
    ],
)
def test_a_table_that_makes_no_sense_is_a_start_up_error_that_says_where(fields: Mapping[str, Any], says: str) -> None:
    with pytest.raises(StartupError) as caught:
        built(table(**fields))
    (fault,) = caught.value.faults
    assert says in fault
    assert "t" in fault


def test_a_name_that_no_model_takes_is_a_start_up_error() -> None:
    with pytest.raises(StartupError, match="a name has 1 to 64 letters"):
        built('[plugins.http_tools.tools."get weather"]\ndescription = "x"\nurl = "https://h/"\n')


def test_the_schema_may_be_a_file_and_the_headers_secrets(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"q": {"type": "integer"}}, "required": ["q"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    text = table(url="https://h/{q}", parameters="file:schema.json", headers={"X-Key": "env:TOOL_KEY"})
    (tmp_path / "settings.toml").write_text(text)
    gateway = Gateway(load(tmp_path / "settings.toml", environ={"TOOL_KEY": SECRET}))
    ((_, one),) = gateway.plugins.collect("register_tools", gateway=gateway)
    assert one.parameters == {**schema, "additionalProperties": False}
    assert one._headers == {"X-Key": SECRET}
    assert SECRET not in repr(gateway.settings)
    (tmp_path / "schema.json").write_text("{ no")
    with pytest.raises(StartupError, match="the file is not valid JSON"):
        Gateway(load(tmp_path / "settings.toml", environ={"TOOL_KEY": SECRET}))


async def test_only_the_models_that_it_names_are_told_of_it() -> None:
    async with StubUpstream(Reply.of_json({"choices": []})) as stub, ClientSession() as session:
        models = "".join(
            f'[[models]]\nname = "{name}"\nvendor = "openai"\nbase_url = "{stub.url}"\naliases = ["{name}-alias"]\n'
            for name in ("big-1", "small")
        )
        settings = "[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_openai]\n[failover]\nretries = 0\n"
        settings += table(url=f"{stub.url}/x", models=["big-*"]) + models
        async with serving(settings) as served:
            for model in ("big-1", "big-1-alias", "small", "small-alias"):
                body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
                async with session.post(f"{served.url}/v1/chat/completions", json=body):
                    pass
    assert ["tools" in request.json for request in stub.requests] == [True, True, False, False]


async def test_a_call_that_is_cancelled_closes_its_line() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await reader.read()
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, serving(table(url=url)) as served:
        own = served.gateway.pipeline.concerns.own_tools
        assert own is not None
        running = asyncio.create_task(own.execute(Call("chat", "test", {}, model="m"), ToolCall("c", "t", "{}")))
        await arrived.wait()
        running.cancel()
        await asyncio.wait([running])
        await gone.wait()


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("shown", range(1, len(SECRET) + 8, 5))
async def test_half_a_secret_is_not_told_where_an_answer_is_cut(status: int, shown: int) -> None:
    body = b"x" * ((1024 if status == 200 else 2000) - shown) + SECRET.encode() + b"y" * 500
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with tool(Reply(body, status=status, content_type="text/plain"), headers=headers, max_result="1KB") as run:
        told = await run()
    rest = told.rpartition("xxx")[2].partition("\n")[0]
    assert rest.startswith("[redacted]") or "[redacted]".startswith(rest)


async def test_a_secret_that_begins_like_another_and_an_empty_header_leave_nothing_of_it() -> None:
    headers = {"X-A": SECRET, "X-B": SECRET + "-of-the-other", "X-C": ""}
    async with tool(Reply(f"a {SECRET}-of-the-other b".encode()), headers=headers) as run:
        assert await run() == "a [redacted] b"
