"""aiohttp's connectors, which give out no connection on which something has come that nobody asked for.

Servers say goodbye to idle connections (a 408, a stray chunk's end), and aiohttp's pool would take that for the answer
to the next request. It looks at what has come when a connection is given back, and this when it is to serve again.
"""

from typing import Any

import aiohttp

__all__ = ["TCPConnector", "UnixConnector"]


class _Wary(aiohttp.BaseConnector):
    """Where aiohttp has no such method, nothing calls this one."""

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
