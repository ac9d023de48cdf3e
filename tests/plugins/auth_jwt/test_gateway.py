"""Tokens at a whole gateway: what clients see, what users may do, and what a token costs when it is known."""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from aiohttp import ClientSession, web

from gatehook import (
    PRINCIPAL,
    AuthenticationFailed,
    Credential,
    Principal,
    Route,
    Section,
    ServiceKey,
    Unavailable,
    hookimpl,
)
from gatehook.accounts import Caps, Limits, User
from gatehook.services import DIRECTORY
from gatehook.testing import Served, serving
from gatehook_plugins.auth_jwt import AuthJwt
from gatehook_plugins.auth_jwt.authenticator import JwtAuthenticator, Remembered
from gatehook_plugins.auth_jwt.claims import ClaimNames
from gatehook_plugins.auth_jwt.keys import hmac_key
from gatehook_plugins.auth_jwt.tokens import OneKey, Verifier

SECRET = "a-shared-secret-of-32-bytes-at-least"
KEY = "another-plugins-key-0123456789"
HELLO: Any = [{"role": "user", "content": "Hi"}]
Signers = Mapping[str, Any]
Server = Any

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.whoami]
[plugins.auth_keys]
keys = ["{key}"]
[[models]]
name = "a"
vendor = "mock"
[[models]]
name = "b"
vendor = "mock"
[plugins.auth_jwt]
{more}
"""


class WhoAmI:
    """GET /whoami and /admin-only."""

    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        async def tell(request: web.Request) -> web.Response:
            one = request[PRINCIPAL]
            models = None if one.models is None else sorted(one.models)
            return web.json_response({"id": one.id, "admin": one.admin, "models": models, "key": one.key_id})

        return [Route("GET", "/whoami", tell), Route("GET", "/admin-only", tell, auth="admin")]


class People:
    """Users in memory, as far as the authenticator asks for them."""

    def __init__(self, *users: User) -> None:
        self.users = {user.id: user for user in users}
        self.away = False

    async def user(self, user_id: str) -> User | None:
        if self.away:
            raise Unavailable("the database is away")
        return self.users.get(user_id)

    def config(self, name: str) -> tuple[dict[str, Any], int]:
        return {}, 0

    def subscribe(self, changed: Callable[[str, str], None]) -> None: ...


class PeoplePlugin:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None:
        self.people = People(User("bob", disabled=True))

    @hookimpl
    def register_services(self) -> Iterable[tuple[ServiceKey[Any], object]]:
        return [(DIRECTORY, self.people)]


@asynccontextmanager
async def gateway(more: str) -> AsyncIterator[Served]:
    plugins = {"auth_jwt": AuthJwt, "whoami": WhoAmI, "people": PeoplePlugin}
    async with serving(SETTINGS.format(key=KEY, more=more), plugins=plugins) as served:
        yield served


async def asked(served: Served, token: str, path: str = "/whoami", header: str = "Authorization") -> tuple[int, Any]:
    value = f"Bearer {token}" if header == "Authorization" else token
    async with ClientSession() as http, http.get(served.url + path, headers={header: value}) as answer:
        return answer.status, await answer.json()


def authenticator(directory: Any = None, **how: Any) -> JwtAuthenticator:
    verifier = Verifier(OneKey(hmac_key(SECRET)), issuer=[], audience=[], leeway=0)
    return JwtAuthenticator(verifier, ClaimNames(), leeway=0, directory=directory, **how)


async def who(one: JwtAuthenticator, token: str) -> Principal | None:
    return await one.authenticate(Credential(token, {}))


async def test_the_openai_sdk_gets_in_with_a_token_as_its_key(signers: Signers) -> None:
    async with (
        gateway(f'secret = "{SECRET}"') as served,
        openai.AsyncOpenAI(
            api_key=signers["hmac"].token({"models": "a"}), base_url=served.url + "/v1", max_retries=0
        ) as client,
    ):
        answer = await client.chat.completions.create(model="a", messages=HELLO)
        assert answer.model == "a"
        assert [model.id async for model in client.models.list()] == ["a"]
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="b", messages=HELLO)
        with pytest.raises(openai.AuthenticationError, match="has expired") as caught:
            await client.with_options(api_key=signers["hmac"].token({"exp": 1})).chat.completions.create(
                model="a", messages=HELLO
            )
        assert caught.value.code == "token_expired"


async def test_tokens_and_keys_live_side_by_side(signers: Signers) -> None:
    async with gateway(f'secret = "{SECRET}"') as served:
        token = signers["hmac"].token()
        assert (await asked(served, token))[1]["id"] == "alice"
        assert (await asked(served, token, header="X-API-Key"))[1]["id"] == "alice"
        assert (await asked(served, KEY))[1]["id"].startswith("key-")
        status, body = await asked(served, "a.b.c")
        assert (status, body["error"]["message"]) == (401, "the API key is not valid")


async def test_a_bad_token_is_401_and_is_not_repeated(signers: Signers) -> None:
    async with gateway(f'secret = "{SECRET}"') as served:
        token = signers["hmac"].token().rpartition(".")[0] + "." + signers["hmac"].token({"sub": "b"}).split(".")[2]
        headers = {"Authorization": f"Bearer {token}"}
        async with ClientSession() as http, http.get(served.url + "/whoami", headers=headers) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            text = await answer.text()
        assert "signature that is not right" in text
        assert not any(part in text for part in token.split("."))


async def test_admin_paths_are_for_admins(signers: Signers) -> None:
    more = f'secret = "{SECRET}"\nadmin_claim = "realm_access.roles"\nadmin_values = ["ops"]'
    async with gateway(more) as served:
        admin = signers["hmac"].token({"realm_access": {"roles": ["ops"]}})
        user = signers["hmac"].token({"realm_access": {"roles": ["admin"]}, "role": "admin", "admin": True})
        assert (await asked(served, admin, "/admin-only"))[0] == 200
        assert (await asked(served, user, "/admin-only"))[0] == 403


async def test_tokens_of_an_issuer_with_a_key_set(key_server: Server, signers: Signers) -> None:
    key_server.keys = [signers["rsa"].jwk()]
    more = f'jwks_url = "{key_server.url}"\nissuer = "https://i.test"\naudience = ["gatehook"]'
    claims = {"iss": "https://i.test", "aud": "gatehook"}
    async with gateway(more) as served:
        assert (await asked(served, signers["rsa"].token(claims)))[1]["id"] == "alice"
        assert (await asked(served, signers["ec"].token(claims)))[0] == 401
        key_server.keys = []
        issuer = served.gateway.plugins._instances["auth_jwt"]._issuer
        await issuer._refreshed()
        assert (await asked(served, signers["rsa"].token(claims)))[0] == 401


async def test_while_the_keys_are_not_there_tokens_get_503(
    signers: Signers, free_port: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(f'jwks_url = "http://127.0.0.1:{free_port()}/keys"') as served:
        headers = {"Authorization": f"Bearer {signers['rsa'].token()}"}
        async with ClientSession() as http, http.get(served.url + "/whoami", headers=headers) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
            assert (await answer.json())["error"]["code"] == "jwks_unavailable"
        assert (await asked(served, KEY))[0] == 200
    assert "jwks_url: the keys cannot be fetched" in caplog.text


async def test_a_directory_is_asked_where_there_is_one(signers: Signers) -> None:
    async with gateway(f'secret = "{SECRET}"\nknown_users_only = true\n[plugins.people]') as served:
        for user, code in (("alice", "unknown_user"), ("bob", "user_disabled")):
            status, body = await asked(served, signers["hmac"].token({"sub": user}))
            assert (status, body["error"]["code"]) == (401, code)
        people = served.gateway.services[DIRECTORY]
        people.away = True  # type: ignore[attr-defined]
        assert (await asked(served, signers["hmac"].token()))[0] == 503


async def test_users_of_the_database_are_known_and_fall_out_at_once(signers: Signers, database_url: str) -> None:
    more = f'secret = "{SECRET}"\nknown_users_only = true\n[plugins.database]\n[database]\nurl = "{database_url}"\n'
    more += f'secret = "{SECRET}"'
    async with gateway(more) as served:
        directory, token = served.gateway.services[DIRECTORY], signers["hmac"].token({"models": ["a", "b"]})
        assert (await asked(served, token))[1]["error"]["code"] == "unknown_user"
        await directory.create_user("test", User("alice", admin=True, models=frozenset({"b"})))
        assert (await asked(served, token, "/admin-only"))[1] == {
            "id": "alice", "admin": True, "models": ["b"], "key": "jwt",
        }  # fmt: skip
        await directory.change_user("test", "alice", {"disabled": True})
        assert (await asked(served, token))[1]["error"]["code"] == "user_disabled"
        await directory.delete_user("test", "alice")
        assert (await asked(served, token))[1]["error"]["code"] == "unknown_user"


async def test_a_users_rights_and_limits_ride_along(signers: Signers) -> None:
    alice = User("alice", "Alice", models=frozenset({"a", "b"}), limits=Limits(5), caps=Caps(tokens=100))
    people = People(alice)
    one = authenticator(people)
    found = await who(one, signers["hmac"].token({"name": "A.", "models": ["b", "c"]}))
    assert found == Principal("alice", "Alice", models=frozenset({"b"}), key_id="jwt", user=alice)
    found = await who(one, signers["hmac"].token())
    assert found is not None
    assert found.models == alice.models
    people.users["alice"] = User("alice", admin=True)
    found = await who(one, signers["hmac"].token({"models": ["c"]}))
    assert found is not None
    assert (found.admin, found.models) == (True, frozenset({"c"}))


async def test_a_user_falls_out_at_once_and_not_with_the_token(signers: Signers) -> None:
    people = People()
    one, token = authenticator(people), signers["hmac"].token()
    assert await who(one, token) is not None
    people.users["alice"] = User("alice", disabled=True)
    with pytest.raises(AuthenticationFailed, match="its user is disabled"):
        await who(one, token)
    people.users["alice"] = User("alice")
    assert await who(one, token) is not None


async def test_a_known_token_is_not_checked_again_but_expires_on_time(
    signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, token = authenticator(), signers["hmac"].token({"exp": time.time() + 30})
    first = await who(one, token)
    assert await who(one, token) is first
    start = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: start + 31)
    assert one.remembered.get(one.remembered.digest(token)) is None
    assert len(one.remembered) == 0


def test_tokens_are_remembered_for_a_minute_and_the_least_used_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered, somebody = Remembered(most=2), Principal("alice")
    a, b, c = (remembered.digest(token) for token in "abc")
    remembered.put(a, somebody, 3600)
    remembered.put(b, somebody, 3600)
    remembered.get(a)
    remembered.put(c, somebody, 3600)
    assert [remembered.get(digest) is not None for digest in (a, b, c)] == [True, False, True]
    start = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: start + 61)
    assert remembered.get(a) is None


async def test_bad_tokens_are_not_remembered(signers: Signers) -> None:
    one = authenticator()
    assert await who(one, "a.b.c") is None
    for token in (signers["hmac"].token({"sub": ""}), signers["hmac"].token({"sub": 5}), signers["hmac"].token()[:-3]):
        with pytest.raises(AuthenticationFailed):
            await who(one, token)
    assert len(one.remembered) == 0


async def test_new_keys_of_the_issuer_make_all_tokens_be_checked_again(key_server: Server, signers: Signers) -> None:
    key_server.keys = [signers["ec"].jwk()]
    async with gateway(f'jwks_url = "{key_server.url}"') as served:
        one: Any = served.gateway.pipeline.concerns.authenticators[0]
        assert await who(one, signers["ec"].token()) is not None
        assert len(one.remembered) == 1
        key_server.keys = [signers["rsa"].jwk()]
        assert await who(one, signers["rsa"].token()) is not None
        assert len(one.remembered) == 1


async def test_a_known_token_costs_microseconds(signers: Signers) -> None:
    one, credential = authenticator(People(User("alice"))), Credential(signers["hmac"].token(), {})
    await one.authenticate(credential)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            await one.authenticate(credential)
        best = min(best, (time.perf_counter() - start) / 100)
    assert best < 15e-6
