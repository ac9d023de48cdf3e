"""Opens the connections of the short way, with TLS where the address asks for it."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from aiohappyeyeballs import AddrInfoType, start_connection

from gatehook.upstream.connectors import kept_alive

__all__ = ["Dialer", "Origin"]

_NEXT_ADDRESS = 0.25
"""Seconds until the next address of a name is tried beside one that does not answer (RFC 8305)."""


class Origin(NamedTuple):
    """Where requests go; connections to one origin serve each other's requests."""

    host: str
    """Or the path of a Unix socket, which begins with a slash."""
    port: int = 0
    tls: bool = False


class Dialer:
    """Connects to origins. How TLS is verified is up to its context."""

    def __init__(self, timeout: float, tls: ssl.SSLContext) -> None:
        """`timeout` is in seconds, for everything until requests can be sent: name, connection, handshake."""
        self._timeout = timeout
        self._tls = tls
        self._lookups: dict[tuple[str, int], asyncio.Task[Sequence[AddrInfoType]]] = {}

    async def dial(self, origin: Origin, protocol: asyncio.Protocol) -> None:
        """Connect a protocol to an origin.

        Raises:
            OSError, TimeoutError: it cannot be reached, or not in time; an `ssl.SSLError` is an OSError.
            ValueError: no host can have that name.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeout):
            if origin.host.startswith("/"):
                await loop.create_unix_connection(lambda: protocol, origin.host)
                return
            addresses = await self._addresses(origin.host, origin.port)
            connected = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS, socket_factory=kept_alive)
            await loop.create_connection(
                lambda: protocol,
                sock=connected,
                ssl=self._tls if origin.tls else None,
                server_hostname=origin.host.rstrip(".") if origin.tls else None,
                ssl_handshake_timeout=self._timeout if origin.tls else None,
            )

    async def _addresses(self, host: str, port: int) -> Sequence[AddrInfoType]:
        """The addresses of a name, which is looked up once for all who ask at the same time, as after an outage."""
        lookup = self._lookups.get((host, port))
        if lookup is None:
            lookup = self._lookups[host, port] = asyncio.create_task(self._look_up(host, port))
            lookup.add_done_callback(_retrieved)
        await asyncio.wait([lookup])  # who stops waiting does not end it for the others
        return lookup.result()

    async def _look_up(self, host: str, port: int) -> Sequence[AddrInfoType]:
        try:
            return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        finally:
            del self._lookups[host, port]


def _retrieved(lookup: "asyncio.Task[Sequence[AddrInfoType]]") -> None:
    """Look at how it ended: if nobody waits for it any more, asyncio would log its error."""
    if not lookup.cancelled():
        lookup.exception()
