"""Signature Version 4 by botocore, and the credentials it signs with: AWS's own chain, never resolved on the loop."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from gatehook import GatewayError, Retry

__all__ = ["Signer"]

_LARGE: Final = 1 << 20
"""A body of more bytes is hashed in a thread: that takes milliseconds, in which the loop would stand still."""


class Signer:
    """Signs requests. Sessions and credentials are kept by profile; botocore renews those that expire."""

    def __init__(self) -> None:
        self._credentials: dict[str, Any] = {}
        self._regions: dict[str, str] = {}
        self._resolving = asyncio.Lock()

    async def region(self, profile: str) -> str:
        """The region that AWS's configuration tells (AWS_REGION, ~/.aws/config); "" if none."""
        await self._resolve(profile)
        return self._regions[profile]

    def forget(self, profile: str) -> None:
        """Ask the chain again for the next request: a file may hold other credentials by then."""
        self._credentials.pop(profile, None)

    async def headers(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], at: tuple[str, str]
    ) -> dict[str, str]:
        """The headers of a signed request.

        Args:
            method: GET or POST.
            url: encoded, as it is sent.
            body: its body.
            headers: those that are sent anyway; they are signed too.
            at: the region and the profile.

        Raises:
            GatewayError: there are no credentials, or they cannot be renewed.
        """
        region, profile = at
        frozen = await self._frozen(profile)
        if len(body) > _LARGE:
            return await asyncio.to_thread(_signed, method, url, body, headers, region, frozen)
        return _signed(method, url, body, headers, region, frozen)

    async def _frozen(self, profile: str) -> Any:
        await self._resolve(profile)
        credentials = self._credentials[profile]
        if credentials is None:
            self.forget(profile)  # somebody may have logged in when the next request comes
            raise _unresolved(profile, "there are none in the environment, the files, or the machine's role")
        try:
            if (stale := getattr(credentials, "refresh_needed", None)) is not None and stale():
                return await asyncio.to_thread(credentials.get_frozen_credentials)
            return credentials.get_frozen_credentials()
        except Exception as error:
            raise _unresolved(profile, f"they cannot be renewed ({type(error).__name__})") from error

    async def _resolve(self, profile: str) -> None:
        """Ask the chain, once: it may read files, run programs, and call the machine's metadata service."""
        if profile in self._credentials:
            return
        async with self._resolving:
            if profile not in self._credentials:
                try:
                    found = await asyncio.to_thread(_chain, profile)
                except Exception as error:
                    raise _unresolved(profile, str(error)) from error
                self._credentials[profile], self._regions[profile] = found


def _chain(profile: str) -> tuple[Any, str]:
    from botocore.session import Session

    session = Session(profile=profile or None)
    return session.get_credentials(), session.get_config_variable("region") or ""


def _signed(method: str, url: str, body: bytes, headers: Mapping[str, str], region: str, frozen: Any) -> dict[str, str]:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method, url, dict(headers), body)
    SigV4Auth(frozen, "bedrock", region).add_auth(request)
    return dict(request.headers.items())


def _unresolved(profile: str, why: str) -> GatewayError:
    of = f" of profile {profile!r}" if profile else ""
    return GatewayError(
        f"bedrock: no AWS credentials{of}: {why}", status=502, code="upstream_credential_rejected", retry=Retry.NEXT
    )
