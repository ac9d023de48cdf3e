"""Which tokens get in, and every way known to get in with another."""

import contextlib
import hashlib
import hmac
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import AuthenticationFailed
from gatehook_plugins.auth_jwt.keys import hmac_key
from gatehook_plugins.auth_jwt.public_keys import pem_key
from gatehook_plugins.auth_jwt.tokens import MAX_LENGTH, OneKey, Verifier

SECRET = "a-shared-secret-of-32-bytes-at-least"
KINDS = ["hmac", "rsa", "ec", "ed"]
Signers = Mapping[str, Any]
B64 = Callable[..., str]


def verifier(signer: Any, *algorithms: str, **checks: Any) -> Verifier:
    key = hmac_key(SECRET, algorithms) if signer.key == SECRET else pem_key(signer.pem, algorithms)
    chosen: dict[str, Any] = {"issuer": [], "audience": [], "leeway": 0} | checks
    return Verifier(OneKey(key), **chosen)


async def refusal(one: Verifier, token: str) -> str:
    """Why a token is refused; the words do not repeat it."""
    with pytest.raises(AuthenticationFailed) as caught:
        await one.verify(token)
    error = caught.value
    assert error.__cause__ is None
    assert error.code in ("invalid_token", "token_expired")
    assert not any(part and len(part) > 3 and part in error.message for part in token.split("."))
    return error.message


def now() -> int:
    return int(time.time())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_good_token_is_believed(kind: str, signers: Signers) -> None:
    claims = await verifier(signers[kind]).verify(signers[kind].token({"more": [1]}))
    assert claims is not None
    assert (claims["sub"], claims["more"]) == ("alice", [1])


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256", "PS384", "PS512"])
async def test_an_rsa_key_is_used_with_the_algorithms_of_the_settings_only(algorithm: str, signers: Signers) -> None:
    signer = signers["rsa"].named(None, algorithm)
    assert await verifier(signer, algorithm).verify(signer.token())
    assert "algorithm" in await refusal(verifier(signer), signer.token())


@pytest.mark.parametrize(
    "token",
    [
        "",
        "sk-0123456789abcdef",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "..",
        ".a.b",
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJhbGciOiJIUzI1NiJ9.e30",
        "eyJhbGciOiJIUzI1NiJ9.e30.a.b.c",
        "eyJhbGciOiJIUzI1NiJ9.e30.a=",
        "eyJhbGciOiJIUzI1NiJ9.e30.a\n",
        "eyJhbGciOiJIUzI1NiJ9.é.é",
        "\udcff.\udcff.\udcff",
        "e30.e30.a",
        "W10.e30.a",
        "bnVsbA.e30.a",
        "eyJ0eXAiOiJKV1QifQ.e30.a",
        "x" * 100_000,
        "." * 100_000,
        "é.é." + "x" * 100_000,
    ],
)
async def test_what_is_no_jwt_by_its_form_is_left_to_others(token: str, signers: Signers) -> None:
    assert await verifier(signers["hmac"]).verify(token) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", None, 0, ["HS256"], {"a": 1}])
async def test_no_algorithm_is_taken_from_the_token(kind: str, alg: Any, signers: Signers, base64url: B64) -> None:
    one, good = verifier(signers[kind]), signers[kind].token().split(".")
    for signature in ("", good[2]):
        token = f"{base64url({'alg': alg, 'typ': 'JWT'})}.{good[1]}.{signature}"
        assert "algorithm" in await refusal(one, token)


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed"])
@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
async def test_the_public_key_is_no_hmac_secret(kind: str, alg: str, signers: Signers, base64url: B64) -> None:
    signer = signers[kind]
    good = signer.token().split(".")
    for secret in (signer.pem, signer.pem.strip(), json.dumps(signer.jwk())):
        signed = f"{base64url({'alg': alg})}.{good[1]}"
        mac = hmac.new(secret.encode(), signed.encode(), getattr(hashlib, "sha" + alg[2:])).digest()
        assert "algorithm" in await refusal(verifier(signer), f"{signed}.{base64url(mac)}")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_signature_must_be_by_this_key_and_of_this_text(kind: str, signers: Signers, base64url: B64) -> None:
    signer = signers[kind]
    head, payload, signature = signer.token().split(".")
    one = verifier(signer)
    admin = base64url({"sub": "root", "role": "admin", "exp": now() + 60})
    for wrong in (f"{head}.{admin}.{signature}", f"{head}.{payload}.", f"{head}..", f"{head}..{signature}",
                  f"{head}.{payload}.{base64url(b'0' * 64)}", f"{head}.{payload}.{signature[:-8]}",
                  f"{head}.{payload}.{base64url(bytes(64))}"):  # fmt: skip
        assert await refusal(one, wrong) in (
            "the token has a signature that is not right",
            "the token is malformed",
        )
    others = [other for name, other in signers.items() if name != kind]
    for other in others:
        assert await refusal(one, other.named(signer.kid).token())


