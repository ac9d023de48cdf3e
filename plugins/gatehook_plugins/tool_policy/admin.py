"""GET and PUT /admin/tools/policy: rules that are set while the gateway runs, beside those of the settings."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct
from pydantic import ValidationError

from gatehook import PRINCIPAL, Conflict, Directory, InvalidRequest, Route, asked_revision, changed_meanwhile, encode
from gatehook_plugins.tool_policy.requests import read
from gatehook_plugins.tool_policy.standing import NAME, Configured, Standing

__all__ = ["PolicyRoutes"]


class Policy(Struct, forbid_unknown_fields=True):
    """The body of a PUT; what its rules look like is the concern of `Configured`."""

    default: Any = None
    rules: list[Any] = []


class PolicyRoutes:
    """The handlers, for admins."""

    def __init__(self, directory: Directory, standing: Standing) -> None:
        self._directory = directory
        self._standing = standing

    def routes(self) -> Iterable[Route]:
        """Both of them."""
        yield Route("GET", "/admin/tools/policy", self.get, auth="admin")
        yield Route("PUT", "/admin/tools/policy", self.put, auth="admin")

    async def get(self, request: web.Request) -> web.Response:
        """What is set here, and beside it what the settings say."""
        return self._answer(*self._directory.config(NAME))

    async def put(self, request: web.Request) -> web.Response:
        """Set the rules, in place of those set here before, and a default in place of the settings' (null: theirs).

        Raises:
            InvalidRequest: an invalid rule. Conflict: it is not what `If-Match` says.
            Unavailable: the database is away.
        """
        asked = await read(request, Policy)
        try:
            configured = Configured.model_validate(msgspec.structs.asdict(asked))
        except ValidationError as error:
            raise _misfit(error) from None
        value = configured.model_dump(mode="json")
        try:
            actor, revision = request[PRINCIPAL].actor, asked_revision(request)
            told = await self._directory.put_config(actor, NAME, value, revision=revision)
        except Conflict as error:
            raise changed_meanwhile(request, error) from None
        return self._answer(*told)

    def _answer(self, value: Mapping[str, Any], revision: int) -> web.Response:
        shown = {"default": value.get("default"), "rules": value.get("rules", []), "settings": self._standing.shown()}
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "ETag": f'"{revision}"'}
        return web.Response(body=encode(shown), headers=headers)


def _misfit(error: ValidationError) -> InvalidRequest:
    """The first fault, with its place."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"]).lstrip(".")[:200]
    what = "no such field" if fault["type"] == "extra_forbidden" else fault["msg"][:1].lower() + fault["msg"][1:]
    return InvalidRequest(f"{path}: {what}", param=path, code="invalid_value")
