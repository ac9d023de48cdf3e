"""A page for people at /dashboard: what is used and costs, how quick it is, and how the models do.

The page itself holds nothing and is open to everybody. In the browser it asks the Multi-LLM API and /health, with the
key that its reader types: so it shows exactly what that key may see, to an admin what everybody uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gatehook import Route, Section, hookimpl

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["Dashboard"]

_KINDS: Final = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    # Only what comes from here runs, and asks only here; nobody frames the page, where a key is typed.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Dashboard:
    """Serves the files of the page."""

    class Settings(Section):
        """[plugins.dashboard]."""

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's."""

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """The page, and what it is made of."""
        files = {one.name: one.read_bytes() for one in Path(__file__).parent.iterdir() if one.suffix in _KINDS}

        async def page(request: web.Request) -> web.Response:
            """A page for people: what is used and costs, how quick it is, and how the models do."""
            return _answer(files, "page.html")

        async def part(request: web.Request) -> web.StreamResponse:
            """A style or script of the page."""
            name = request.match_info["part"]
            return _answer(files, name) if name in files else await gateway.nothing_here(request)

        yield Route("GET", "/dashboard", page, auth=False)
        yield Route("GET", "/dashboard/{part}", part, auth=False)


def _answer(files: Mapping[str, bytes], name: str) -> web.Response:
    kind = _KINDS[Path(name).suffix]
    return web.Response(body=files[name], content_type=kind, charset="utf-8", headers=_HEADERS)
