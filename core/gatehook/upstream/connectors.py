"""What both ways to a vendor share of aiohttp's: its connectors, kinder to idle connections, its sockets, its TLS.

Servers take leave of idle connections (by a 408, or a stray chunk's end), and aiohttp would take that for the answer to
the next request: it looks at what has arrived when a connection is given back, but not when it is used again.
"""

import contextlib
import socket
import ssl
from typing import Any

import aiohttp
import aiohttp.connector
from aiohappyeyeballs import AddrInfoType

__all__ = ["TCPConnector", "UnixConnector", "kept_alive", "trusting"]

_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}
"""Seconds of silence until the other side is asked whether it is there, and until it is asked again; how often."""


class _Wary(aiohttp.BaseConnector):
    """Overrides a private method of aiohttp's; in a version without that, nothing calls this one."""

    async def _get(self, *what: Any) -> Any:
        while (connection := await super()._get(*what)) is not None:
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class TCPConnector(_Wary, aiohttp.TCPConnector):
    """See `aiohttp.TCPConnector`."""


class UnixConnector(_Wary, aiohttp.UnixConnector):
    """See `aiohttp.UnixConnector`."""


def kept_alive(address: AddrInfoType) -> socket.socket:
    """A socket for an address, on which the system asks a silent server now and then whether it is still there.

    A model may think for minutes before it says a word; routers and load balancers on the way forget connections on
    which nothing has passed for as long, and neither side would hear of it.
    """
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        with contextlib.suppress(AttributeError, OSError):  # not every system has, or allows, each of them
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def trusting(authorities: str) -> ssl.SSLContext:
    """How servers of vendors have to prove who they are.

    Args:
        authorities: certificates in PEM to trust beside the system's; "" for none.
    """
    if not authorities:  # aiohttp has read the system's already, which takes some time and memory
        theirs: ssl.SSLContext | None = getattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", None)
        if theirs is not None:
            return theirs
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if authorities:
        context.load_verify_locations(cadata=authorities)
    return context
