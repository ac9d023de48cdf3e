"""Changes of what has revisions over HTTP: which one a change was made of (RFC 9110, section 13)."""

import re
from typing import Final

from aiohttp import hdrs, web

from gatehook.errors import Conflict, InvalidRequest

__all__ = ["asked_revision", "changed_meanwhile"]

_REVISION: Final = re.compile(r"[0-9]{1,18}")
_NEVER: Final = -1
"""A revision that nothing is at."""


def asked_revision(request: web.Request, stated: object = None) -> int | None:
    """The revision that a change was made of: by `If-Match`, or as the body has `stated` it. None: whichever it is.

    Raises:
        InvalidRequest: the body does not state a number.
    """
    if stated is not None and (isinstance(stated, bool) or not isinstance(stated, int)):
        raise InvalidRequest("revision: expected a whole number", param="revision")
    if hdrs.IF_MATCH not in request.headers:
        return stated
    tags = request.if_match or ()
    if any(tag.value == "*" for tag in tags):
        return stated
    # Revisions only rise: of several, only the newest can be the one that holds.
    return max((int(tag.value) for tag in tags if not tag.is_weak and _REVISION.fullmatch(tag.value)), default=_NEVER)


def changed_meanwhile(request: web.Request, error: Conflict) -> Conflict:
    """The refusal of a change that was made of an older revision: 412 where `If-Match` told of it."""
    status = 412 if hdrs.IF_MATCH in request.headers and error.code == "revision_conflict" else error.status
    return Conflict(error.message, param=error.param, code=error.code, status=status)
