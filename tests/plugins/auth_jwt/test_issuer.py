"""Keys from the issuer: rotation, outages, and answers that are none. The issuer is a real server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gatehook import AuthenticationFailed, Egress, Unavailable
from gatehook.config.sections import EgressSettings
from gatehook_plugins.auth_jwt.issuer import Issuer
from gatehook_plugins.auth_jwt.keys import Key
from gatehook_plugins.auth_jwt.public_keys import key_set
from gatehook_plugins.auth_jwt.tokens import Header, Verifier

Signers = Mapping[str, Any]
Server = Any


@asynccontextmanager
async def opened(url: str, *algorithms: str, refresh: float = 3600, cooldown: float = 3600) -> AsyncIterator[Issuer]:
    egress = Egress(EgressSettings())
    issuer = Issuer(url, algorithms=algorithms, refresh=refresh, cooldown=cooldown)
    async with egress.lifespan(), issuer.lifespan(egress):
        yield issuer


async def good(issuer: Issuer, token: str) -> bool:
    verifier = Verifier(issuer, issuer=[], audience=[], leeway=0)
    try:
        return await verifier.verify(token) is not None
    except AuthenticationFailed:
        return False


async def test_each_token_is_checked_with_the_key_it_names(key_server: Server, signers: Signers) -> None:
    shown = [signers[name] for name in ("rsa", "rsa2", "ec", "ed")]
    key_server.keys = [signer.jwk() for signer in shown]
    async with opened(key_server.url) as issuer:
        for signer in shown:
            assert await good(issuer, signer.token())
            for other in shown:
                assert await good(issuer, signer.named(other.kid).token()) == (signer is other)
    assert key_server.asked == 1


async def test_a_new_key_is_known_at_its_first_token(key_server: Server, signers: Signers) -> None:
    key_server.keys = [signers["rsa"].jwk()]
    async with opened(key_server.url) as issuer:
        key_server.keys = [signers["rsa"].jwk(), signers["ec"].jwk()]
        assert await good(issuer, signers["ec"].token())
        assert await good(issuer, signers["rsa"].token())
    assert key_server.asked == 2


async def test_a_key_that_is_shown_no_more_is_refused_after_the_refresh(key_server: Server, signers: Signers) -> None:
    key_server.keys = [signers["rsa"].jwk(), signers["ec"].jwk()]
    changed = asyncio.Event()
    async with opened(key_server.url, refresh=0.01) as issuer:
        issuer.subscribe(changed.set)
        assert await good(issuer, signers["rsa"].token())
        key_server.keys = [signers["ec"].jwk()]
        await changed.wait()
        assert not await good(issuer, signers["rsa"].token())
        assert await good(issuer, signers["ec"].token())


async def test_keys_that_have_not_changed_are_no_news(key_server: Server, signers: Signers) -> None:
    key_server.keys = [signers["rsa"].jwk()]
    news = list[int]()
    async with opened(key_server.url, refresh=0.01) as issuer:
        issuer.subscribe(lambda: news.append(1))
        await key_server.asked_more_than(3)
    assert news == []


async def test_made_up_key_ids_are_no_way_to_flood_the_issuer(key_server: Server, signers: Signers) -> None:
    key_server.keys = [signers["rsa"].jwk()]
    async with opened(key_server.url) as issuer:
        tokens = [signers["ec"].named(f"made-up-{number}").token() for number in range(50)]
        assert not any(await asyncio.gather(*(good(issuer, token) for token in tokens)))
        assert not any([await good(issuer, token) for token in tokens])
        assert await good(issuer, signers["rsa"].token())
    assert key_server.asked == 2


async def test_after_the_cooldown_the_issuer_is_asked_again(key_server: Server, signers: Signers) -> None:
    async with opened(key_server.url, cooldown=1e-9) as issuer:
        for count in (2, 3, 4):
            assert not await good(issuer, signers["rsa"].token())
            assert key_server.asked == count


async def test_tokens_of_other_algorithms_never_make_it_ask(key_server: Server, signers: Signers) -> None:
    async with opened(key_server.url, "RS256", cooldown=1e-9) as issuer:
        for alg in ("none", "HS256", "ES256", "PS256"):
            assert not await good(issuer, signers["rsa"].named("new").token(alg=alg))
    assert key_server.asked == 1


async def test_concurrent_misses_share_one_fetch_even_if_the_first_client_leaves(
    key_server: Server, signers: Signers
) -> None:
    held, go = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.Response:
        held.set()
        await go.wait()
        return web.json_response({"keys": [signers["ec"].jwk()]})

    async with opened(key_server.url, cooldown=1e-9) as issuer:
        key_server.respond = slowly
        waiting = [asyncio.create_task(good(issuer, signers["ec"].token())) for _ in range(20)]
        await held.wait()
        waiting[0].cancel()
        go.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [True] * 19
    assert key_server.asked == 2


def answering(status: int, body: bytes = b"", **headers: str) -> Any:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"keys": [')
    assert request.transport is not None
    request.transport.abort()
    return response


async def huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(160):
        await response.write(b" " * 65536)
    return response


OUTAGES: Mapping[str, tuple[Any, str]] = {
    "error": (answering(500, b"out of order"), "answered 500"),
    "missing": (answering(404), "answered 404"),
    "redirect": (answering(302, Location="/other.json"), "answered 302; write the address it leads to"),
    "html": (answering(200, b"<html>"), "not a JSON Web Key Set"),
    "empty": (answering(200), "not a JSON Web Key Set"),
    "list": (answering(200, b"[]"), "not a JSON Web Key Set"),
    "other": (answering(200, b'{"keys": {}}'), "not a JSON Web Key Set"),
    "deep": (answering(200, b'{"keys":' + b"[" * 100_000), "not a JSON Web Key Set"),
    "many": (answering(200, b'{"keys":[' + b"{}," * 100 + b"{}]}"), "more than 100 keys"),
    "cut": (cut, "cut"),
    "huge": (huge, "larger than 1048576 bytes"),
}


@pytest.mark.parametrize("kind", OUTAGES)
async def test_the_old_keys_serve_on_while_the_issuer_is_not_itself(
    kind: str, key_server: Server, signers: Signers, caplog: pytest.LogCaptureFixture
) -> None:
    key_server.keys = [signers["rsa"].jwk()]
    answer, words = OUTAGES[kind]
    async with opened(key_server.url, cooldown=1e-9) as issuer:
        key_server.respond = answer
        with pytest.raises(Unavailable) as caught:
            await good(issuer, signers["ec"].token())
        assert caught.value.code == "jwks_unavailable"
        assert await good(issuer, signers["rsa"].token())
        assert words in caplog.text
        assert "the keys from before serve on" in caplog.text
        key_server.respond, key_server.keys = None, [signers["rsa"].jwk(), signers["ec"].jwk()]
        assert await good(issuer, signers["ec"].token())


async def test_an_issuer_that_is_away_at_the_start_is_asked_again(
    key_server: Server, signers: Signers, caplog: pytest.LogCaptureFixture
) -> None:
    key_server.keys, key_server.respond = [signers["rsa"].jwk()], answering(503)
    changed = asyncio.Event()
    async with opened(key_server.url, cooldown=0.01) as issuer:
        issuer.subscribe(changed.set)
        with pytest.raises(Unavailable, match="keys cannot be fetched"):
            await good(issuer, signers["rsa"].token())
        assert "no token can be checked" in caplog.text
        key_server.respond = None
        await changed.wait()
        assert await good(issuer, signers["rsa"].token())


async def test_nobody_at_the_address_is_no_reason_not_to_start(signers: Signers, free_port: Callable[[], int]) -> None:
    async with opened(f"http://127.0.0.1:{free_port()}/keys") as issuer:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await good(issuer, signers["rsa"].token())


async def test_an_issuer_that_says_nothing_is_not_waited_for_long(
    key_server: Server, signers: Signers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gatehook_plugins.auth_jwt.issuer._SECONDS", 0.05)
    never = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    key_server.respond = silent
    async with opened(key_server.url) as issuer:
        with pytest.raises(Unavailable):
            await good(issuer, signers["rsa"].token())
    assert "took too long" in caplog.text


async def test_stopping_does_not_wait_for_the_issuer(key_server: Server, signers: Signers) -> None:
    held = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        held.set()
        await asyncio.Event().wait()
        return web.Response()

    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(opened(key_server.url))
        key_server.respond = silent
        waiting = asyncio.create_task(good(issuer, signers["rsa"].token()))
        await held.wait()
    with pytest.raises(Unavailable):
        await waiting
    assert not [task for task in asyncio.all_tasks() - before if "_fetch" in repr(task) or "_keep" in repr(task)]


async def test_an_empty_key_set_is_believed(
    key_server: Server, signers: Signers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gatehook.auth_jwt")
    key_server.keys = [signers["rsa"].jwk()]
    async with opened(key_server.url, cooldown=1e-9) as issuer:
        key_server.keys = []
        assert not await good(issuer, signers["ec"].token())
        assert not await good(issuer, signers["rsa"].token())
    assert [record.levelname for record in caplog.records if record.name == "gatehook.auth_jwt"] == ["INFO", "WARNING"]


async def test_a_token_that_names_no_key_needs_to_mean_one(key_server: Server, signers: Signers) -> None:
    key_server.keys = [signers["rsa"].jwk(), signers["ec"].jwk(kid=None)]
    async with opened(key_server.url) as issuer:
        assert await good(issuer, signers["rsa"].named(None).token())
        assert await good(issuer, signers["ec"].named(None).token())
    key_server.keys = [signers["rsa"].jwk(), signers["rsa2"].jwk()]
    async with opened(key_server.url) as issuer:
        with pytest.raises(AuthenticationFailed, match="does not say by which"):
            await issuer.key(Header("RS256", None))


async def test_a_key_may_be_shown_twice(key_server: Server, signers: Signers) -> None:
    key_server.keys = [signers["rsa"].jwk(), signers["rsa"].jwk(x5t="a"), signers["rsa2"].jwk(kid="rsa-1", alg="PS256")]
    async with opened(key_server.url) as issuer:
        assert await good(issuer, signers["rsa"].token())
        assert await good(issuer, signers["rsa2"].named("rsa-1", "PS256").token())


def algorithms(jwk: Any, *allowed: str) -> tuple[str, ...]:
    """What a member of a key set may be used with; () if it is left out."""
    keys = key_set(web.json_response({"keys": [jwk]}).body, allowed)  # type: ignore[arg-type]
    assert all(isinstance(key, Key) for key in keys)
    return keys[0].algorithms if keys else ()


def test_a_key_is_bound_to_its_own_algorithm_or_its_kinds_usual_one(signers: Signers) -> None:
    rsa_jwk, ec_jwk = signers["rsa"].jwk(), signers["ec"].jwk()
    assert algorithms(rsa_jwk) == ("RS256",)
    assert algorithms(rsa_jwk | {"alg": "PS384"}) == ("PS384",)
    assert algorithms(rsa_jwk, "RS512", "ES256") == ("RS512",)
    assert algorithms(rsa_jwk | {"alg": "RS256"}, "RS512") == ()
    assert algorithms(rsa_jwk, "ES256") == ()
    assert algorithms(ec_jwk) == ("ES256",)
    assert algorithms(signers["ed"].jwk()) == ("EdDSA",)
    for alg in ("HS256", "none", "ES384", "RS256", ["ES256"], {"a": 1}, 5, ""):
        assert algorithms(ec_jwk | {"alg": alg}) == ()


def test_keys_that_are_not_for_checking_signatures_are_left_out(signers: Signers) -> None:
    jwk = signers["rsa"].jwk()
    other: dict[str, Any]
    for other in ({"use": "enc"}, {"use": 5}, {"key_ops": ["encrypt"]}, {"key_ops": []}, {"kid": 5}, {"kid": ["a"]}):
        assert algorithms(jwk | other) == ()
    for same in (
        {"use": None},
        {"use": "sig"},
        {"key_ops": ["verify"]},
        {"key_ops": 5},
        {"kid": None},
        {"x5u": "http://x"},
    ):
        assert algorithms(jwk | same) == ("RS256",)


def test_secrets_private_keys_and_garbage_in_a_key_set_are_left_out(signers: Signers) -> None:
    private = RSAAlgorithm.to_jwk(signers["rsa"].key, as_dict=True)
    weak = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    odd_curve = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256K1()).public_key(), as_dict=True)
    off_curve = signers["ec"].jwk() | {"x": signers["ec"].jwk()["y"]}
    slow = signers["rsa"].jwk() | {"e": signers["rsa2"].jwk()["n"]}
    jwk: Any
    for jwk in (private, weak, odd_curve, off_curve, slow,
                {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"},
                {"kty": "oct", "alg": "RS256", "k": "AAAA"},
                {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": 5, "y": None}, {"kty": ["RSA"]},
                {"kty": "RSA", "n": "", "e": ""}, {"kty": "RSA", "n": "AQ", "e": "AQAB"},
                {"kty": "OKP", "crv": "X25519", "x": "AA"},
                {"kty": "OKP", "crv": "Ed25519", "x": "AA"}, {"kty": "AKP"}, None, 5, "x", [], [[]]):  # fmt: skip
        assert algorithms(jwk) == ()
