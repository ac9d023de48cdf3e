"""What an operator may write, and what is refused before anything serves."""

import gc
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr, ValidationError

from gatehook.app import Gateway
from gatehook.config.settings import load
from gatehook.errors import StartupError
from gatehook.testing import available, built
from gatehook_plugins.auth_jwt import AuthJwt

SECRET = "a-shared-secret-of-32-bytes-at-least"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
Signers = Mapping[str, Any]


def faults(**settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        AuthJwt.Settings(**settings)
    text = str(caught.value)
    assert SECRET not in text
    return text


def public_pem(key: Any) -> str:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found.decode()


def test_keys_come_from_exactly_one_place(signers: Signers) -> None:
    assert "not none" in faults()
    assert "not none" in faults(secret="")
    assert "not secret and public_key" in faults(secret=SECRET, public_key=signers["rsa"].pem)
    assert "not secret and jwks_url" in faults(secret=SECRET, jwks_url="https://issuer.test/keys")


def test_a_section_that_is_switched_off_needs_no_key() -> None:
    assert not AuthJwt.Settings(enabled=False).enabled


@pytest.mark.parametrize(
    ("secret", "algorithms"), [("x" * 31, []), ("x" * 47, ["HS384"]), ("x" * 63, ["HS256", "HS512"]), ("é" * 15, [])]
)
def test_a_short_secret_is_refused_without_being_told(secret: str, algorithms: list[str]) -> None:
    text = faults(secret=secret, algorithms=algorithms)
    assert "bytes" in text
    assert secret not in text


def test_a_secret_may_be_of_any_algorithm_it_is_long_enough_for() -> None:
    assert AuthJwt.Settings(secret=SecretStr("x" * 64), algorithms=["HS256", "HS384", "HS512"])


def test_a_public_key_is_no_secret(signers: Signers) -> None:
    for signer in (signers["rsa"], signers["ec"], signers["ed"]):
        assert "is no secret" in faults(secret=signer.pem)
        assert "is no secret" in faults(secret=signer.private_pem)
    assert "is no secret" in faults(secret='{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}')
    assert "is no secret" in faults(secret='{"kty":"oct","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}')


def test_a_public_key_in_other_forms_is_no_secret_either(signers: Signers) -> None:
    for kind in ("rsa", "ec", "ed"):
        line = signers[kind].key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        assert "is no secret" in faults(secret=line)
        assert "is no secret" in faults(secret=line.replace(" ", ""))
    der = Ed25519PublicKey.from_public_bytes(b"A" * 32).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert "is no secret" in faults(secret=der.decode("ascii"))


LOADED = """
import sys
from gatehook_plugins.auth_jwt import AuthJwt
AuthJwt(AuthJwt.Settings(**{sys.argv[1]: sys.argv[2]}))
print(*sorted({"cryptography", "jwt"} & {*sys.modules}))
"""


@pytest.mark.parametrize("secret", [SECRET, "0" * 64, "+/9_-~" * 8, "é" * 20, "two words, or more, and a {brace}"])
def test_a_secret_is_taken_whatever_it_is_made_of(secret: str) -> None:
    assert AuthJwt.Settings(secret=SecretStr(secret))


def test_only_public_keys_and_odd_secrets_load_what_reads_them(signers: Signers) -> None:
    def loaded(name: str, value: str) -> str:
        words = [sys.executable, "-c", LOADED, name, value]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    assert loaded("secret", SECRET) == ""
    assert loaded("secret", "a secret with spaces, of 32 bytes") == "cryptography jwt"
    assert loaded("public_key", signers["ec"].pem) == "cryptography jwt"
    assert loaded("jwks_url", "https://issuer.test/keys") == "cryptography jwt"


@pytest.mark.parametrize(
    "source", [{"secret": "x" * 64}, {"jwks_url": "https://issuer.test/keys"}, {"public_key": None}]
)
def test_shared_secrets_and_public_keys_are_never_mixed(source: dict[str, Any], signers: Signers) -> None:
    if "public_key" in source:
        source = {"public_key": signers["rsa"].pem}
    text = faults(**source, algorithms=["HS256", "RS256"])
    assert "never mixed" in text
    assert ("RS256 needs a public_key or jwks_url" if "secret" in source else "HS256 needs a secret") in text


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", "hs256", "ES256K", "RSA-OAEP"])
def test_unknown_algorithms_are_refused(name: str) -> None:
    assert "algorithms.0" in faults(secret=SECRET, algorithms=[name])


def test_a_public_key_must_suit_the_algorithms(signers: Signers) -> None:
    assert "ES256 cannot be used with this public_key, only RS256" in faults(
        public_key=signers["rsa"].pem, algorithms=["RS256", "ES256"]
    )
    assert "only ES256" in faults(public_key=signers["ec"].pem, algorithms=["ES384"])
    assert AuthJwt.Settings(public_key=signers["rsa"].pem, algorithms=["PS512", "RS256"])


def test_a_private_key_a_certificate_and_garbage_are_no_public_keys(signers: Signers) -> None:
    for signer in (signers["rsa"], signers["ec"], signers["ed"]):
        text = faults(public_key=signer.private_pem)
        assert "only its public half" in text
        assert signer.private_pem.splitlines()[1] not in text
    assert "is a certificate" in faults(public_key=CERTIFICATE)
    assert "not a public key in PEM form" in faults(public_key="ssh-rsa AAAA")
    assert "not a public key in PEM form" in faults(
        public_key="-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----"
    )


def test_weak_keys_and_odd_curves_are_refused() -> None:
    for key in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256K1())):
        assert "RSA of at least 2048 bits, P-256" in faults(public_key=public_pem(key))


