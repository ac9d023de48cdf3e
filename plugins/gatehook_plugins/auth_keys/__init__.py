"""Lets in clients who show a key: one of the settings, or one of the directory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from gatehook import DATABASE, DIRECTORY, Authenticator, Section, StartupError, hookimpl
from gatehook_plugins.auth_keys.holders import Holders
from gatehook_plugins.auth_keys.keyring import Keyring, repeated, sound

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["AuthKeys"]

log: Final = logging.getLogger("gatehook.auth_keys")

Key = Annotated[SecretStr, AfterValidator(sound)]


class AuthKeys:
    """Authenticates by keys, sent as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    class Settings(Section):
        """[plugins.auth_keys]."""

        keys: list[Key] = Field(default=[], description="keys that may call models")
        admin_keys: list[Key] = Field(default=[], description="keys that may call models and change the gateway")

        @model_validator(mode="after")
        def _are_different(self) -> Self:
            if fault := repeated({"keys": self.keys, "admin_keys": self.admin_keys}):
                raise ValueError(fault)
            return self

    def __init__(self, settings: Settings) -> None:
        # The settings are not kept: they hold the keys in clear.
        self._keyring = Keyring(settings.keys, settings.admin_keys)

    @hookimpl
    def register_authenticators(self, gateway: Gateway) -> Iterable[Authenticator]:
        """One over the keys of the settings, and, where there is a directory, one over its keys.

        Raises:
            StartupError: there are neither keys nor a directory.
        """
        if DIRECTORY in gateway.services:
            holders = Holders(gateway.services[DIRECTORY])
            return [self._keyring, holders] if self._keyring else [holders]
        if not self._keyring:
            raise StartupError(
                "no keys, so nobody could get in; add one, such as admin_keys = ['env:GATEWAY_ADMIN_KEY'], "
                "or enable [plugins.database] and make one with: gatehook keys create --admin"
            )
        return [self._keyring]

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """Where all keys are the directory's, a warning if there are none yet."""
        if self._keyring or DIRECTORY not in gateway.services:
            return []
        database, directory = gateway.services[DATABASE], gateway.services[DIRECTORY]

        @contextlib.asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            async with database.opened():
                if not await directory.keys(limit=1):
                    log.warning(
                        "there are no keys yet, so nobody gets in; create the first: gatehook keys create --admin"
                    )
            yield

        return [lifespan]
