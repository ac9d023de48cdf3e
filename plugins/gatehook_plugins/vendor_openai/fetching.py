"""Fetches pictures that a server gives by URLs of its own, before these expire."""

import asyncio
import base64
import logging
from typing import Final

from yarl import URL

from gatehook import Egress, GatewayError, Picture, Target, UpstreamError, data_uri, sniff

__all__ = ["fetched"]

log = logging.getLogger("gatehook.openai")

_PATIENCE: Final = 30.0
"""Seconds for one picture; it is made and paid for, and the client waits."""


async def fetched(egress: Egress, target: Target, url: object) -> Picture | None:
    """The picture behind a URL of an answer; None if it cannot be fetched, or is no picture: the log tells why.

    The deployment's own server may be at any address, as the operator named it; another only at a public one, as with
    URLs of clients. Neither gets the deployment's key.
    """
    if not isinstance(url, str):
        return None
    try:
        async with asyncio.timeout(_PATIENCE):
            data = await _read(egress, target, url)
    except (GatewayError, TimeoutError, ValueError) as error:
        why = error.message if isinstance(error, GatewayError) else repr(error)
        log.warning("%s: a picture cannot be fetched, the client gets the server's URL: %s", target.key, why)
        return None
    kind = sniff(data[:16])
    if not kind.startswith("image/"):
        log.warning("%s: what is behind a picture's URL is no picture, the client gets the URL", target.key)
        return None
    return Picture(data, kind)


async def _read(egress: Egress, target: Target, url: str) -> bytes:
    """The bytes behind a URL.

    Raises:
        GatewayError: they cannot be fetched. ValueError: it is no URL.
    """
    if url.startswith("data:"):
        return base64.b64decode(data_uri(url, param="url").base64)
    if target.base_url:
        here = URL(target.base_url)
        place = here.join(URL(url))
        if place.origin() == here.origin():
            async with await egress.request(target, "GET", place, headers={}) as upstream:
                if upstream.status != 200:
                    raise UpstreamError(f"{target.vendor}: a picture's URL answers {upstream.status}")
                return await upstream.read()
    return (await egress.fetch(url, param="url")).body
