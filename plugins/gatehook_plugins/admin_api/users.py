"""/admin/users: who may use models, and how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gatehook import DIRECTORY, PRINCIPAL, QUOTAS, Caps, Limits, NotFound, User, dollars
from gatehook_plugins.admin_api.reading import body, path_id, query
from gatehook_plugins.admin_api.requests import NewUser, Page, UserChange
from gatehook_plugins.admin_api.routing import USER_ID, Handled
from gatehook_plugins.admin_api.shapes import answer, changes, limits_of, page, user_of
from gatehook_plugins.admin_api.values import now

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["UserRoutes"]

_PERIODS = ("all", "day", "month")


class UserRoutes:
    """Users and their quotas."""

    def __init__(self, gateway: Gateway) -> None:
        self._directory = gateway.services[DIRECTORY]
        self._services = gateway.services

    def routes(self) -> Iterable[Handled]:
        """Method, path, handler."""
        yield "GET", "/admin/users", self.list
        yield "POST", "/admin/users", self.create
        # As a pattern of its own, or somebody called "quota" could not be reached by the others.
        yield "POST", "/admin/users/{user_id:quota}", self.put
        for path in ("/admin/users/{user_id:quota}", f"/admin/users/{USER_ID}"):
            yield "GET", path, self.one
            yield "PATCH", path, self.change
            yield "DELETE", path, self.delete
        yield "GET", f"/admin/users/{USER_ID}/quota", self.quota

    async def list(self, request: web.Request) -> web.Response:
        """Users by id."""
        asked = query(request, Page)
        users = await self._directory.users(after=asked.after, limit=asked.limit + 1)
        return page([user_of(user) for user in users], asked.limit)

    async def create(self, request: web.Request) -> web.Response:
        """A new user: 201, or 409 if there is one."""
        asked = await body(request, NewUser)
        fields = changes(asked, now())
        limits, caps = Limits(**fields.pop("limits", {})), Caps(**fields.pop("caps", {}))
        user = User(id=asked.user_id, limits=limits, caps=caps, **fields)
        return answer(user_of(await self._directory.create_user(request[PRINCIPAL].actor, user)), 201)

    async def put(self, request: web.Request) -> web.Response:
        """A user with these fields, new or changed."""
        asked = await body(request, NewUser)
        return await self._change(request, asked.user_id, asked, create=True)

    async def one(self, request: web.Request) -> web.Response:
        """One user."""
        return answer(user_of(await self._known(path_id(request, "user_id"))))

    async def change(self, request: web.Request) -> web.Response:
        """Some of a user's fields."""
        return await self._change(request, path_id(request, "user_id"), await body(request, UserChange), create=False)

    async def _change(self, request: web.Request, user_id: str, asked: UserChange, *, create: bool) -> web.Response:
        fields = changes(asked, now())
        return answer(
            user_of(await self._directory.change_user(request[PRINCIPAL].actor, user_id, fields, create=create))
        )

    async def delete(self, request: web.Request) -> web.Response:
        """A user and its keys; what it used stays in the ledger."""
        user_id = path_id(request, "user_id")
        await self._directory.delete_user(request[PRINCIPAL].actor, user_id)
        return answer({"user_id": user_id, "deleted": True})

    async def quota(self, request: web.Request) -> web.Response:
        """What a user may use, has used, and has left; null where there is no cap, or nobody counts."""
        user = await self._known(path_id(request, "user_id"))
        used = await self._services[QUOTAS].used(user.id) if QUOTAS in self._services else None
        return answer({"user_id": user.id, **limits_of(user.limits), **_quota(user.caps, used)})

    async def _known(self, user_id: str) -> User:
        user = await self._directory.user(user_id)
        if user is None:
            raise NotFound(f"there is no user {user_id!r}", param="user_id", code="user_not_found")
        return user


def _quota(caps: Caps, used: Mapping[str, tuple[int, int]] | None) -> dict[str, Any]:
    tokens, budget = {}, {}
    for place, period in enumerate(_PERIODS):
        of_tokens, of_money = (None, None) if used is None else used[period]
        tokens[period] = _left(caps.of_tokens[place], of_tokens)
        money = _left(caps.of_money[place], of_money)
        budget[period] = {name: None if amount is None else dollars(amount) for name, amount in money.items()}
    return {"tokens": tokens, "budget": budget}


def _left(cap: int | None, used: int | None) -> dict[str, int | None]:
    remaining = None if cap is None or used is None else max(cap - used, 0)
    return {"cap": cap, "used": used, "remaining": remaining}
