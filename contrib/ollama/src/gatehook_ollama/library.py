"""The models that an Ollama server has: listed, downloaded from the registry, removed."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from msgspec import Struct

from gatehook import Egress, MalformedJSON, Target, Upstream, UpstreamError, UpstreamTimeout, decode, encode
from gatehook_ollama.failure import failure, in_band
from gatehook_ollama.lines import Lines
from gatehook_ollama.options import base

__all__ = ["Library", "Pulling"]

_SECONDS: Final = 10.0
"""A server has so many seconds to list its models, so that a silent one does not hold up the others' lists."""


class Pulling(Struct, frozen=True):
    """The progress of a download: what is being done, and bytes of the layer that is downloaded now."""

    status: str
    completed: int = 0
    total: int = 0


class Library:
    """The models of one server."""

    def __init__(self, egress: Egress, target: Target) -> None:
        """`target` gives the server's address and its key; its model does not matter."""
        self._egress = egress
        self._target = target

    async def models(self) -> list[dict[str, Any]]:
        """The models in the server's own words: `name`, `size` in bytes, `modified_at`, `details`.

        Raises:
            GatewayError: the server does not answer, or its answer is no list of models.
        """
        try:
            async with asyncio.timeout(_SECONDS), await self._request("GET", "/api/tags") as upstream:
                raw = await upstream.read()
        except TimeoutError:
            raise UpstreamTimeout(f"ollama: no list of models within {_SECONDS:g} s") from None
        try:
            found = decode(raw)["models"]
        except (MalformedJSON, TypeError, KeyError):
            found = None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise UpstreamError("ollama: the answer is no list of models")
        return found

    async def pull(self, model: str) -> AsyncGenerator[Pulling, None]:
        """Have the server download a model. Closing the generator stops it; the next pull resumes it.

        Raises:
            GatewayError: the model does not exist, or cannot be downloaded.
        """
        lines, done = Lines(), False
        async with await self._request("POST", "/api/pull", {"model": model, "stream": True}) as upstream:
            async for data in upstream.chunks():
                for value in lines.feed(data):
                    yield (state := self._state(value))
                    done = state.status == "success"
            for value in lines.end():
                yield (state := self._state(value))
                done = state.status == "success"
        if not done:
            raise UpstreamError(f"ollama: the download of {model!r} broke off", code="upstream_truncated")

    async def remove(self, model: str) -> None:
        """Delete a model.

        Raises:
            GatewayError: there is no such model.
        """
        async with await self._request("DELETE", "/api/delete", {"model": model}) as upstream:
            await upstream.drain()

    def _state(self, value: Any) -> Pulling:
        if not isinstance(value, dict):
            raise UpstreamError("ollama: a line of the stream is not an object")
        if "error" in value:
            raise in_band(self._target, value)
        counts = [value.get(name) for name in ("completed", "total")]
        completed, total = (count if isinstance(count, int) else 0 for count in counts)
        return Pulling(str(value.get("status", "")), completed, total)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Upstream:
        target = self._target
        headers = {"Content-Type": "application/json"}
        if secret := target.secret():
            headers["Authorization"] = f"Bearer {secret}"
        upstream = await self._egress.request(
            target, method, base(target.base_url) + path, headers=headers, body=None if body is None else encode(body)
        )
        if upstream.status == 200:
            return upstream
        async with upstream:
            raise await failure(upstream, target)
