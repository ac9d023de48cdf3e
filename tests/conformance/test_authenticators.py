"""The authenticators that are shipped keep to everything the suite asks of one."""

import time
from collections.abc import Mapping

import jwt

from gatehook.testing.conformance import AuthenticatorConformance

KEY, ADMIN_KEY = "gh-a-key-of-a-client-1", "gh-a-key-of-an-admin-2"
SECRET = "a-shared-secret-of-32-bytes-at-least"


def token(secret: str = SECRET, *, expires: float = 600, **claims: object) -> str:
    """What an issuer would sign."""
    return jwt.encode({"sub": "ann", "exp": time.time() + expires, **claims}, secret, "HS256")


class TestAuthKeys(AuthenticatorConformance):
    plugin = "auth_keys"
    settings = f'[plugins.auth_keys]\nkeys = ["{KEY}"]\nadmin_keys = ["{ADMIN_KEY}"]\n'
    good: Mapping[str, str] = {KEY: "key-4fe29c22", ADMIN_KEY: "key-dabb3e2b"}


class TestAuthJwt(AuthenticatorConformance):
    plugin = "auth_jwt"
    settings = f'[plugins.auth_jwt]\nsecret = "{SECRET}"\n'
    good: Mapping[str, str] = {token(): "ann", token(sub="bob"): "bob"}
    bad = (
        token("another-secret-of-32-bytes-at-least"),
        token(expires=-3600),
        token(aud="somebody-else"),
        token(sub=""),
    )
