"""Changes of the configuration over HTTP: who asks, for what, and of which revision (RFC 9110, section 13)."""

import re
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import hdrs, web

from gatehook import PRINCIPAL, Conflict, Directory, Unavailable, encode, read_body, read_object

__all__ = ["actor", "answer", "asked_revision", "changed_meanwhile", "opened", "read_changes"]

_TAG: Final = re.compile(r"[0-9]{1,18}")
_NEVER: Final = -1
"""A revision that nothing is at."""


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


def actor(request: web.Request) -> str:
    """Who makes a change, for the audit: the user, and by which key ("alice/KEY_ID")."""
    principal = request[PRINCIPAL]
    if not principal.key_id or principal.key_id == principal.id:
        return principal.id
    return f"{principal.id}/{principal.key_id}"


def asked_revision(request: web.Request) -> int | None:
    """The revision that the change was made of, by `If-Match`; None if it is for whichever there is."""
    if hdrs.IF_MATCH not in request.headers:
        return None
    tags = request.if_match or ()
    if any(tag.value == "*" for tag in tags):
        return None
    # Revisions only rise: of several, only the newest can be the one that holds.
    return max((int(tag.value) for tag in tags if not tag.is_weak and _TAG.fullmatch(tag.value)), default=_NEVER)


def changed_meanwhile(error: Conflict) -> Conflict:
    """412, as RFC 9110 has it for an `If-Match` that does not; the body tells a conflict."""
    return Conflict(error.message, status=412, code=error.code)


async def read_changes(request: web.Request) -> dict[str, Any]:
    """The body's JSON object.

    Raises:
        GatewayError: it is none, or its declaration says so; it is too large, or too slow.
    """
    return read_object(await read_body(request))


def answer(value: Mapping[str, Any], revision: int) -> web.Response:
    """What holds, and the revision of what was set, as its `ETag`."""
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "ETag": f'"{revision}"'}
    return web.Response(body=encode(value), headers=headers)
