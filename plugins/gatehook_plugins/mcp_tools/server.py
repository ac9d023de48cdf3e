"""A connection to one MCP server, kept by one task of its own: made, refreshed, and made again when it is lost.

The library's contexts have to be entered and left by the same task; calls may come from any.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from gatehook import StartupError, UpstreamError, UpstreamTimeout, counted, redact
from gatehook_plugins.mcp_tools.tool import McpTool, tools_of

if TYPE_CHECKING:
    import mcp_types as types
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters

    from gatehook_plugins.mcp_tools.declared import Declared

__all__ = ["McpServer"]

log = logging.getLogger("gatehook.mcp_tools")

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 60.0
"""Seconds between two tries to connect; each wait is twice as long as the one before, with jitter."""
_MOST_PAGES: Final = 50
"""Pages of one list of tools; a list that goes on for ever is cut."""


class McpServer:
    """Knows the tools of one server; none while it is away."""

    def __init__(self, name: str, declared: Declared) -> None:
        """Does nothing before `begin`."""
        self.tools: Sequence[McpTool] = ()
        self.declared = declared
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._tried: asyncio.Future[str] | None = None
        """Done after the first try to connect: "", or why it failed."""
        self._wait = _FIRST_WAIT

    def begin(self) -> None:
        """Connect, in a task of its own, and stay connected."""
        self._tried = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep(), name=f"mcp {self._name}")

    async def end(self) -> None:
        """Disconnect; running calls fail."""
        task, self._task = self._task, None
        while task is not None and not task.done():
            task.cancel()  # the library may turn a cancellation into a failure of its own, and the task go on
            await asyncio.wait([task], timeout=1)

    async def required(self) -> None:
        """Wait for the first try to connect.

        Raises:
            StartupError: it failed.
        """
        assert self._tried is not None, "begin() comes first"  # noqa: S101
        if reason := await asyncio.shield(self._tried):
            raise StartupError(f"the MCP server {self._name!r}, which is required, cannot be reached: {reason}")

    async def _keep(self) -> None:
        away = False
        while self._task is not None:
            reason = await self._stay()
            self.tools = ()
            if self._tried is not None and not self._tried.done():
                self._tried.set_result(reason)
            if self._task is None:
                return  # it was ended: what the library makes of the cancellation is no loss
            away = away and self._wait > _FIRST_WAIT
            log.log(logging.DEBUG if away else logging.WARNING, "mcp server %r is away: %s", self._name, reason)
            away = True
            await asyncio.sleep(self._wait * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            self._wait = min(2 * self._wait, _LONGEST_WAIT)

    async def _stay(self) -> str:
        """Connect, and stay until the connection is lost; gives why."""
        try:
            connection = _Connection(self._name, self.declared)
            async with connection:
                await self._refresh(connection)
                while await connection.changed(self.declared.refresh):
                    await self._refresh(connection)
            return "the connection was closed"
        except Exception as error:  # noqa: BLE001  # the library, and what is below it, raise many things
            return redact(_words(error), self.declared.secrets())

    async def _refresh(self, connection: _Connection) -> None:
        async with asyncio.timeout(self.declared.connect_timeout):
            listed = await connection.listed()
        tools = tools_of(listed, self._name, self.declared, connection)
        if [one.name for one in tools] != [one.name for one in self.tools]:
            log.info("mcp server %r: %s", self._name, counted(len(tools), "tool"))
        self.tools = tools
        self._wait = _FIRST_WAIT
        if self._tried is not None and not self._tried.done():
            self._tried.set_result("")


class _Connection:
    """One session with a server, entered and left by one task."""

    def __init__(self, name: str, declared: Declared) -> None:
        self._name = name
        self._declared = declared
        self._stack = contextlib.AsyncExitStack()
        self._news = asyncio.Event()
        """Set when the tools are to be listed anew: they have changed, or a call failed and the server may be gone."""
        self._lost = False
        self._client: Client | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            # asyncio's timeout, not anyio's: the scopes that are entered here outlive it.
            async with asyncio.timeout(self._declared.connect_timeout):
                self._client = await self._stack.enter_async_context(await self._made())
        except BaseException:
            await self._stack.aclose()
            raise
        self._listening = asyncio.create_task(self._listen(self._client))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        listening = self._listening
        assert listening is not None, "it was entered"  # noqa: S101
        listening.cancel()
        try:
            # First of all, and with the error: where the library has cancelled this task for a failure of its own, any
            # other wait would be cancelled too, and only the library can tell such a cancellation from a real one.
            return await self._stack.__aexit__(kind, error, trace)
        finally:
            await asyncio.wait([listening])

    async def _made(self) -> Client:
        """The library's client, not connected yet."""
        from mcp import Client

        transport = await self._over_http() if self._declared.url else self._over_pipes()
        timeout = self._declared.timeout
        return Client(transport, read_timeout_seconds=timeout, message_handler=self._heard, cache=None)

    async def _over_http(self) -> Any:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        headers = {name: value.get_secret_value() for name, value in self._declared.headers.items()}
        # Nothing else: a stream that tells of changes may be silent for ever, and calls have limits of their own.
        timeout = httpx2.Timeout(None, connect=self._declared.connect_timeout)
        client = await self._stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=timeout))
        return streamable_http_client(self._declared.url, http_client=client)

    def _over_pipes(self) -> Any:
        from mcp.client.stdio import StdioServerParameters

        command, *words = self._declared.command
        env = {name: value.get_secret_value() for name, value in self._declared.env.items()}
        cwd = self._declared.cwd or None
        return _watched(StdioServerParameters(command=command, args=words, env=env, cwd=cwd), self._ended)

    async def _heard(self, message: object) -> None:
        """Take a message that a server of the older protocol sends without being asked."""
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            self._news.set()

    async def _listen(self, client: Client) -> None:
        """Subscribe to changes at a server of the newer protocol; one that offers none is only asked now and then."""
        from mcp.client.subscriptions import ListenNotSupportedError

        while True:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    self._news.set()  # changes before this are not reported
                    async for _ in changes:
                        self._news.set()
            except ListenNotSupportedError:
                return
            except Exception as error:  # noqa: BLE001  # the library, and what is below it, raise many things
                log.debug("mcp server %r tells of no changes: %s", self._name, _words(error))
            await asyncio.sleep(self._declared.refresh)

    def _ended(self) -> None:
        """Note that the program has ended, or closed its output."""
        self._lost = True
        self._news.set()

    async def changed(self, seconds: float) -> bool:
        """Wait for news, but not longer than so many seconds; False if the connection is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()
        return not self._lost

    async def listed(self) -> Sequence[types.Tool]:
        """The server's tools."""
        assert self._client is not None, "enter the connection first"  # noqa: S101
        tools: list[types.Tool] = []
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
        return tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> types.CallToolResult:
        """See `Session.call`."""
        assert self._client is not None, "enter the connection first"  # noqa: S101
        timeout = self._declared.timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._client.call_tool(name, dict(arguments))
        except TimeoutError:
            self._news.set()
            raise UpstreamTimeout(f"{self._name}: no answer within {timeout:g} s") from None
        except Exception as error:  # noqa: BLE001  # the library, and what is below it, raise many things
            self._news.set()  # see whether the server is there
            raise UpstreamError(f"{self._name}: {redact(_words(error), self._declared.secrets())}") from None


@contextlib.asynccontextmanager
async def _watched(parameters: StdioServerParameters, ended: Callable[[], None]) -> AsyncIterator[Any]:
    """The library's transport to a program; `ended` is called when the program says nothing more."""
    from mcp.client.stdio import stdio_client

    # Its default is what stderr was when the library was loaded, which may be closed by now.
    async with stdio_client(parameters, errlog=sys.__stderr__ or sys.stderr) as (read, write):
        yield _Watched(read, ended), write


class _Watched:
    """A stream that calls `ended` at its end."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._tell = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._stream.__aexit__(*raised)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._stream)
        except BaseException:
            self._tell()
            raise


def _words(error: BaseException) -> str:
    """What went wrong: the first of several errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return str(error) or type(error).__name__
