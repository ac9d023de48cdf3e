"""The body of a request: read in time and within its bounds, and checked as far as it can be before it is parsed."""

import asyncio

from aiohttp import hdrs, web
from aiohttp.http_exceptions import ContentEncodingError

from gatehook.calls.stages import Concerns
from gatehook.calls.usual import JSON, Usual
from gatehook.codings import NotEncoded, TooLong, codings, inflated
from gatehook.errors import BodyTooLarge, GatewayError, InvalidRequest, RequestTimeout, UnsupportedMediaType
from gatehook.jsonio import MalformedJSON, check_depth

__all__ = ["check_body", "check_type", "is_cut", "read_body"]


async def read_body(request: web.Request, concerns: Concerns) -> bytes:
    """The request's body, once it has arrived.

    Raises:
        BodyTooLarge, InvalidRequest, RequestTimeout: too large, broken off, too slow.
        UnsupportedMediaType: its Content-Encoding is not known here.
    """
    try:
        with concerns.deadlines.watch(concerns.read_timeout, _body_too_slow):
            body = await request.read()
        if hdrs.CONTENT_ENCODING in request.headers:
            return await _undone(request, body, concerns.max_body)
        return body
    except (web.HTTPRequestEntityTooLarge, TooLong):
        raise _too_large(concerns) from None
    except (web.RequestPayloadError, ConnectionError, ValueError) as error:
        why = " ".join(str(error).removeprefix("400, message:").split())  # aiohttp tells parser errors on two lines
        raise InvalidRequest(f"the body cannot be read: {why}") from None


def is_cut(request: web.Request, error: BaseException) -> bool:
    """Whether an exception is a shutdown's, whose time is up while the body still arrives.

    aiohttp then lets it be raised where the body is read, before it cancels the task.
    """
    return isinstance(error, asyncio.CancelledError) and error is request.content.exception()


async def _undone(request: web.Request, body: bytes, most: int) -> bytes:
    """A body without its encodings."""
    encodings = codings(request.headers.getall(hdrs.CONTENT_ENCODING))
    if encodings is None and body.lstrip()[:1] != b"{":  # some say "utf-8"
        raise UnsupportedMediaType("the body's Content-Encoding is not known here; send it as it is, or as gzip")
    try:
        return await asyncio.to_thread(inflated, body, encodings, most) if encodings else body
    except NotEncoded as error:
        raise InvalidRequest(f"the body cannot be read: its Content-Encoding cannot be undone: {error}") from None
    except ContentEncodingError:
        raise UnsupportedMediaType(
            "the body's Content-Encoding cannot be undone here; send it as it is, or as gzip"
        ) from None


def check_type(request: web.Request) -> None:
    """Check that the body is declared as JSON, or not at all.

    Raises:
        UnsupportedMediaType: it is not.
    """
    if isinstance(request, Usual) and request.is_json:
        return
    declared = request.headers.get(hdrs.CONTENT_TYPE, JSON)
    if declared != JSON and not (request.content_type == JSON or request.content_type.endswith("+json")):
        raise UnsupportedMediaType(f"Content-Type is {request.content_type!r}; send application/json")


def check_body(body: bytes, concerns: Concerns) -> None:
    """Check what can be told of a body before it is parsed.

    Raises:
        BodyTooLarge, InvalidRequest: too large, empty, too deep.
    """
    if len(body) > concerns.max_body:
        raise _too_large(concerns)
    if not body:
        raise InvalidRequest("the body is empty; send a JSON object")
    try:
        check_depth(body)
    except MalformedJSON as error:
        raise InvalidRequest(f"the body is {error}", code="invalid_json") from None


def _too_large(concerns: Concerns) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {concerns.max_body} bytes (server.max_body)")


def _body_too_slow() -> GatewayError:
    return RequestTimeout("the body did not arrive in time (server.read_timeout)")
