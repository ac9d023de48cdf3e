"""Changes of the configuration over HTTP: where they are kept, what is asked, and the answer."""

import contextlib
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gatehook import Directory, Unavailable, encode, read_body, read_object

__all__ = ["answer", "opened", "read_changes", "refreshed"]


def opened(directory: Directory | None) -> Directory:
    """Where changes are kept.

    Raises:
        Unavailable: nowhere.
    """
    if directory is None:
        raise Unavailable(
            "what is configured while the gateway runs is kept in the database; enable [plugins.database], or change "
            "the settings file",
            code="database_disabled",
        )
    return directory


async def refreshed(directory: Directory | None) -> None:
    """Have it know what was changed through other processes, so that everybody is shown the same.

    While the database is away, what is known holds, and is shown.
    """
    if directory is not None:
        with contextlib.suppress(Unavailable):
            await directory.refresh()


async def read_changes(request: web.Request) -> dict[str, Any]:
    """The body's JSON object.

    Raises:
        GatewayError: it is no JSON object, or declared as something else; it is too large, or too slow to arrive.
    """
    return read_object(await read_body(request))


def answer(value: Mapping[str, Any], revision: int) -> web.Response:
    """What holds, and the revision of what was set, as its `ETag`."""
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "ETag": f'"{revision}"'}
    return web.Response(body=encode(value), headers=headers)
