"""Reading requests: bodies and queries into the types of `requests`, and every fault as a 4xx that names the field."""

import re
from typing import Any, TypeVar

import msgspec
from aiohttp import hdrs, web

from gatehook import PRINCIPAL, Conflict, InvalidRequest, MalformedJSON, decode, misfit, read_body
from gatehook_plugins.admin_api.requests import MAX_ID, PLAIN

__all__ = ["actor", "asked_revision", "body", "changed_meanwhile", "path_id", "query", "table"]

T = TypeVar("T", bound=msgspec.Struct)

_PLAIN = re.compile(PLAIN)
_REVISION = re.compile(r"[0-9]{1,18}")


def actor(request: web.Request) -> str:
    """Who makes a change, for the audit: the user, and by which key ("alice/KEY_ID")."""
    principal = request[PRINCIPAL]
    if not principal.key_id or principal.key_id == principal.id:
        return principal.id
    return f"{principal.id}/{principal.key_id}"


def path_id(request: web.Request, name: str) -> str:
    """The id in the path.

    Raises:
        InvalidRequest: nothing can have it.
    """
    value = request.match_info[name]
    if len(value) > MAX_ID or not _PLAIN.match(value):
        raise InvalidRequest(f"{name}: at most {MAX_ID} characters, none of them a control character", param=name)
    return value


def query(request: web.Request, kind: type[T]) -> T:
    """The parameters after the "?".

    Raises:
        InvalidRequest: one is wrong, unknown, or given twice.
    """
    given = request.query
    for name in given:
        if len(given.getall(name)) > 1:
            raise InvalidRequest(f"{name[:64]}: given more than once", param=name[:64])
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise misfit(error, kind.__struct_fields__) from None


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
    # Revisions only rise: of several, only the newest can be the one that holds. Nothing is ever at -1.
    return max((int(tag.value) for tag in tags if not tag.is_weak and _REVISION.fullmatch(tag.value)), default=-1)


def changed_meanwhile(request: web.Request, error: Conflict) -> Conflict:
    """The refusal of a change that was made of an older revision: 412 where `If-Match` told of it (RFC 9110)."""
    status = 412 if hdrs.IF_MATCH in request.headers and error.code == "revision_conflict" else error.status
    return Conflict(error.message, param=error.param, code=error.code, status=status)


async def body(request: web.Request, kind: type[T]) -> T:
    """The body, checked.

    Raises:
        GatewayError: no JSON object, or a field is wrong, missing or unknown; it is too large, or too slow.
    """
    raw = await read_body(request)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise misfit(error, kind.__struct_fields__) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _malformed(raw) from None


async def table(request: web.Request) -> dict[str, Any]:
    """The body: any JSON object, whose fields somebody else checks.

    Raises:
        GatewayError: it is none; it is too large, or too slow.
    """
    raw = await read_body(request)
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.ValidationError:
        raise InvalidRequest("the body: expected an object") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _malformed(raw) from None


def _malformed(raw: bytes) -> InvalidRequest:
    """What is wrong with a text that msgspec could not read; the slow reader tells more, or takes what is no text."""
    try:
        decode(raw)
    except MalformedJSON as error:
        return InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json")
    return InvalidRequest("the body holds half of a surrogate pair, which is no text", code="invalid_json")