@pytest.mark.parametrize(
    "url",
    [
        "issuer.test/keys",
        "ftp://issuer.test/keys",
        "file:///etc/passwd",
        "https://",
        "https://a b/keys",
        "https://issuer.test/\nkeys",
        "https://issuer.test:0/keys",
        "https://issuer.test/keys#1",
        "http://[::1/keys",
    ],
)
def test_the_address_of_the_keys_must_be_one(url: str) -> None:
    assert "must be an address such as" in faults(jwks_url=url)


def test_the_address_of_the_keys_holds_no_password() -> None:
    text = faults(jwks_url="https://user:pass-4711@issuer.test/keys")
    assert "must not contain a user name or password" in text
    assert "pass-4711" not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("leeway", -1),
        ("leeway", float("nan")),
        ("leeway", 601),
        ("jwks_refresh", 0),
        ("refresh_cooldown", float("inf")),
        ("user_claim", ""),
        ("issuer", [""]),
        ("audience", ["me", ""]),
        ("admin_values", [""]),
        ("algorithm", ["HS256"]),
    ],
)
def test_absurd_values_are_refused(field: str, value: Any) -> None:
    assert field in faults(secret=SECRET, **{field: value})


def test_a_key_file_is_found_beside_the_settings(tmp_path: Path, signers: Signers) -> None:
    (tmp_path / "issuer.pem").write_text(signers["ec"].pem)
    (tmp_path / "settings.toml").write_text('[plugins.auth_jwt]\npublic_key = "file:issuer.pem"\n')
    gateway = Gateway(load(tmp_path / "settings.toml", environ={}), available({"auth_jwt": AuthJwt}))
    assert gateway.plugins.names == ("auth_jwt",)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[plugins.auth_jwt]\npublic_key = "file:issuer.pem"\n')
    with pytest.raises(StartupError, match=r"settings\.toml: \[plugins\.auth_jwt\] public_key: .*issuer\.pem"):
        Gateway(load(tmp_path / "settings.toml", environ={}), available({"auth_jwt": AuthJwt}))


def test_known_users_only_needs_the_directory(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(f'[plugins.auth_jwt]\nsecret = "{SECRET}"\nknown_users_only = true\n')
    with pytest.raises(StartupError, match=r"enable \[plugins\.database\]"):
        Gateway(load(tmp_path / "settings.toml", environ={}), available({"auth_jwt": AuthJwt}))


def test_neither_settings_nor_the_plugin_show_the_secret() -> None:
    settings = AuthJwt.Settings(secret=SecretStr(SECRET))
    plugin = AuthJwt(settings)
    assert SECRET not in repr(settings)
    seen, todo = set[int](), [plugin.__dict__]
    while todo:
        thing = todo.pop()
        if id(thing) not in seen and not isinstance(thing, type):
            seen.add(id(thing))
            assert not isinstance(thing, SecretStr)
            assert SECRET not in repr(thing)[:10000] or isinstance(thing, bytes)
            todo += [one for one in gc.get_referents(thing) if not callable(one)]


def test_a_secret_that_cannot_be_had_is_not_told_to_be_a_bad_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_JWT_SECRET", raising=False)
    with pytest.raises(StartupError) as caught:
        built('[plugins.auth_jwt]\nsecret = "env:GATEWAY_JWT_SECRET"\n')
    assert caught.value.faults == [
        "settings.toml: [plugins.auth_jwt] secret: refers to $GATEWAY_JWT_SECRET, which is not set"
    ]
