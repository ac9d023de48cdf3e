"""/admin/keys, and the keys of one user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import web

from gatehook import DIRECTORY, PRINCIPAL, Limits, NotFound
from gatehook_plugins.admin_api.reading import body, path_id, query
from gatehook_plugins.admin_api.requests import KeyChange, KeyPage, NewKey, Page, Rotation
from gatehook_plugins.admin_api.routing import USER_ID, Handled
from gatehook_plugins.admin_api.shapes import answer, changes, key_of, page
from gatehook_plugins.admin_api.values import now

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["KeyRoutes"]


class KeyRoutes:
    """Keys: what they are is told once, when they are made."""

    def __init__(self, gateway: Gateway) -> None:
        self._directory = gateway.services[DIRECTORY]

    def routes(self) -> Iterable[Handled]:
        """Method, path, handler."""
        yield "GET", f"/admin/users/{USER_ID}/keys", self.of_user
        yield "POST", f"/admin/users/{USER_ID}/keys", self.create
        yield "GET", "/admin/keys", self.list
        yield "PATCH", "/admin/keys/{key_id}", self.change
        yield "DELETE", "/admin/keys/{key_id}", self.revoke
        yield "POST", "/admin/keys/{key_id}/rotate", self.rotate

    async def list(self, request: web.Request) -> web.Response:
        """Keys by id, of everybody or of one user."""
        asked = query(request, KeyPage)
        return await self._page(asked.user_id, asked)

    async def of_user(self, request: web.Request) -> web.Response:
        """The keys of one user."""
        user_id = path_id(request, "user_id")
        if await self._directory.user(user_id) is None:
            raise NotFound(f"there is no user {user_id!r}", param="user_id", code="user_not_found")
        return await self._page(user_id, query(request, Page))

    async def _page(self, user_id: str | None, asked: Page) -> web.Response:
        keys = await self._directory.keys(user_id, after=asked.after, limit=asked.limit + 1)
        return page([key_of(key) for key in keys], asked.limit)

    async def create(self, request: web.Request) -> web.Response:
        """A new key of a user: 201, with the key itself this once."""
        user_id, asked = path_id(request, "user_id"), await body(request, NewKey, optional=True)
        fields = changes(asked, now())
        limits = Limits(**fields.pop("limits", {}))
        key, text = await self._directory.create_key(request[PRINCIPAL].actor, user_id, limits=limits, **fields)
        return answer({**key_of(key), "key": text}, 201)

    async def change(self, request: web.Request) -> web.Response:
        """Some of a key's fields."""
        key_id, asked = path_id(request, "key_id"), await body(request, KeyChange)
        return answer(key_of(await self._directory.change_key(request[PRINCIPAL].actor, key_id, changes(asked, now()))))

    async def rotate(self, request: web.Request) -> web.Response:
        """A new key in place of one, which stays good for `overlap_seconds`: 201, with the new key this once."""
        key_id, asked = path_id(request, "key_id"), await body(request, Rotation, optional=True)
        key, text = await self._directory.rotate_key(request[PRINCIPAL].actor, key_id, overlap=asked.overlap_seconds)
        return answer({**key_of(key), "key": text, "replaces": key_id}, 201)

    async def revoke(self, request: web.Request) -> web.Response:
        """A key's end: within a second no process accepts it."""
        key_id = path_id(request, "key_id")
        await self._directory.revoke_key(request[PRINCIPAL].actor, key_id)
        return answer({"key_id": key_id, "deleted": True})