async def test_keys_that_a_token_brings_along_are_ignored(signers: Signers) -> None:
    mine, theirs = signers["rsa"], signers["rsa2"]
    for header in (
        {"jwk": theirs.jwk()},
        {"jku": "https://evil.test/keys"},
        {"x5u": "https://evil.test/cert"},
        {"x5c": ["MIIB"]},
        {"kid": "../../../../dev/null"},
        {"kid": "https://evil.test/keys"},
        {"kid": "' OR 1=1 --"},
    ):
        assert "signature" in await refusal(verifier(mine), theirs.named(None).token(**header))
        assert await verifier(mine).verify(mine.named(None).token(**header))


@pytest.mark.parametrize("kid", [1, True, ["a"], {"a": 1}, 1.5])
async def test_a_key_id_is_a_text(kid: Any, signers: Signers) -> None:
    assert "kid" in await refusal(verifier(signers["hmac"]), signers["hmac"].token(kid=kid))


@pytest.mark.parametrize(
    "header",
    [{"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"crit": []}, {"crit": "b64"}, {"crit": [1]}],
)
async def test_extensions_that_must_be_understood_are_refused(header: dict[str, Any], signers: Signers) -> None:
    assert await refusal(verifier(signers["hmac"]), signers["hmac"].token(**header))


async def test_a_repeated_claim_is_refused(signers: Signers) -> None:
    payload = b'{"sub":"alice","sub":"root","exp":%d}' % (now() + 60)
    assert await refusal(verifier(signers["hmac"]), signers["hmac"].signed(payload)) == "the token is malformed"


async def test_a_repeated_header_is_none(signers: Signers, base64url: B64) -> None:
    _, payload, signature = signers["hmac"].token().split(".")
    head = base64url('{"alg":"none","alg":"HS256"}')
    token = f"{head}.{payload}.{signature}"
    assert await verifier(signers["hmac"]).verify(token) is None


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe{}", '{"sub":"é"}'.encode("utf-16"), b'{"exp":NaN}',
     b"\xef\xbb\xbf{}", b"[" * 5000, b'{"a":' * 2000, b'{"exp":' + b"9" * 5000 + b"}"],
)  # fmt: skip
async def test_claims_must_be_a_json_object(payload: bytes, signers: Signers) -> None:
    assert await refusal(verifier(signers["hmac"]), signers["hmac"].signed(payload)) == "the token is malformed"


async def test_a_token_without_an_end_is_refused(signers: Signers) -> None:
    one = verifier(signers["hmac"])
    assert await refusal(one, signers["hmac"].token({"exp": None})) == "the token lacks the claim exp"


MILLISECONDS = pytest.param(int(time.time()) * 1000, id="milliseconds")


@pytest.mark.parametrize("exp", ["9999999999", "never", True, [], {}, 10**20, 1e300, 253402300800, MILLISECONDS])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
async def test_a_time_is_a_number_of_seconds(exp: Any, name: str, signers: Signers) -> None:
    text = await refusal(verifier(signers["hmac"]), signers["hmac"].token({name: exp}))
    assert f"no number of seconds since 1970 ({name})" in text


async def test_a_time_beyond_all_floats_is_refused(signers: Signers) -> None:
    payload = b'{"sub":"alice","exp":1e999}'
    assert "(exp)" in await refusal(verifier(signers["hmac"]), signers["hmac"].signed(payload))
    payload = b'{"sub":"alice","exp":-1e999}'
    assert "malformed" in await refusal(verifier(signers["hmac"]), signers["hmac"].signed(payload))


@pytest.mark.parametrize("exp", [0, -1, -(10**20), 1.5, -1e300])
async def test_a_token_of_the_past_has_expired(exp: Any, signers: Signers) -> None:
    with pytest.raises(AuthenticationFailed, match="has expired") as caught:
        await verifier(signers["hmac"]).verify(signers["hmac"].token({"exp": exp}))
    assert caught.value.code == "token_expired"


async def test_a_null_end_is_no_end(signers: Signers) -> None:
    token = signers["hmac"].signed(b'{"sub":"alice","exp":null}')
    assert "(exp)" in await refusal(verifier(signers["hmac"]), token)


async def test_clocks_may_differ_by_the_leeway_and_no_more(signers: Signers) -> None:
    signer, one = signers["hmac"], verifier(signers["hmac"], leeway=30)
    for claims in ({"exp": now() - 20}, {"nbf": now() + 20}, {"iat": now() + 20}, {"exp": now() + 60.5}):
        assert await one.verify(signer.token(claims))
    assert "expired" in await refusal(one, signer.token({"exp": now() - 40}))
    assert "not valid yet" in await refusal(one, signer.token({"nbf": now() + 40}))
    assert "not valid yet" in await refusal(one, signer.token({"iat": now() + 40}))


