"""Nobody sees or does by any way what is another's, or an admin's."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import jwt
import pytest

from gatehook.testing import StubUpstream

Accounts = Any
OpenAccounts = Any
Talk = Callable[[int, bytes], Any]

JWT_SECRET = "shared-secret-of-the-issuer-0123456789"
PLAIN = "plain-of-settings-0123456789"
ADMIN_PATHS = ("/admin/users", "/admin/users/bob", "/admin/users/bob/quota", "/admin/users/bob/keys", "/admin/keys",
               "/admin/models", "/admin/usage", "/admin/usage/requests", "/admin/audit")  # fmt: skip


@pytest.fixture
async def accounts(open_accounts: OpenAccounts, mock_model: Callable[..., Any]) -> AsyncIterator[Accounts]:
    async with open_accounts(mock_model(), mock_model("other")) as opened:
        yield opened


def token(user_id: str, **claims: Any) -> str:
    return signed({"sub": user_id, **claims})


def signed(claims: Mapping[str, Any]) -> str:
    """A token of the issuer, whatever is in it: PyJWT itself would not sign a user that is no text."""
    payload = json.dumps({"exp": int(time.time()) + 600, **claims}).encode()
    return jwt.api_jws.encode(payload, JWT_SECRET, algorithm="HS256")


async def requests_of(accounts: Accounts, key: str, query: str = "") -> int:
    return int((await accounts.done("GET", f"/api/llm/stats/usage{query}", key=key))["total_requests"])


async def test_callers_see_their_own_usage_and_nobody_elses(accounts: Accounts) -> None:
    alice, bob = await accounts.client("alice"), await accounts.client("bob")
    for _ in range(3):
        assert (await accounts.chat(bob)).status == 200
    assert (await accounts.chat(alice)).status == 200
    assert [await requests_of(accounts, key) for key in (alice, bob)] == [1, 3]
    [key_id] = {row["key_id"] for row in await accounts.rows("bob")}
    for mount in ("/api/llm", "/api/v1/llm"):
        for kind in ("usage", "performance"):
            for asked in ("bob", "BOB", "b%6Fb", "bob%20", "*", "%25", "None", key_id):
                answer = await accounts.call("GET", f"{mount}/stats/{kind}?user_id={asked}", key=alice)
                assert answer.status == 403, asked
                assert answer.json["error"]["request_id"]
    own = ("", "?user_id=", "?user_id=alice", "?user_id=alice&user_id=bob", "?User_Id=bob", "?user_id[]=bob")
    for query in own:
        assert await requests_of(accounts, alice, query) == 1, query
    assert await requests_of(accounts, "admin-of-accounts-0123456789", "?user_id=bob") == 3


async def test_tokens_whose_user_is_called_like_a_key_get_nothing_of_it(accounts: Accounts) -> None:
    bob = await accounts.client("bob")
    assert (await accounts.chat(bob)).status == 200
    assert (await accounts.chat(PLAIN)).status == 200
    [key_id] = {row["key_id"] for row in await accounts.rows("bob")}
    for name in (key_id, f"bob/{key_id}", "Bob", "BOB", "b\u00f3b", "b%6Fb", "anonymous"):
        assert await requests_of(accounts, token(name)) == 0, name
        assert (await accounts.call("GET", "/admin/users", key=token(name))).status == 403
    for name in ("", " ", " bob", "bob ", "bob\n", "bob\u200b", "bob\0", None, 7, ["bob"], {"id": "bob"}, "b" * 300):
        assert (await accounts.call("GET", "/v1/models", key=signed({"sub": name}))).status == 401, name


async def test_a_token_has_nothing_of_an_admin_key_of_the_same_user(accounts: Accounts) -> None:
    await accounts.client("chief")
    made = await accounts.done("POST", "/admin/users/chief/keys", {"admin": True})
    assert (await accounts.call("GET", "/admin/users", key=made["key"])).status == 200
    assert (await accounts.call("GET", "/admin/users", key=token("chief"))).status == 403


async def test_of_two_credentials_one_counts_and_wholly(accounts: Accounts) -> None:
    alice = await accounts.client("alice", models=["m"])
    bob = await accounts.client("bob", models=["other"])

    async def status(headers: dict[str, str], model: str) -> int:
        asked = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        answer = await accounts.call("POST", "/v1/chat/completions", asked, key=None, headers=headers)
        return int(answer.status)

    both = {"Authorization": f"Bearer {alice}", "X-API-Key": bob}
    assert [await status(both, model) for model in ("m", "other")] == [200, 403]
    swapped = {"Authorization": f"Bearer {bob}", "X-API-Key": alice}
    assert [await status(swapped, model) for model in ("m", "other")] == [403, 200]
    bad_first = {"Authorization": "Bearer no-such-key-0123456789", "X-API-Key": bob}
    assert await status(bad_first, "other") == 401, "a bad credential is not mended by another"
    assert await status({"Authorization": f"Bearer {alice}, Bearer {bob}"}, "other") == 401
    token_first = {"Authorization": f"Bearer {token('alice')}", "X-API-Key": bob}
    assert [await status(token_first, model) for model in ("m", "other")] == [200, 403]
    admin_beside = {"Authorization": f"Bearer {alice}", "X-API-Key": "admin-of-accounts-0123456789"}
    assert (await accounts.call("GET", "/admin/users", key=None, headers=admin_beside)).status == 403
    assert {row["key_id"][:4] for row in await accounts.rows("alice")} == {"key_", "jwt"}
    assert [row["http_status"] for row in await accounts.rows("alice")] == [403, 200, 403, 200]
    assert sorted(row["http_status"] for row in await accounts.rows("bob")) == [200, 403]


async def test_models_not_allowed_are_neither_listed_nor_called(
    open_accounts: OpenAccounts, mock_model: Callable[..., Any]
) -> None:
    hidden = mock_model("hidden", capabilities=["text-generation"])
    async with open_accounts(mock_model(), hidden, mock_model("embed")) as accounts:
        alice = await accounts.client("alice", models=["m"])
        bearer = token("carol", models=["m"])
        for key in (alice, bearer):
            listed = await accounts.done("GET", "/v1/models", key=key)
            assert [one["id"] for one in listed["data"]] == ["m"]
            for mount in ("/api/llm", "/api/v1/llm"):
                assert [one["id"] for one in (await accounts.done("GET", f"{mount}/models", key=key))["models"]] == [
                    "m"
                ]
            for name in ("hidden", "hidden%231", "%68idden", "m/../hidden", "m%2F..%2Fhidden"):
                for path in (f"/v1/models/{name}", f"/api/llm/models/{name}/status"):
                    answer = await accounts.call("GET", path, key=key)
                    assert answer.status == 404, path
            unknown = await accounts.call("GET", "/v1/models/nothing", key=key)
            known = await accounts.call("GET", "/v1/models/hidden", key=key)
            assert unknown.body.replace(b"nothing", b"hidden") == known.body, "nor is it told that it exists"
            for name in ("hidden", "hidden#1", "HIDDEN", " hidden", "m#1", "m,hidden", "nothing"):
                assert (await accounts.chat(key, name)).status == 403, name
                assert (await accounts.chat(key, name, stream=True)).status == 403, name
            for path, more in (
                ("/v1/completions", {"prompt": "hi"}),
                ("/v1/embeddings", {"input": "hi"}),
                ("/api/llm/generate", {"messages": [{"role": "user", "content": "hi"}]}),
                ("/api/v1/llm/generate/stream", {"messages": [{"role": "user", "content": "hi"}]}),
            ):
                answer = await accounts.call("POST", path, {"model": "hidden", **more}, key=key)
                assert answer.status == 403, path
            twice = b'{"model": "m", "model": "hidden", "messages": [{"role": "user", "content": "hi"}]}'
            answer = await accounts.call("POST", "/v1/chat/completions", twice, key=key)
            assert answer.status in (400, 403) or answer.json["model"] == "m"
        metrics = await accounts.call("GET", "/metrics", key=None)
        assert b"alice" not in metrics.body


async def test_a_body_with_two_models_calls_the_one_that_was_allowed(
    open_accounts: OpenAccounts, openai_wire: Any
) -> None:
    async with StubUpstream(openai_wire.text("hi")) as stub:
        deployments = [openai_wire.deployment(stub, name, model=f"up-{name}") for name in ("m", "hidden")]
        async with open_accounts(*deployments) as accounts:
            key = await accounts.client("alice", models=["m"])
            for models in (["m", "hidden"], ["hidden", "m"]):
                said = ", ".join(f'"model": "{name}"' for name in models)
                body = ("{" + said + ', "messages": [{"role": "user", "content": "hi"}]}').encode()
                await accounts.call("POST", "/v1/chat/completions", body, key=key)
        assert {request.json["model"] for request in stub.requests} <= {"up-m"}
        assert all(b"hidden" not in request.body for request in stub.requests)


WAYS = ("/admin/users", "/admin/users/", "/admin//users", "//admin/users", "/ADMIN/users", "/admin/%75sers",
        "/admin%2Fusers", "/v1/../admin/users", "/v1/%2e%2e/admin/users", "/admin/users/../users", "/admin/./users",
        "/admin/users/%2e%2e/users", "/admin/users;x=1", "/admin/users?limit=1", "/admin/users#x", "/admin/users%00",
        "/admin/users%20", "/admin/users/bob/../bob", "/admin/users/bob%2Fkeys", "/admin/users/bob//keys",
        "/api/llm/../../admin/users", "/api/llm/admin/users", "http://127.0.0.1/admin/users", "/admin\\users",
        "/\\admin/users", "/health/../admin/users", "/metrics/../admin/keys", "*")  # fmt: skip
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "get", "PROPFIND")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_way_of_writing_a_path_or_method_opens_admin(accounts: Accounts, talk: Talk) -> None:
    alice = await accounts.client("alice")
    secret_key = await accounts.client("bob", name="the-private-name-of-bob")

    async def ask(method: str, way: str, auth: str, more: str = "") -> tuple[int, bytes]:
        said = (
            f"{method} {way} HTTP/1.1\r\nHost: 127.0.0.1\r\n{auth}{more}Connection: close\r\nContent-Length: 0\r\n\r\n"
        )
        answer: bytes = await talk(accounts.port, said.encode())
        return int(answer.split(b" ", 2)[1]), answer

    for auth, refused in ((f"Authorization: Bearer {alice}\r\n", 403), ("", 401)):
        asked = [(method, way) for way in WAYS for method in METHODS]
        for (method, way), (status, answer) in zip(
            asked, await asyncio.gather(*(ask(method, way, auth) for method, way in asked)), strict=True
        ):
            assert status in (refused, 400, 404, 405), (method, way, status)
            assert b"the-private-name" not in answer, (method, way)
            assert secret_key[:8].encode() not in answer, (method, way)
        for more in (
            "X-HTTP-Method-Override: GET\r\n",
            "X-Original-URL: /admin/users\r\n",
            "X-Forwarded-For: 127.0.0.1\r\n",
        ):
            status, answer = await ask("GET", "/admin/users", auth, more)
            assert (status, b"the-private-name" in answer) == (refused, False)
    status, answer = await ask("GET", "/admin/users", "Authorization: Bearer admin-of-accounts-0123456789\r\n")
    assert (status, b"the-private-name" in answer) == (200, True), "the test asks for what is there"


async def test_every_admin_path_is_closed_to_all_but_admins(accounts: Accounts) -> None:
    alice = await accounts.client("alice")
    await accounts.client("bob")
    routes = {
        (route.method, route.resource.canonical)
        for route in accounts.gateway.app().router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/admin") and route.method != "*"
    }
    assert len(routes) > 25
    for method, pattern in sorted(routes):
        user_id = "quota" if (method, pattern) == ("POST", "/admin/users/{user_id}") else "bob"
        path = pattern.format(user_id=user_id, key_id="k", model_id="m")
        bodies = [None] if method in ("GET", "HEAD", "DELETE") else [None, {}, b"{", {"user_id": "eve", "admin": True}]
        for body in bodies:
            for key, status in ((None, 401), ("wrong-key-0123456789abcdef", 401), (alice, 403), (PLAIN, 403),
                                (token("alice", role="user"), 403)):  # fmt: skip
                answer = await accounts.call(method, path, body, key=key)
                assert answer.status == status, (method, path)
                assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    ids = [user["user_id"] for user in (await accounts.done("GET", "/admin/users"))["data"]]
    assert ids == ["alice", "bob"], "and nothing was done"


async def test_without_any_authenticator_admin_is_closed(
    open_accounts: OpenAccounts, mock_model: Callable[..., Any]
) -> None:
    off = {"enabled": False}
    async with open_accounts(mock_model(), plugin_auth_keys=off, plugin_auth_jwt=off) as accounts:
        assert (await accounts.chat(None)).status == 200
        for path in ADMIN_PATHS:
            for key in (None, "anything", "admin-of-accounts-0123456789"):
                answer = await accounts.call("GET", path, key=key)
                assert answer.status == 403, path
                assert answer.json["error"]["code"] == "admin_required"
        answer = await accounts.call("POST", "/admin/users", {"user_id": "eve", "admin": True}, key=None)
        assert answer.status == 403


async def test_a_key_or_user_that_is_no_longer_admin_is_refused_at_once(accounts: Accounts) -> None:
    await accounts.done("POST", "/admin/users", {"user_id": "chief", "admin": True})
    made = await accounts.done("POST", "/admin/users/chief/keys", {})
    assert (await accounts.call("GET", "/admin/users", key=made["key"])).status == 200
    await accounts.done("PATCH", "/admin/users/chief", {"admin": False})
    assert (await accounts.call("GET", "/admin/users", key=made["key"])).status == 403
    await accounts.done("PATCH", "/admin/users/chief", {"disabled": True})
    answer = await accounts.call("GET", "/v1/models", key=made["key"])
    assert (answer.status, answer.json["error"]["code"]) == (401, "user_disabled")
    await accounts.done("DELETE", "/admin/users/chief")
    assert (await accounts.call("GET", "/v1/models", key=made["key"])).status == 401


async def test_a_deleted_users_successor_of_the_same_name_has_neither_its_keys(accounts: Accounts) -> None:
    old = await accounts.client("alice")
    await accounts.done("DELETE", "/admin/users/alice")
    new = await accounts.client("alice")
    assert [(await accounts.chat(key)).status for key in (old, new)] == [401, 200]


async def test_a_vendor_key_that_was_changed_is_not_used_again(open_accounts: OpenAccounts, openai_wire: Any) -> None:
    async with StubUpstream(openai_wire.text("hi")) as first, StubUpstream(openai_wire.text("hi")) as second:
        async with open_accounts() as accounts:
            model = {"model_id": "m", "vendor_type": "OpenAI", "base_url": first.url, "api_key": "old-vendor-key"}
            await accounts.done("POST", "/admin/models", model)
            key = await accounts.client("alice")
            assert (await accounts.chat(key)).status == 200
            await accounts.done("PATCH", "/admin/models/m", {"api_key": "new-vendor-key"})
            assert (await accounts.chat(key)).status == 200
            await accounts.done("PATCH", "/admin/models/m", {"base_url": second.url})
            assert (await accounts.chat(key)).status == 200
            await accounts.done("DELETE", "/admin/models/m")
            assert (await accounts.chat(key)).status == 404
        sent = [[request.headers["authorization"] for request in stub.requests] for stub in (first, second)]
        assert sent == [["Bearer old-vendor-key", "Bearer new-vendor-key"], ["Bearer new-vendor-key"]]
