"""Reading requests: bodies and queries into the types of `requests`, and every fault as a 4xx that names the field."""

import re
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from gatehook import InvalidRequest, read_as, read_body, read_query
from gatehook_plugins.admin_api.requests import MAX_ID, PLAIN

__all__ = ["body", "path_id", "query", "table"]

T = TypeVar("T", bound=msgspec.Struct)

_PLAIN = re.compile(PLAIN)


def path_id(request: web.Request, name: str) -> str:
    """The id in the path.

    Raises:
        InvalidRequest: it is too long for an id, or has control characters.
    """
    value = request.match_info[name]
    if len(value) > MAX_ID or not _PLAIN.match(value):
        raise InvalidRequest(f"{name}: at most {MAX_ID} characters, none of them a control character", param=name)
    return value


def query(request: web.Request, kind: type[T]) -> T:
    """The parameters after the "?", checked.

    Raises:
        InvalidRequest: one is wrong, unknown, or given twice.
    """
    return read_query(request.query, kind)


async def body(request: web.Request, kind: type[T], *, optional: bool = False) -> T:
    """The body, checked; if it is `optional`, none is an empty object.

    Raises:
        GatewayError: it is no JSON object, too large, or too slow to arrive; or a field is wrong, missing or unknown.
    """
    if optional and not request.can_read_body:
        return kind()
    return read_as(await read_body(request), kind)


async def table(request: web.Request) -> dict[str, Any]:
    """The body: any JSON object, whose fields somebody else checks.

    Raises:
        GatewayError: it is no JSON object, too large, or too slow to arrive.
    """
    return read_as(await read_body(request), dict[str, Any])
