"""/admin/reload: new settings, or a newly installed plugin, taken over without a restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import web

from gatehook import InvalidRequest, StartupError
from gatehook_plugins.admin_api.routing import Handled
from gatehook_plugins.admin_api.shapes import answer

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["LifecycleRoutes"]


class LifecycleRoutes:
    """The gateway's own processes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> Iterable[Handled]:
        """Method, path, handler."""
        yield "POST", "/admin/reload", self.reload

    async def reload(self, request: web.Request) -> web.Response:
        """Reload the settings; answers once the new processes serve, or have been found unable to.

        Raises:
            InvalidRequest: what is wrong with the settings; the old ones stay in force.
            Unavailable: the gateway runs without a parent process.
        """
        try:
            serving = await self._gateway.reload()
        except StartupError as error:
            faults = "; ".join(error.faults)
            raise InvalidRequest(f"the old settings stay in force: {faults}", code="invalid_settings") from None
        return answer({"object": "reload", **serving})
