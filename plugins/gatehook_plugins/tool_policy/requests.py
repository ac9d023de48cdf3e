"""What requests may hold, and reading them: every fault is a 4xx that names the field."""

from typing import Annotated, Any, Final, TypeVar

from aiohttp import web
from msgspec import Meta, Struct

from gatehook import read_as, read_body, read_query

__all__ = ["Confirm", "Deny", "asked_limit", "read"]

T = TypeVar("T", bound=Struct)

_PLAIN: Final = r"^[^\x00-\x1f\x7f\ud800-\udfff]*$"
"""No control characters, and nothing that is no text in UTF-8: databases take neither."""
_MOST: Final = 500

Id = Annotated[str, Meta(min_length=1, max_length=256, pattern=_PLAIN)]
Reason = Annotated[str, Meta(max_length=1000, pattern=_PLAIN)]


class Confirm(Struct, forbid_unknown_fields=True):
    """POST /v1/tools/confirm. `arguments` replaces those of approved calls, by id: an object, or its JSON text."""

    session_id: Id
    approved_ids: Annotated[list[str], Meta(max_length=128)]
    arguments: dict[str, dict[str, Any] | str] = {}
    reason: Reason = ""
    """Of the refusals; the model is told."""
    stream: bool = False


class Deny(Struct, forbid_unknown_fields=True):
    """POST /v1/tools/deny."""

    session_id: Id
    reason: Reason = ""
    stream: bool = False


async def read(request: web.Request, kind: type[T]) -> T:
    """The body, checked.

    Raises:
        GatewayError: no JSON object, or a field is wrong, missing or unknown; it is too large, or too slow.
    """
    return read_as(await read_body(request), kind)


class _Listing(Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=_MOST)] = 100


def asked_limit(request: web.Request) -> int:
    """How many of a list are wanted: `?limit=`.

    Raises:
        InvalidRequest: no number, or too many; or another parameter.
    """
    return read_query(request.query, _Listing).limit
