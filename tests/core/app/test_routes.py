"""Routes of plugins: who may ask them, what they refuse and in which shape; and who may when nobody is known."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import ClientSession, web

from gatehook import (
    PRINCIPAL,
    AuthenticationFailed,
    Authenticator,
    Conflict,
    Credential,
    GatewayError,
    InvalidRequest,
    Principal,
    RateLimited,
    Route,
    StartupError,
)
from gatehook.app import Gateway
from gatehook.testing import serving

Ask = Callable[..., Any]
Specimen = Callable[..., type]
Build = Callable[..., Gateway]
Told = Callable[..., list[str]]
Asking = Callable[[Gateway], AbstractAsyncContextManager[Ask]]
MakeRoute = Callable[..., Route]

CHAT = "[plugins.openai_api]\n[plugins.route_models]\n"


class Keys:
    """Knows two keys; "bad" is a wrong one of its own."""

    async def authenticate(self, credential: Credential) -> Principal | None:
        if credential.token == "bad":
            raise AuthenticationFailed("revoked")
        people = {"user": Principal("u1"), "admin": Principal("a1", admin=True)}
        return people.get(credential.token)


_implements: type[Authenticator] = Keys


async def test_hook_register_routes_serves_a_path_to_anybody_while_no_authenticator_is_on(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    plugin = specimen(register_routes=[route("GET", "/hello", lambda request: request[PRINCIPAL].id)])
    async with asking(build(hello=plugin)) as ask:
        answer = await ask("GET", "/hello")
    assert (answer.status, answer.body) == (200, b"anonymous")


async def test_hook_register_routes_asks_for_a_user_unless_told_otherwise(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    keys = specimen(register_authenticators=[Keys()])
    plugin = specimen(
        register_routes=[
            route("GET", "/user", lambda request: request[PRINCIPAL].id),
            route("GET", "/admin", lambda request: request[PRINCIPAL].id, auth="admin"),
            route("GET", "/open", "come in", auth=False),
        ]
    )
    async with asking(build(hello=plugin, keys=keys)) as ask:
        seen = {
            (path, key): (await ask("GET", path, headers={"X-API-Key": key} if key else {})).status
            for path in ("/user", "/admin", "/open")
            for key in ("", "nobody's", "bad", "user", "admin")
        }
        refused = await ask("GET", "/admin", headers={"Authorization": "bearer user"})
        denied = await ask("GET", "/user")
    by_path = {
        path: [status for (at, _), status in seen.items() if at == path] for path in ("/user", "/admin", "/open")
    }
    assert by_path == {
        "/user": [401, 401, 401, 200, 200],
        "/admin": [401, 401, 401, 403, 200],
        "/open": [200, 200, 200, 200, 200],
    }
    assert refused.json["error"] == {
        "message": "this needs an admin credential",
        "type": "permission_error",
        "param": None,
        "code": "admin_required",
    }
    assert denied.headers["WWW-Authenticate"] == "Bearer"


async def test_an_admin_route_is_closed_to_everybody_while_no_authenticator_is_on(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    plugin = specimen(register_routes=[route("POST", "/change", "done", auth="admin")])
    async with asking(build(hello=plugin)) as ask:
        assert (await ask("POST", "/change")).status == 403


async def test_another_method_is_405_with_allow_and_openai_s_error_shape(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    plugin = specimen(register_routes=[route("PUT", "/thing", "put"), route("GET", "/thing", "got")])
    async with asking(build(CHAT, hello=plugin)) as ask:
        wrong = await ask("DELETE", "/thing")
        inference = await ask("GET", "/v1/chat/completions")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD, PUT")
    assert wrong.json["error"] == {
        "message": "DELETE is not allowed at /thing; use GET, HEAD, PUT",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_allowed",
    }
    assert (inference.status, inference.headers["Allow"]) == (405, "POST")


async def test_an_unknown_path_is_404_in_openai_s_error_shape(build: Build, asking: Asking) -> None:
    async with asking(build(CHAT)) as ask:
        for path in ("/", "/nothing", "/v1/chat/completions/", "/v1/%2e%2e/x", "//v1/models"):
            answer = await ask("GET", path)
            assert answer.status == 404, path
            assert answer.json["error"]["type"] == "not_found_error"
            assert answer.json["error"]["code"] == "unknown_path"
            assert answer.headers["Content-Type"] == "application/json"


ALL = CHAT + "[plugins.llm_api]\n[plugins.generate_api]\n[plugins.health]\n"
"""All surfaces that are on in the settings that come with the gateway; two of them have 404s of their own."""
CHAT_PATH = "POST /v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/v1/v1/chat/completions", CHAT_PATH),
        ("POST", "/api/v1/chat/completions", CHAT_PATH),
        ("POST", "/api/llm/v1/chat/completions", CHAT_PATH),
        ("POST", "/chat/completions", CHAT_PATH),
        ("POST", "//v1//chat/completions", CHAT_PATH),
        ("POST", "/v1/chat/completions/", CHAT_PATH),
        ("POST", "/V1/Chat/Completions", CHAT_PATH),
        ("POST", "/v1/chat/completions/chat/completions", CHAT_PATH),
        ("POST", "/v1/responses", CHAT_PATH),
        ("POST", "/v1/messages", CHAT_PATH),
        ("POST", "/embeddings", "POST /v1/embeddings"),
        ("GET", "/v1/v1/models", "GET /v1/models"),
        ("GET", "/v1/models/", "GET /v1/models"),
        ("GET", "/models", "GET /v1/models"),
        ("HEAD", "/v1/health", "GET /health"),
    ],
)
async def test_an_unknown_path_names_the_one_that_a_wrong_base_url_means(
    method: str, path: str, meant: str, build: Build, asking: Asking
) -> None:
    async with asking(build(ALL)) as ask:
        answer = await ask(method, path)
    assert answer.status == 404
    if method != "HEAD":
        assert answer.json["error"]["message"] == f"there is nothing at {method} {path}; use {meant}"


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/v1/images/edits"), ("GET", "/v1/responses")])
async def test_an_unknown_path_like_no_other_names_the_list_of_all(
    method: str, path: str, build: Build, asking: Asking
) -> None:
    async with asking(build(ALL)) as ask:
        answer = await ask(method, path)
    assert (
        answer.json["error"]["message"] == f"there is nothing at {method} {path}; GET /openapi.json tells what there is"
    )


async def test_an_unknown_path_names_nothing_that_is_not_there(build: Build, asking: Asking) -> None:
    async with asking(build("[plugins.health]")) as ask:
        answer = await ask("POST", "/v1/responses")
    assert answer.json["error"]["message"] == "there is nothing at POST /v1/responses"


async def test_one_path_may_be_shared_by_plugins_with_different_methods(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    one, two = (specimen(register_routes=[route(method, "/thing", method)]) for method in ("GET", "POST"))
    async with asking(build(one=one, two=two)) as ask:
        assert (await ask("GET", "/thing")).body == b"GET"
        assert (await ask("POST", "/thing")).body == b"POST"
        assert (await ask("PUT", "/thing")).headers["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("GET", "/thing"), ("GET", "/thing")),
        (("GET", "/thing"), ("get", "/thing")),
        (("*", "/thing"), ("GET", "/thing")),
        (("GET", "/thing"), ("*", "/thing")),
        (("GET", "/things/{id}"), ("GET", "/things/{name}")),
    ],
)
def test_a_path_owned_twice_is_an_error_naming_both_plugins(
    first: tuple[str, str], second: tuple[str, str], specimen: Specimen, told: Told, route: MakeRoute
) -> None:
    one, two = (specimen(register_routes=[route(*place)]) for place in (first, second))
    (fault,) = told(one=one, two=two)
    assert fault == f"{second[0].upper()} {second[1]} is served by both plugins 'one' and 'two'; disable one"


def test_an_inference_endpoint_and_a_route_cannot_own_one_path(
    specimen: Specimen, told: Told, route: MakeRoute
) -> None:
    (fault,) = told(CHAT, mine=specimen(register_routes=[route("POST", "/v1/chat/completions")]))
    assert fault == "POST /v1/chat/completions is served by both plugins 'mine' and 'openai_api'; disable one"


async def test_a_route_for_every_method_takes_every_method(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    plugin = specimen(register_routes=[route("*", "/any", lambda request: request.method)])
    async with asking(build(any=plugin)) as ask:
        assert [(await ask(method, "/any")).body for method in ("GET", "PATCH")] == [b"GET", b"PATCH"]


@pytest.mark.parametrize(
    ("raised", "status", "kind", "code"),
    [
        (InvalidRequest("no such thing", param="thing"), 400, "invalid_request_error", None),
        (RateLimited("slowly", retry_after=1.2), 429, "rate_limit_error", "rate_limit_exceeded"),
        (Conflict("taken", final=True), 409, "invalid_request_error", "conflict"),
        (web.HTTPNotFound(), 404, "invalid_request_error", None),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "invalid_request_error", None),
        (web.HTTPBadGateway(), 502, "server_error", None),
        (RuntimeError("password=hunter2"), 500, "server_error", None),
    ],
)
async def test_what_a_route_raises_becomes_an_error_in_openai_s_shape(
    raised: Exception,
    status: int,
    kind: str,
    code: str | None,
    specimen: Specimen,
    build: Build,
    asking: Asking,
    route: MakeRoute,
) -> None:
    async with asking(build(bad=specimen(register_routes=[route("GET", "/bad", raised)]))) as ask:
        answer = await ask("GET", "/bad")
    assert answer.status == status
    assert (answer.json["error"]["type"], answer.json["error"]["code"]) == (kind, code)
    assert b"hunter2" not in answer.body
    assert answer.headers.get("Retry-After") == ("2" if status == 429 else None)
    assert answer.headers.get("X-Should-Retry") == ("false" if status == 409 else None)


async def test_every_answer_has_an_id_of_its_own_which_the_log_and_the_body_of_an_error_tell(
    specimen: Specimen, build: Build, asking: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    async def works(request: web.Request) -> web.Response:
        return web.Response(text="well", headers={"X-Request-ID": "mine"} if request.query else None)

    async def refuses(request: web.Request) -> web.Response:
        raise always

    async def breaks(request: web.Request) -> web.Response:
        raise RuntimeError("broken")

    def written(error: GatewayError) -> bytes:
        return error.request_id.encode()

    always = InvalidRequest("never")  # one object for all requests, as a plugin may have it
    plugin = specimen(
        register_routes=[
            Route("GET", "/works", works, auth=False),
            Route("GET", "/refuses", refuses, auth=False, errors=written),
            Route("GET", "/breaks", breaks, auth=False, errors=written),
        ]
    )
    async with asking(build(one=plugin)) as ask:
        answers = [await ask("GET", path) for path in ("/works", "/refuses", "/refuses", "/breaks", "/nowhere")]
        answers += [await ask("POST", "/refuses")]
        own = await ask("GET", "/works?own")
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("req_[0-9a-f]{32}", one) for one in ids)
    assert [answer.body.decode() for answer in (*answers[1:4], answers[5])] == [*ids[1:4], ids[5]]
    assert f"{ids[3]}: GET /breaks failed" in caplog.text
    assert own.headers["X-Request-ID"] == "mine"


async def test_errors_may_be_whole_answers_and_go_by_the_request(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    def whole(error: GatewayError) -> web.Response:
        return web.Response(status=529, text=error.message, headers={"request-id": error.request_id, "Server": "x"})

    def chosen(request: web.Request) -> Any:
        return {"whole": whole, "body": lambda error: b"body"}.get(request.query_string)

    for raised, status in ((InvalidRequest("no"), 400), (web.HTTPNotFound(), 404), (RuntimeError("no"), 500)):
        plugin = specimen(register_routes=[route("GET", "/bad", raised, errors_for=chosen)])
        async with asking(build(bad=plugin)) as ask:
            for method in ("GET", "PUT"):
                plain, body, answer = [await ask(method, f"/bad{query}") for query in ("", "?body", "?whole")]
                expected = status if method == "GET" else 405
                assert (plain.status, set(plain.json)) == (expected, {"error"})
                assert (body.status, body.body) == (expected, b"body")
                assert answer.status == 529
                assert answer.headers["request-id"] == answer.headers["X-Request-ID"]
                assert answer.headers.getall("Server") == ["gatehook"]


async def test_errors_are_in_the_shape_of_the_request_also_where_nobody_is_let_in(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    mine = route("GET", "/mine", "ok", errors=lambda error: web.Response(status=499, text=error.message))
    plugin = specimen(register_routes=[mine], register_authenticators=[Keys()])
    async with asking(build(mine=plugin)) as ask:
        answer = await ask("GET", "/mine")
    assert answer.status == 499
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_redirect_that_a_route_raises_is_a_redirect(
    specimen: Specimen, build: Build, asking: Asking, route: MakeRoute
) -> None:
    async with asking(build(go=specimen(register_routes=[route("GET", "/go", web.HTTPFound("/there"))]))) as ask:
        answer = await ask("GET", "/go")
    assert (answer.status, answer.headers["Location"]) == (302, "/there")


async def test_a_get_route_answers_head_too_without_a_body() -> None:
    async with serving("[plugins.health]\n") as served, ClientSession() as http:
        answer = await http.head(f"{served.url}/health/live")
        assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.parametrize(
    ("server", "keys", "safe"),
    [
        ('host = "127.0.0.1"', False, True),
        ('host = "::1"', False, True),
        ('host = "localhost"', False, True),
        ('host = "0.0.0.0"', False, False),
        ('host = "::"', False, False),
        ('host = "192.0.2.7"', False, False),
        ('host = "0.0.0.0"', True, True),
        ('host = "0.0.0.0"\nallow_anonymous = true', False, True),
        ('host = "0.0.0.0"\nuds = "/run/gatehook.sock"', False, True),
    ],
)
def test_beyond_this_machine_only_with_authentication_or_by_saying_so(
    server: str, keys: bool, safe: bool, specimen: Specimen, build: Build
) -> None:
    plugins = {"keys": specimen(register_authenticators=[Keys()])} if keys else {}
    gateway = build(f"[server]\n{server}\n", **plugins)
    with contextlib.nullcontext() if safe else pytest.raises(StartupError, match=r"\[server\] host"):
        gateway.require_safe()


@pytest.mark.parametrize("written", [b"", b"begun"])
@pytest.mark.parametrize("error", [InvalidRequest("too late"), web.HTTPNotFound(), RuntimeError("boom")])
async def test_an_answer_that_breaks_is_cut_and_no_second_one_stands_in_its_middle(
    specimen: Specimen, error: Exception, written: bytes
) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if written:
            await response.write(written)
        raise error

    plugin = specimen(register_routes=[Route("GET", "/breaks", breaks, auth=False)])
    async with serving("[plugins.broken]\n", plugins={"broken": plugin}) as served, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*served.url.removeprefix("http://").split(":"))
        writer.write(b"GET /breaks HTTP/1.1\r\nHost: x\r\n\r\n")
        said = await reader.read()
        writer.close()
    assert said.count(b"HTTP/1.1 ") <= 1
    assert written in said
    assert not said.endswith(b"0\r\n\r\n")
