"""The 404 for an unknown path. Most such paths come from a base URL with a part too many, or a part missing."""

import re
from collections.abc import Sequence

from gatehook.errors import NotFound
from gatehook.protocols import Endpoint, Route

__all__ = ["unknown_path"]

_INDEX = "/openapi.json"


def unknown_path(method: str, path: str, routes: Sequence[Route | Endpoint]) -> NotFound:
    """The 404, which suggests the path that was probably meant, or says where all paths are listed.

    Args:
        method: the request's.
        path: the request's, as the client wrote it.
        routes: all routes there are.
    """
    wanted = "GET" if method == "HEAD" else method
    known = [route for route in routes if route.method == wanted]
    nearest = _nearest(re.sub(r"/+", "/", path).rstrip("/").lower(), known)
    if nearest:
        hint = f"; use {method} {nearest}"
    else:
        hint = f"; GET {_INDEX} tells what there is" if any(route.path == _INDEX for route in routes) else ""
    return NotFound(f"there is nothing at {method} {path}{hint}", code="unknown_path")


def _nearest(asked: str, known: Sequence[Route | Endpoint]) -> str:
    """The known path most like `asked`; "" if there is none.

    That is the one that replaces it (`Endpoint.instead_of`), else the longest that it ends with, else the shortest that
    ends with it, else one whose end it repeats ("/v1/models/models").
    """
    for route in known:
        if isinstance(route, Endpoint) and asked in route.instead_of:
            return route.path
    paths = sorted((route.path for route in known if "{" not in route.path), key=len)
    longest = (path for path in reversed(paths) if asked.endswith(path))
    shortest = (path for path in paths if asked and path.endswith(asked))
    repeated = (path for path in paths if asked.startswith(path) and path.endswith(asked.removeprefix(path)))
    return next((path for found in (longest, shortest, repeated) for path in found), "")