async def test_the_issuer_must_be_one_of_those_named(signers: Signers) -> None:
    signer, one = signers["hmac"], verifier(signers["hmac"], issuer=["https://a.test", "https://b.test"])
    assert await one.verify(signer.token({"iss": "https://b.test"}))
    assert await refusal(one, signer.token()) == "the token lacks the claim iss"
    for iss in ("https://a.test/", "https://a.test.evil.test", "", 5, ["https://a.test"], {"a": 1}):
        assert "issuer that is not accepted (iss)" in await refusal(one, signer.token({"iss": iss}))


async def test_the_audience_must_be_one_of_those_named(signers: Signers) -> None:
    signer, one = signers["hmac"], verifier(signers["hmac"], audience=["gateway", "other"])
    aud: Any
    for aud in ("gateway", ["x", "gateway"], ["other"]):
        assert await one.verify(signer.token({"aud": aud}))
    for aud in (None, "", []):
        assert await refusal(one, signer.token({"aud": aud})) == "the token lacks the claim aud"
    for aud in ("gate", "gateway2", ["x"], ["gateway", 5], {"gateway": 1}, 5):
        assert "audience (aud)" in await refusal(one, signer.token({"aud": aud}))


async def test_where_no_audience_is_expected_a_token_for_one_is_somebody_elses(signers: Signers) -> None:
    one = verifier(signers["hmac"])
    assert "audience (aud)" in await refusal(one, signers["hmac"].token({"aud": "another-app"}))


async def test_a_huge_token_is_refused_before_it_is_read(signers: Signers) -> None:
    token = signers["hmac"].token({"more": "x" * 2 * MAX_LENGTH})
    assert f"longer than {MAX_LENGTH} characters" in await refusal(verifier(signers["hmac"]), token)


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "cut", "swap"]), st.integers(0, 10_000), st.characters(codec="utf-8")), max_size=4
)


def mutated(token: str, changes: list[tuple[str, int, str]]) -> str:
    for what, place, letter in changes:
        place %= len(token) + 1
        if what == "put":
            token = token[:place] + letter + token[place:]
        elif what == "swap":
            token = token[:place] + letter + token[place + 1 :]
        else:
            token = token[:place] + token[place + 1 :]
    return token


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=MUTATIONS)
async def test_a_changed_token_never_gets_in_and_never_breaks_anything(
    kind: str, changes: list[tuple[str, int, str]], signers: Signers
) -> None:
    good = signers[kind].token()
    token = mutated(good, changes)
    try:
        claims = await verifier(signers[kind]).verify(token)
    except AuthenticationFailed:
        assert token != good
    else:
        assert (claims is not None) == (token == good)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["alg", "kid", "crit", "b64", "jwk", "typ", "zip", "x"]), inner, max_size=5
            )
        ),
        max_leaves=8,
    ),
    payload=st.binary(max_size=50),
    signature=st.binary(max_size=70),
)
async def test_made_up_tokens_are_refused_or_left_to_others(
    header: Any, payload: bytes, signature: bytes, signers: Signers, base64url: B64
) -> None:
    token = f"{base64url(json.dumps(header))}.{base64url(payload)}.{base64url(signature)}"
    for kind in KINDS:
        with contextlib.suppress(AuthenticationFailed):
            assert await verifier(signers[kind]).verify(token) is None


CLAIMS = st.dictionaries(
    st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(claims=CLAIMS)
async def test_signed_nonsense_breaks_nothing(claims: dict[str, Any], signers: Signers) -> None:
    token = signers["hmac"].signed(json.dumps(claims).encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = await verifier(signers["hmac"], issuer=["i"], audience=["a"]).verify(token)
        except AuthenticationFailed:
            return
    assert found is not None
    assert found["iss"] == "i"


FIRST = """
import asyncio, sys, threading
from gatehook_plugins.auth_jwt.keys import hmac_key
from gatehook_plugins.auth_jwt.tokens import OneKey, Verifier

loaded_by = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "jwt":
            loaded_by.append(threading.current_thread() is threading.main_thread())

async def main():
    verifier = Verifier(OneKey(hmac_key(sys.argv[1])), issuer=[], audience=[], leeway=0)
    sys.meta_path.insert(0, Watch())
    found = await asyncio.gather(*(verifier.verify(sys.argv[2]) for _ in range(5)))
    print([claims["sub"] for claims in found], loaded_by)

asyncio.run(main())
"""


def test_the_first_tokens_wait_for_what_reads_them_and_nobody_else_does(signers: Signers) -> None:
    words = [sys.executable, "-c", FIRST, SECRET, signers["hmac"].token()]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"{['alice'] * 5} [False]"
