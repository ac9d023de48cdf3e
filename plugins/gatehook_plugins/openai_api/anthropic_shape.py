"""The list of models for Anthropic's clients, which ask for it at the same path (`anthropic.types.ModelInfo`)."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from aiohttp import web
from msgspec import Meta, Struct
from multidict import MultiDict

from gatehook import GatewayError, InvalidRequest, Target, encode, fitted, next_id, read_query

__all__ = ["answer", "asks_for_it", "errors_for", "listed", "model", "page"]

_JSON: Final = {"Content-Type": "application/json"}
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "overloaded_error"}
_LONGEST: Final = 1000
_OVERLOADED: Final = 529
"""The status by which these clients know a 503."""


class PageQuery(Struct):
    """Which models a client asks for."""

    limit: Annotated[int, Meta(ge=1, le=_LONGEST)] = _LONGEST  # not Anthropic's 20: many clients read one page only
    after_id: str = ""
    before_id: str = ""


class StageQuery(Struct):
    """In which stages of their lives the models are; none is the same as `active`, as all are that can be called."""

    lifecycle: list[Literal["active", "deprecated", "retired"]] = []


def asks_for_it(request: web.Request) -> bool:
    """Whether a request comes from such a client: all of them name the version of their API."""
    return "anthropic-version" in request.headers


def answer(value: Any) -> web.Response:
    """An answer, with the header in which these clients look for the id of their request."""
    request_id = next_id()
    return web.Response(body=encode(value), headers={**_JSON, "X-Request-ID": request_id, "request-id": request_id})


def errors_for(request: web.Request) -> Callable[[GatewayError], web.Response] | None:
    """What answers with an error in the shape that such a client knows; None for others."""
    return _error if asks_for_it(request) else None


def _error(error: GatewayError) -> web.Response:
    other = "invalid_request_error" if error.status < 500 else "api_error"
    told = {"type": _TYPES.get(error.status, other), "message": error.message}
    return web.Response(
        status=_OVERLOADED if error.status == 503 else error.status,
        body=encode({"type": "error", "error": told, "request_id": error.request_id}),
        headers={**_JSON, "request-id": error.request_id},
    )


def page(request: web.Request, names: Sequence[str]) -> tuple[Sequence[str], bool]:
    """The models of the page that a request asks for, and whether there are more in the direction that it goes.

    Raises:
        InvalidRequest: a parameter is wrong.
    """
    # The SDKs add others (beta=true), which change nothing here.
    known = MultiDict((name, value) for name, value in request.query.items() if name in PageQuery.__struct_fields__)
    asked = read_query(known, PageQuery)
    stages = [*request.query.getall("lifecycle[]", ()), *request.query.getall("lifecycle", ())]  # the SDKs' name first
    if stages and "active" not in fitted({"lifecycle": stages}, StageQuery).lifecycle:
        names = []
    if asked.after_id and asked.before_id:
        raise InvalidRequest("before_id: cannot be given together with after_id", param="before_id")
    if asked.before_id:
        names = names[: _place(names, asked.before_id, "before_id")]
        return names[-asked.limit :], len(names) > asked.limit
    if asked.after_id:
        names = names[_place(names, asked.after_id, "after_id") + 1 :]
    return names[: asked.limit], len(names) > asked.limit


def _place(names: Sequence[str], name: str, param: str) -> int:
    if name not in names:
        raise InvalidRequest(f"{param}: there is no model {name[:64]!r} in the list", param=param)
    return names.index(name)


def listed(models: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """One page of the list."""
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {"first_id": None, "last_id": None}
    return {"data": models, "has_more": has_more, **ends}


def model(name: str, group: Sequence[Target], created: int) -> dict[str, Any]:
    """One model, as its first deployment has it; `created` is in epoch seconds."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": group[0].context_window,
        "max_tokens": group[0].max_tokens,
    }
