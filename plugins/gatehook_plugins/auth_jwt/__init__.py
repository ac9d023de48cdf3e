"""Lets in who shows a JSON Web Token of the operator's issuer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from gatehook import DIRECTORY, Authenticator, Section, hookimpl
from gatehook_plugins.auth_jwt.authenticator import JwtAuthenticator
from gatehook_plugins.auth_jwt.claims import ClaimNames
from gatehook_plugins.auth_jwt.keys import HMAC, Algorithm, Key, hmac_key
from gatehook_plugins.auth_jwt.tokens import OneKey, Verifier

if TYPE_CHECKING:
    from gatehook.app import Gateway
    from gatehook_plugins.auth_jwt.issuer import Issuer

__all__ = ["AuthJwt"]

Name = Annotated[str, Field(min_length=1)]


def _url(text: str) -> str:
    if not text:
        return text
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:  # a bad port or a broken IPv6 address
        valid = False
    if not valid or " " in text or "#" in text:
        raise ValueError("must be an address such as 'https://issuer.example/.well-known/jwks.json'")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password; a key set is public")
    return text


def _listed(names: str | list[str]) -> list[str]:
    """One name, several, or "" for none."""
    return ([names] if names else []) if isinstance(names, str) else names


class AuthJwt:
    """Authenticates by JSON Web Tokens, sent as `Authorization: Bearer TOKEN` or `X-API-Key: TOKEN`."""

    class Settings(Section):
        """[plugins.auth_jwt]."""

        secret: SecretStr | None = Field(default=None, description="shared secret of HS256, HS384 or HS512")
        public_key: SecretStr | None = Field(
            default=None, description="the issuer's public key in PEM form, as in 'file:issuer.pem'"
        )
        jwks_url: Annotated[str, AfterValidator(_url)] = Field(
            default="", description="where the issuer shows its keys, as a JSON Web Key Set"
        )
        algorithms: list[Algorithm] = Field(
            default=[], description="those accepted; if not given, HS256, or what suits the public key"
        )
        issuer: str | list[Name] = Field(default="", description="the iss that tokens must have; '' for any")
        audience: str | list[Name] = Field(
            default="", description="the aud that tokens must have; '' accepts only tokens without any"
        )
        leeway: float = Field(default=30.0, ge=0, le=600, description="seconds that clocks may differ")
        user_claim: str = Field(default="sub", min_length=1, description="the claim that holds the user's id")
        name_claim: str = Field(default="name", description="the claim that holds the user's name; '' for none")
        admin_claim: str = Field(
            default="role", description="the claim that tells admins, as in 'realm_access.roles'; '' for none"
        )
        admin_values: list[Name] = Field(default=["admin"], description="what it says, or lists, of an admin")
        models_claim: str = Field(
            default="models", description="the claim that lists the models to use, all if it is not there; '' for none"
        )
        known_users_only: bool = Field(default=False, description="refuse users that are not in the database")
        jwks_refresh: float = Field(
            default=3600.0, gt=0, allow_inf_nan=False, description="seconds after which the issuer's keys are renewed"
        )
        refresh_cooldown: float = Field(
            default=10.0,
            gt=0,
            allow_inf_nan=False,
            description="seconds before the issuer is asked again, after a failure or for tokens of unknown keys",
        )

        @model_validator(mode="after")
        def _has_one_source_of_keys(self) -> Self:
            given = [name for name in ("secret", "public_key", "jwks_url") if getattr(self, name)]
            if self.enabled and len(given) != 1:
                raise ValueError(
                    f"needs exactly one of secret, public_key and jwks_url, not {' and '.join(given) or 'none'}"
                )
            return self

        @model_validator(mode="after")
        def _has_algorithms_of_its_key(self) -> Self:
            wrong = [name for name in self.algorithms if (name in HMAC) != bool(self.secret)]
            if wrong and self.enabled:
                needs = "secret" if wrong[0] in HMAC else "public_key or jwks_url"
                raise ValueError(
                    f"algorithms: {wrong[0]} needs a {needs}; shared secrets and public keys are never mixed, or "
                    "everybody could sign with the public key"
                )
            if self.secret and not wrong:
                hmac_key(self.secret.get_secret_value(), self.algorithms)
            if self.public_key and not wrong:
                _pem_key(self.public_key.get_secret_value(), self.algorithms)
            return self

    def __init__(self, settings: Settings) -> None:
        # The settings are not kept: they hold the secret in clear.
        self._issuer: Issuer | None = None
        if settings.jwks_url:
            from gatehook_plugins.auth_jwt.issuer import Issuer  # loads what reads public keys

            self._issuer = Issuer(
                settings.jwks_url,
                algorithms=settings.algorithms,
                refresh=settings.jwks_refresh,
                cooldown=settings.refresh_cooldown,
            )
        self._leeway = settings.leeway
        self._known_users_only = settings.known_users_only
        self._verifier = Verifier(
            self._issuer or OneKey(_key(settings)),
            issuer=_listed(settings.issuer),
            audience=_listed(settings.audience),
            leeway=settings.leeway,
        )
        self._names = ClaimNames(
            user=settings.user_claim,
            name=settings.name_claim,
            admin=settings.admin_claim,
            admin_values=frozenset(settings.admin_values),
            models=settings.models_claim,
        )

    @hookimpl
    def register_authenticators(self, gateway: Gateway) -> Iterable[Authenticator]:
        """One authenticator; it asks the directory about users where a plugin offers one."""
        services = gateway.services
        directory = services[DIRECTORY] if self._known_users_only or DIRECTORY in services else None
        one = JwtAuthenticator(
            self._verifier, self._names, leeway=self._leeway, directory=directory, only_known=self._known_users_only
        )
        if self._issuer is not None:
            self._issuer.subscribe(one.remembered.clear)
        return [one]

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """Keeps the issuer's keys fresh."""
        return [] if self._issuer is None else [functools.partial(self._issuer.lifespan, gateway.egress)]


def _key(settings: AuthJwt.Settings) -> Key:
    """The one key of the settings, which have been checked."""
    if settings.secret:
        return hmac_key(settings.secret.get_secret_value(), settings.algorithms)
    assert settings.public_key is not None  # noqa: S101  # the settings have one source of keys
    return _pem_key(settings.public_key.get_secret_value(), settings.algorithms)


def _pem_key(pem: str, algorithms: Sequence[str]) -> Key:
    """As `pem_key`, whose module is loaded only where somebody has a public key."""
    from gatehook_plugins.auth_jwt.public_keys import pem_key

    return pem_key(pem, algorithms)
