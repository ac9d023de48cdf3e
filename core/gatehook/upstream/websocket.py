"""A WebSocket to a vendor, as `Egress.websocket` opens it."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import aiohttp

from gatehook.errors import UpstreamError

__all__ = ["WebSocket", "no_redirects"]


class WebSocket:
    """An open WebSocket: iterate for its messages, texts and bytes. Leaving its context closes it."""

    __slots__ = ("_socket", "_vendor")

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, vendor: str) -> None:
        """`vendor` is named in messages."""
        self._socket = socket
        self._vendor = vendor

    async def send(self, text: str) -> None:
        """Send one text.

        Raises:
            UpstreamError: the line was cut.
        """
        try:
            await self._socket.send_str(text)
        except (aiohttp.ClientError, OSError):
            raise self._cut() from None

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """The messages, until either side closes.

        Raises:
            UpstreamError: the line was cut, or a message is larger than `egress.max_response`.
        """
        async for message in self._socket:
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                yield message.data
            elif message.type is aiohttp.WSMsgType.ERROR:
                raise self._cut()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()

    def _cut(self) -> UpstreamError:
        return UpstreamError(f"{self._vendor}: the WebSocket was cut, or a message on it was too large")


def no_redirects() -> aiohttp.TraceConfig:
    """Ends a request that is redirected; aiohttp has no other way for WebSockets."""

    async def refuse(*about: object) -> None:
        raise aiohttp.ClientError("answered with a redirect")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace
