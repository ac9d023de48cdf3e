"""Tools of real MCP servers in processes of their own, over streamable HTTP and over pipes."""

import ast
import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import ClientSession

from gatehook import Call
from gatehook.errors import StartupError
from gatehook.model import ToolCall
from gatehook.testing import Served, built, serving
from gatehook_plugins.mcp_tools.tool import named

HERE = Path(__file__).parent
REAL, OLD = str(HERE / "real_server.py"), str(HERE / "old_server.py")


class Said(logging.Handler):
    """Lets a test wait for what the plugin logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put_nowait(record.getMessage())

    async def until(self, *words: str) -> str:
        """The next line that holds all of these."""
        while True:
            line = await self.lines.get()
            if all(word in line for word in words):
                return line


@pytest.fixture
def said() -> Iterator[Said]:
    handler, log = Said(), logging.getLogger("gatehook.mcp_tools")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield handler
    log.setLevel(before)
    log.removeHandler(handler)


@contextlib.contextmanager
def real_server(port: int) -> Iterator[None]:
    """The official library's server over HTTP; it answers when this is entered."""
    words = [sys.executable, REAL, "http", str(port)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        try:
            while b"running on" not in (line := process.stderr.readline()):
                assert line, "the server has ended"
            yield
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def real_url(free_port: Callable[[], int]) -> Iterator[str]:
    """The address of such a server."""
    port = free_port()
    with real_server(port):
        yield f"http://127.0.0.1:{port}/mcp"


def pipes(script: str = REAL, **fields: Any) -> str:
    """Settings with the server "s" over pipes."""
    return table(command=[sys.executable, script, "stdio"], **fields)


def table(**fields: Any) -> str:
    return "[plugins.mcp_tools.servers.s]\n" + "".join(f"{key} = {toml(one)}\n" for key, one in fields.items())


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def names(served: Served, model: str = "m") -> list[str]:
    """What a model is told of now."""
    own = served.gateway.pipeline.concerns.own_tools
    assert own is not None
    return [tool.name for tool in own._for(Call("chat", "test", {}, model=model))]


async def run(served: Served, name: str, /, **arguments: Any) -> str:
    own = served.gateway.pipeline.concerns.own_tools
    assert own is not None
    return await own.execute(Call("chat", "test", {}, model="m"), ToolCall("c", name, json.dumps(arguments)))


@pytest.fixture
async def real(real_url: str) -> AsyncIterator[Served]:
    """A gateway with the official library's server over HTTP."""
    async with serving(table(url=real_url, required=True)) as served:
        yield served


async def test_tools_are_offered_under_names_that_models_take_and_called_by_their_own(real: Served) -> None:
    told = names(real)
    assert told[:2] == ["s__add", "s__say"]
    (deletes,) = [name for name in told if "delete" in name]
    assert len(deletes) == 64
    assert await run(real, deletes) == "gone"
    assert json.loads(await run(real, "s__add", a=2, b=3)) == {"sum": 5}
    assert await run(real, "s__say", text="grüße \U0001f600") == "grüße \U0001f600"


@pytest.mark.parametrize("transport", ["http", "pipes"])
async def test_half_a_character_is_refused_and_the_connection_lives(transport: str, real_url: str) -> None:
    """Models write half of what takes two at times; the library would take the connection down for everybody."""
    settings = table(url=real_url, required=True) if transport == "http" else pipes(required=True)
    async with serving(settings) as served:
        assert await run(served, "s__say", text="\ud83d") == "error: an argument is not valid Unicode"
        assert await run(served, "s__say", text="still here") == "still here"


async def test_what_is_no_text_is_named(real: Served) -> None:
    assert await run(real, "s__picture") == "look:\n[image: image/png, 100 bytes]"


async def test_an_error_of_a_tool_is_told_and_arguments_are_checked_before(real: Served) -> None:
    assert "no luck" in await run(real, "s__fail", reason="no luck")
    assert (await run(real, "s__fail", reason="x")).startswith("error: ")
    assert (await run(real, "s__add", a="two", b=3)).startswith("error: the call is invalid: a: 'two' is not")


async def test_a_list_that_changes_is_heard_of(real: Served, said: Said) -> None:
    assert await run(real, "s__learn") == "learned"
    await said.until("mcp server 's'", "tool")
    assert "s__learned" in names(real)
    assert await run(real, "s__learned") == "new"
    assert await run(real, "s__learn") == "learned"
    await said.until("mcp server 's'", "tool")
    assert "s__learned" not in names(real)


async def test_a_call_can_be_given_up_and_the_next_one_works(real: Served) -> None:
    waiting = asyncio.create_task(run(real, "s__wait"))
    assert await run(real, "s__say", text="meanwhile") == "meanwhile"
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert await run(real, "s__say", text="again") == "again"


async def test_the_same_over_pipes_and_a_program_that_ends_is_begun_again(said: Said) -> None:
    async with serving(pipes(required=True)) as served:
        await said.until("tools")
        assert json.loads(await run(served, "s__add", a=2, b=3)) == {"sum": 5}
        assert await run(served, "s__learn") == "learned"
        await said.until("tools")
        assert await run(served, "s__learned") == "new"
        waiting = asyncio.create_task(run(served, "s__wait"))
        assert (await run(served, "s__end")).startswith("error: s: ")
        assert (await waiting).startswith("error: s: "), "a running call fails with the connection"
        await said.until("is away", "the connection was closed")
        assert names(served) == []
        await said.until("tools")
        assert await run(served, "s__say", text="back") == "back"


async def test_a_server_that_goes_away_and_comes_back_has_its_tools_again(
    said: Said, free_port: Callable[[], int]
) -> None:
    port = free_port()
    settings = table(url=f"http://127.0.0.1:{port}/mcp", required=True)
    async with contextlib.AsyncExitStack() as stack:
        with real_server(port):
            served = await stack.enter_async_context(serving(settings))
            await said.until("tools")
        assert (await run(served, "s__say", text="x")).startswith("error: s: ")
        await said.until("is away")
        assert names(served) == []
        with real_server(port):
            await said.until("tools")
            assert await run(served, "s__say", text="back") == "back"


async def test_a_slow_call_is_told_as_such_and_does_not_lose_the_connection(real_url: str, said: Said) -> None:
    async with serving(table(url=real_url, required=True, timeout=1.5)) as served:
        await said.until("tools")
        assert await run(served, "s__wait") == "error: s: no answer within 1.5 s"
        assert await run(served, "s__say", text="there") == "there"
    assert said.lines.empty()


async def test_a_stop_is_not_told_as_a_loss(real_url: str, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    async def changed(self: object, seconds: float) -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # as the library does now and then
            raise anyio.BrokenResourceError from None
        return True

    monkeypatch.setattr("gatehook_plugins.mcp_tools.server._Connection.changed", changed)
    async with serving(table(url=real_url, required=True)):
        await said.until("tools")
    assert said.lines.empty()


# --- the older protocol -----------------------------------------------------------------------------------------------


async def test_a_server_of_the_older_protocol_pages_and_tells_of_changes(said: Said) -> None:
    async with serving(pipes(OLD, required=True)) as served:
        await said.until("two tools would be called 's__fi_rst'", "'fi rst' is left out")
        await said.until("2 tools")
        assert names(served) == ["s__first", "s__fi_rst"]
        assert await run(served, "s__first", text="hi") == "hi"
        await said.until("3 tools")
        assert names(served) == ["s__first", "s__fi_rst", "s__second"]


async def test_a_pattern_of_a_server_s_schema_cannot_hang_the_gateway(said: Said) -> None:
    async with serving(pipes(OLD, required=True)) as served:
        text = "a" * 60 + "!"  # with the pattern (a+)+$ it would take longer than the universe is old
        assert await run(served, "s__first", text=text) == text


# --- starting and ending ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://127.0.0.1:1/mcp"},
        {"command": ["/no/such/program"]},
        {"command": [sys.executable, "-c", "print('this is no MCP')"]},
        {"command": [sys.executable, "-c", "import sys; sys.stdin.read()"], "connect_timeout": 0.3},
    ],
)
async def test_a_server_that_is_away_hinders_nobody_unless_it_is_required(fields: Any, said: Said) -> None:
    async with serving(table(**fields)) as served:
        await said.until("mcp server 's' is away: ")
        assert names(served) == []
    with pytest.raises(StartupError, match="the MCP server 's', which is required, cannot be reached: "):
        async with serving(table(**fields, required=True)):
            pass


