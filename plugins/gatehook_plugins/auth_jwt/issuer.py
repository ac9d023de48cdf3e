"""The issuer's keys, fetched from its JSON Web Key Set: kept while the issuer is away, renewed as it changes them."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Final

from gatehook import Egress, GatewayError, Target, Unavailable, counted
from gatehook_plugins.auth_jwt.keys import PUBLIC, Key
from gatehook_plugins.auth_jwt.public_keys import key_set
from gatehook_plugins.auth_jwt.tokens import Header, refused

__all__ = ["Issuer"]

log: Final = logging.getLogger("gatehook.auth_jwt")

_SECONDS: Final = 5.0
"""How long a fetch may take, from dialling to the last byte."""
_MAX_BYTES: Final = 1 << 20


class Issuer:
    """Knows the keys at one URL. Enter `lifespan()` before use.

    They are fetched at the start, every `refresh` seconds, and when a token names a key that is not there, but for that
    only once in `cooldown` seconds: tokens with made-up key ids cannot flood the issuer. If a fetch fails, the old keys
    serve on, and the next is tried after `cooldown`.
    """

    def __init__(self, url: str, *, algorithms: Collection[str] = (), refresh: float, cooldown: float) -> None:
        """Args: `algorithms` that are allowed, empty for those of each key; `refresh` and `cooldown` in seconds."""
        self._url = url
        self._algorithms = frozenset(algorithms)
        self._refresh = refresh
        self._cooldown = cooldown
        self._keys: Sequence[Key] | None = None
        self._body = b""
        self._fresh = False
        self._asked = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._egress: Egress | None = None
        self._changed: Callable[[], None] = lambda: None

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the keys are others than before."""
        self._changed = changed

    @contextlib.asynccontextmanager
    async def lifespan(self, egress: Egress) -> AsyncIterator[None]:
        """Fetch the keys, and keep them fresh. An issuer that is away does not keep the gateway from starting."""
        self._egress = egress
        keeper = asyncio.create_task(self._keep())
        try:
            await self._refreshed()
            yield
        finally:
            tasks = [task for task in (keeper, self._fetching) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._egress = None

    async def key(self, header: Header) -> Key:
        """The key of this id and for this algorithm; for a token that names none, the only one that can be meant.

        Raises:
            AuthenticationFailed: there is no such key. Unavailable: the issuer cannot be asked whether there is.
        """
        if header.alg not in (self._algorithms or PUBLIC):
            raise refused("is signed by an algorithm that is not accepted (alg)")
        named = self._named(header.kid)
        if not named:
            await self._ask_again()
            named = self._named(header.kid)
        fitting = [key for key in named if header.alg in key.algorithms]
        if fitting and all(key.material == fitting[0].material for key in fitting):  # some show a key twice
            return fitting[0]
        if fitting:
            raise refused("does not say by which of its issuer's keys it is signed (kid)")
        if named:
            raise refused("is signed by an algorithm that is not accepted (alg)")
        if not self._fresh:
            raise Unavailable(
                "tokens cannot be checked now: the issuer's keys cannot be fetched; try again later",
                code="jwks_unavailable",
                retry_after=self._cooldown,
            )
        raise refused("is signed by a key that its issuer does not show (kid)")

    def _named(self, kid: str | None) -> Sequence[Key]:
        return [key for key in self._keys or () if kid is None or key.kid == kid]

    async def _ask_again(self) -> None:
        """Fetch the keys for a token whose key is not there, unless that was done a moment ago."""
        if self._fetching is None:
            now = time.monotonic()
            if self._egress is None or now - self._asked < self._cooldown:
                return
            self._asked = now
        await self._refreshed()

    async def _keep(self) -> None:
        while True:
            await self._refreshed()
            await asyncio.sleep(self._refresh if self._fresh else self._cooldown)

    async def _refreshed(self) -> None:
        """Fetch once for all who wait; the fetch goes on when one of them leaves."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
        await asyncio.wait([self._fetching])

    async def _fetch(self) -> None:
        self._fresh = False
        try:
            async with asyncio.timeout(_SECONDS):
                body = await self._download()
            if body != self._body or self._keys is None:
                self._keys = key_set(body, self._algorithms)
                self._body = body
                level = logging.INFO if self._keys else logging.WARNING
                log.log(level, "jwks_url: %s to check tokens with", counted(len(self._keys), "key"))
                self._changed()
            self._fresh = True
        except (GatewayError, TimeoutError, ValueError) as error:
            known = "no token can be checked" if self._keys is None else "the keys from before serve on"
            reason = "took too long" if isinstance(error, TimeoutError) else error
            log.warning("jwks_url: the keys cannot be fetched: %s; %s", reason, known)
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        """The body at the URL.

        Raises:
            GatewayError: the line failed. ValueError: another answer than 200, or one that is too large.
        """
        assert self._egress is not None  # noqa: S101  # only asked within the lifespan
        target = Target(key="auth_jwt", name="auth_jwt", vendor="issuer", model="")
        request = self._egress.request(target, "GET", self._url, headers={"Accept": "application/json"})
        async with await request as upstream:
            if upstream.status != 200:
                hint = "; write the address it leads to" if 300 <= upstream.status < 400 else ""
                raise ValueError(f"answered {upstream.status}{hint}")
            body = bytearray()
            async for part in upstream.chunks():
                body += part
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"the answer is larger than {_MAX_BYTES} bytes")
        return bytes(body)
