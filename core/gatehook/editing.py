"""Conditional changes over HTTP: which revision of a thing a change was made from (RFC 9110, section 13)."""

import re
from typing import Final

from aiohttp import hdrs, web

from gatehook.errors import Conflict, InvalidRequest

__all__ = ["asked_revision", "changed_meanwhile"]

_REVISION: Final = re.compile(r"[0-9]{1,18}")
_NEVER: Final = -1
"""A revision that nothing ever has."""


def asked_revision(request: web.Request, stated: object = None) -> int | None:
    """The revision that a change was made from, as `If-Match` says, or as `stated` in the body; None: any revision.

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
    # Revisions only rise: of several, only the highest can be the current one.
    return max((int(tag.value) for tag in tags if not tag.is_weak and _REVISION.fullmatch(tag.value)), default=_NEVER)


def changed_meanwhile(request: web.Request, error: Conflict) -> Conflict:
    """The refusal of a change that was made from an older revision: with status 412 where `If-Match` asked for it."""
    status = 412 if hdrs.IF_MATCH in request.headers and error.code == "revision_conflict" else error.status
    return Conflict(error.message, param=error.param, code=error.code, status=status)
