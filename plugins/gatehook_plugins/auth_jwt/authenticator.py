"""The authenticator: tokens checked once, then remembered for a minute, and their users looked up every time."""

import hashlib
import os
import time
from collections import OrderedDict
from typing import Final

from msgspec.structs import replace

from gatehook import Authenticator, Credential, Directory, Principal, common_models
from gatehook_plugins.auth_jwt.claims import ClaimNames
from gatehook_plugins.auth_jwt.tokens import Verifier, refused

__all__ = ["JwtAuthenticator", "Remembered"]

_MOST: Final = 10_000
_SECONDS: Final = 60.0


class Remembered:
    """Good tokens and whose they are, for at most a minute; the least used make room.

    Tokens are kept as keyed digests: a memory dump shows none, and the time of a look-up tells nothing of them.
    """

    __slots__ = ("_found", "_most", "_pepper")

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._pepper = os.urandom(32)
        self._found: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def digest(self, token: str) -> bytes:
        """What a token is kept under."""
        return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), key=self._pepper, digest_size=32).digest()

    def get(self, digest: bytes) -> Principal | None:
        """Whose token it is, if it was good a moment ago and has not expired since."""
        entry = self._found.get(digest)
        if entry is None:
            return None
        if entry[1] <= time.monotonic():
            del self._found[digest]
            return None
        self._found.move_to_end(digest)
        return entry[0]

    def put(self, digest: bytes, principal: Principal, seconds: float) -> None:
        """Remember a token for so many seconds, or a minute if that is less."""
        self._found[digest] = principal, time.monotonic() + min(seconds, _SECONDS)
        if len(self._found) > self._most:
            self._found.popitem(last=False)

    def clear(self) -> None:
        """Forget all: what they were checked with has changed."""
        self._found.clear()


class JwtAuthenticator:
    """Tells who a token's bearer is; with a directory, also what is known of that user there."""

    def __init__(
        self,
        verifier: Verifier,
        names: ClaimNames,
        *,
        leeway: float,
        directory: Directory | None = None,
        only_known: bool = False,
    ) -> None:
        """Args: `leeway` in seconds; `only_known` refuses users that the directory does not know."""
        self.remembered = Remembered()
        self._verifier = verifier
        self._names = names
        self._leeway = leeway
        self._directory = directory
        self._only_known = only_known

    async def authenticate(self, credential: Credential) -> Principal | None:
        """The bearer of a JWT; None for any other kind of token.

        Raises:
            AuthenticationFailed: a token that is not good, or whose user may not come in.
            Unavailable: the issuer's keys, or the directory, cannot be asked.
        """
        token = credential.token
        if token.count(".") != 2:
            return None
        digest = self.remembered.digest(token)
        principal = self.remembered.get(digest)
        if principal is None:
            claims = await self._verifier.verify(token)
            if claims is None:
                return None
            principal = self._names.principal(claims)
            self.remembered.put(digest, principal, claims["exp"] + self._leeway - time.time())
        return principal if self._directory is None else await self._known(principal, self._directory)

    async def _known(self, principal: Principal, directory: Directory) -> Principal:
        """The principal with its user's rights and limits; models only if both the token and the user allow them."""
        user = await directory.user(principal.id)
        if user is None:
            if self._only_known:
                raise refused("is good, but its user is not known here", code="unknown_user")
            return principal
        if user.disabled:
            raise refused("is good, but its user is disabled", code="user_disabled")
        models = common_models(principal.models, user.models)
        return replace(
            principal, name=user.name or principal.name, admin=principal.admin or user.admin, models=models, user=user
        )


_implements: type[Authenticator] = JwtAuthenticator
