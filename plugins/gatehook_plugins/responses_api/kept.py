"""The 404 for responses of earlier requests: this gateway keeps none."""

from typing import NoReturn

from aiohttp import web

from gatehook import NotFound

__all__ = ["not_kept"]


async def not_kept(request: web.Request) -> NoReturn:
    """Say that responses are not kept.

    Raises:
        NotFound: always.
    """
    raise NotFound(
        f"there is nothing at {request.method} {request.path}: this gateway keeps no responses that could be got, "
        "cancelled or deleted; send the whole conversation as `input` of POST /v1/responses",
        code="response_not_found",
    )
