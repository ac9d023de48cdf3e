"""Public keys, from a PEM text or an issuer's key set. Loads `cryptography`: imported only where there are some."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from msgspec import Struct, ValidationError, convert

from gatehook import MalformedJSON, decode
from gatehook_plugins.auth_jwt.keys import RSA, Key

__all__ = ["PublicKey", "key_set", "pem_key"]

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_CURVES: Final[Mapping[str, tuple[str, ...]]] = {
    "secp256r1": ("ES256",),
    "secp384r1": ("ES384",),
    "secp521r1": ("ES512",),
}
_RSA_BITS: Final = (2048, 16384)  # less can be broken; more, OpenSSL refuses
_RSA_EXPONENT_BITS: Final = 64
_MOST_KEYS: Final = 100


def pem_key(pem: str, algorithms: Sequence[str] = ()) -> Key:
    """The public key in a PEM text; for its kind's usual algorithm if none are named.

    Raises:
        ValueError: it is no public key, too weak, or of another kind than the algorithms.
    """
    if "PRIVATE KEY" in pem:
        raise ValueError("public_key: is a private key; give only its public half: openssl pkey -in KEY -pubout")
    if "BEGIN CERTIFICATE" in pem:
        raise ValueError("public_key: is a certificate; give the key in it: openssl x509 -in CERT -noout -pubkey")
    try:
        material = load_pem_public_key(pem.encode())
    except Exception:  # noqa: BLE001  # cryptography has several words for "this is no key"
        raise ValueError("public_key: is not a public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    fitting = _fitting(material)
    if not isinstance(material, PublicKey) or not fitting:
        raise ValueError("public_key: must be RSA of at least 2048 bits, P-256, P-384, P-521 or Ed25519")
    if wrong := [name for name in algorithms if name not in fitting]:
        raise ValueError(f"algorithms: {wrong[0]} cannot be used with this public_key, only {', '.join(fitting)}")
    return Key(material, tuple(algorithms) or fitting[:1])


class _KeySet(Struct):
    keys: list[Any]


def key_set(body: bytes, algorithms: Collection[str] = ()) -> tuple[Key, ...]:
    """The keys of a JSON Web Key Set that can check signatures; others are left out.

    Args:
        body: the set as the issuer sent it.
        algorithms: those allowed; each key's own, or its kind's usual one, if empty.

    Raises:
        ValueError: it is no key set, or an absurdly large one.
    """
    try:
        keys = convert(decode(body), _KeySet).keys
    except (MalformedJSON, ValidationError):
        raise ValueError('the answer is not a JSON Web Key Set ({"keys": […]})') from None
    if len(keys) > _MOST_KEYS:
        raise ValueError(f"the key set holds more than {_MOST_KEYS} keys")
    return tuple(key for key in (_from_jwk(jwk, algorithms) for jwk in keys) if key is not None)


def _from_jwk(jwk: Any, algorithms: Collection[str]) -> Key | None:
    """A member of a key set, if it is a public key to check signatures with."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP") or "d" in jwk:
        return None  # among others: shared secrets, and private keys, which everybody knows by now
    use, operations, kid, own = (jwk.get(name) for name in ("use", "key_ops", "kid", "alg"))
    if use not in (None, "sig") or (isinstance(operations, list) and "verify" not in operations):
        return None
    try:
        material = PyJWK.from_dict({name: value for name, value in jwk.items() if name != "alg"}).key
    except Exception:  # noqa: BLE001  # anything may stand there, and not all that it breaks is a PyJWTError
        return None
    fitting = _fitting(material)
    if own is not None:
        fitting = tuple(name for name in fitting if name == own)
    elif not algorithms:
        fitting = fitting[:1]
    allowed = tuple(name for name in fitting if not algorithms or name in algorithms)
    if not allowed or not (kid is None or isinstance(kid, str)):
        return None
    return Key(material, allowed, kid)


def _fitting(key: object) -> tuple[str, ...]:
    """The algorithms that a public key can be used with, the usual one first; () if it is of no use."""
    if isinstance(key, RSAPublicKey):
        sound = _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1]
        return RSA if sound and key.public_numbers().e.bit_length() <= _RSA_EXPONENT_BITS else ()
    if isinstance(key, EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, ())
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey) else ()
