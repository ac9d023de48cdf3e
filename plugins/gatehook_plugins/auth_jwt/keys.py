"""Keys to check signatures with, each bound to the algorithms it may be used by.

The algorithms belong to the key, whatever a token's header says: so no public key is ever taken for the secret of an
HMAC ("algorithm confusion"), and `none` means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from gatehook_plugins.auth_jwt.public_keys import PublicKey

__all__ = ["HMAC", "PUBLIC", "RSA", "Algorithm", "Key", "hmac_key"]

Algorithm = Literal[
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip

HMAC: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The algorithms of a shared secret, and how many bytes it must have (RFC 7518, 3.2)."""

RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
PUBLIC: Final = (*RSA, "ES256", "ES384", "ES512", "EdDSA")
"""The algorithms of public keys."""

_PLAIN: Final = re.compile(r"(?!ssh-|ecdsa-)[!-z|}~]+")
"""What is no key in any form: a PEM text holds spaces, a JSON Web Key a brace, DER control characters."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key. `algorithms` is what it may be used with, `kid` its name at the issuer, if it has one."""

    material: bytes | PublicKey = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str | None = None


def hmac_key(secret: str, algorithms: Sequence[str] = ()) -> Key:
    """The key of a shared secret; for HS256 if no algorithms are named.

    Raises:
        ValueError: it is too short, or a public key; the message does not repeat it.
    """
    algorithms = tuple(algorithms) or ("HS256",)
    material = secret.encode()
    if not _PLAIN.fullmatch(secret) and not _is_secret(material):
        raise ValueError("secret: is empty or a public key, which is no secret; a key goes into public_key")
    least = max(HMAC[name] for name in algorithms)
    if len(material) < least:
        raise ValueError(
            f"secret: must have at least {least} bytes for {', '.join(algorithms)}; make one with: "
            f"openssl rand -hex {least}"
        )
    return Key(material, algorithms)


def _is_secret(material: bytes) -> bool:
    """Whether PyJWT takes it for one. It asks this for each token again; it is large, and loaded only for odd ones."""
    from jwt.algorithms import HMACAlgorithm
    from jwt.exceptions import InvalidKeyError

    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(material)
    except InvalidKeyError:
        return False
    return True
