"""aiohttp's connectors, without idle connections on which something unasked has arrived.

Servers take leave of idle connections (by a 408, or a stray chunk's end), and aiohttp would take that for the answer to
the next request: it looks at what has arrived when a connection is given back, but not when it is used again.
"""

from typing import Any

import aiohttp

__all__ = ["TCPConnector", "UnixConnector"]


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
