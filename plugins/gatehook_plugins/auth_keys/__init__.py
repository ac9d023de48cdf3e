"""Lets in clients who show one of the keys in the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from gatehook import Authenticator, Section, hookimpl
from gatehook_plugins.auth_keys.keyring import Keyring, repeated, sound

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["AuthKeys"]

Key = Annotated[SecretStr, AfterValidator(sound)]


class AuthKeys:
    """Authenticates by fixed keys, sent as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    class Settings(Section):
        """[plugins.auth_keys]."""

        keys: list[Key] = Field(default=[], description="keys that may call models")
        admin_keys: list[Key] = Field(default=[], description="keys that may call models and change the gateway")

        @model_validator(mode="after")
        def _lets_somebody_in(self) -> Self:
            if self.enabled and not (self.keys or self.admin_keys):
                raise ValueError(
                    "no keys, so nobody could get in; add one, such as admin_keys = ['env:GATEHOOK_ADMIN_KEY'], "
                    "or set enabled = false"
                )
            if fault := repeated({"keys": self.keys, "admin_keys": self.admin_keys}):
                raise ValueError(fault)
            return self

    def __init__(self, settings: Settings) -> None:
        # The settings are not kept: they hold the keys in clear.
        self._keyring = Keyring(settings.keys, settings.admin_keys)

    @hookimpl
    def register_authenticators(self, gateway: Gateway) -> Iterable[Authenticator]:
        """One authenticator over all keys."""
        return [self._keyring]