async def test_a_program_ends_with_the_gateway_and_gets_its_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_GATEWAY", "nobody may see")
    script = "import os, pathlib, runpy; pathlib.Path('seen').write_text(str([os.getpid(), dict(os.environ)])); "
    script += f"runpy.run_path({OLD!r})"
    fields = {"env": {"GIVEN": "to the program"}, "cwd": str(tmp_path)}
    async with serving(table(command=[sys.executable, "-c", script], required=True, **fields)):
        pid, environment = ast.literal_eval((tmp_path / "seen").read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert environment["GIVEN"] == "to the program"
    assert environment["PATH"] == os.environ["PATH"]
    assert "SECRET_OF_THE_GATEWAY" not in environment


async def test_include_exclude_prefix_and_models_say_who_is_told_of_what() -> None:
    rest: dict[str, Any] = {"include": ["fi*"], "exclude": ["fi[. ]*"], "prefix": "", "models": ["big-*"]}
    async with serving(pipes(OLD, required=True, **rest)) as served:
        assert names(served, "big-1") == ["first"]
        assert names(served, "small") == []


async def test_headers_are_sent(real_url: str) -> None:
    settings = table(url=real_url, headers={"Authorization": "Bearer a-token-for-the-server"}, required=True)
    async with serving(settings) as served:
        assert await run(served, "s__header", name="authorization") == "Bearer a-token-for-the-server"
        assert "a-token-for-the-server" not in repr(served.gateway.settings)


async def test_a_chat_s_model_calls_a_server_s_tool(real_url: str) -> None:
    options = (
        '{ script = [{ tool_calls = [{ name = "s__add", arguments = { a = 2, b = 3 } }] }, { text = "It is 5." }] }'
    )
    settings = "".join(f"[plugins.{name}]\n" for name in ("openai_api", "route_models", "vendor_mock"))
    settings += f'[[models]]\nname = "m"\nvendor = "mock"\noptions = {options}\n' + table(url=real_url, required=True)
    async with serving(settings) as served, ClientSession() as session:
        body = {"model": "m", "messages": [{"role": "user", "content": "2 + 3?"}]}
        async with session.post(f"{served.url}/v1/chat/completions", json=body) as answer:
            assert (await answer.json())["choices"][0]["message"]["content"] == "It is 5."


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "needs either a url or a command"),
        ({"url": "http://h/", "command": ["x"]}, "needs either a url or a command"),
        ({"url": "nonsense"}, "must be an address"),
        ({"url": "http://u:p@h/"}, "without a user name"),
        ({"command": ["x"], "headers": {"A": "b"}}, "headers: are for a url"),
        ({"url": "http://h/", "env": {"A": "b"}}, "env and cwd are for a command"),
        ({"url": "http://h/", "headers": {"A": "b\r\nC: d"}}, "cannot be sent in a header"),
        ({"command": []}, "needs either a url or a command"),
        ({"command": [""]}, "command"),
    ],
)
def test_a_table_that_makes_no_sense_is_a_start_up_error(fields: Any, says: str) -> None:
    with pytest.raises(StartupError) as caught:
        built(table(**fields))
    assert says in caught.value.faults[0]


@pytest.mark.parametrize(
    ("prefix", "own", "name"),
    [
        ("s", "add", "s__add"),
        ("", "add", "add"),
        ("my server", "a.b/c", "my_server__a_b_c"),
        ("s", "ü", "s___"),
    ],
)
def test_names_are_made_of_what_models_take(prefix: str, own: str, name: str) -> None:
    assert named(prefix, own) == name


def test_long_names_stay_apart() -> None:
    one, other = named("s", "x" * 80 + "1"), named("s", "x" * 80 + "2")
    assert len(one) == len(other) == 64
    assert one != other
