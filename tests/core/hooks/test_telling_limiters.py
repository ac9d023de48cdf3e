"""How a caller stands with its limits: who is asked for it, when, and what becomes of answers it cannot be told on."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web

from gatehook import (
    PRINCIPAL,
    AuthenticationFailed,
    Call,
    Principal,
    RateLimited,
    Route,
    TellingLimiter,
    Unavailable,
    UpstreamError,
    limit_headers,
)
from gatehook.calls import standing


class Teller:
    """Tells what it is given, or fails with it; admits everybody, and says so in a header if it is to."""

    def __init__(self, told: Any, *, admits_aloud: bool = True, refuses: Exception | None = None) -> None:
        self.told = told
        self.asked: list[str] = []
        self._aloud, self._refuses = admits_aloud, refuses

    def admit(self, call: Call) -> None:
        if self._aloud:
            call.answer_headers["X-RateLimit-Limit"] = "admitted"
        if self._refuses is not None:
            raise self._refuses

    async def standing(self, principal: Principal) -> Mapping[str, str]:
        self.asked.append(principal.id)
        if isinstance(self.told, BaseException):
            raise self.told
        if self.told is None:
            await asyncio.Event().wait()
        told: Mapping[str, str] = self.told
        return told


_implements: type[TellingLimiter] = Teller
LIMIT = "X-RateLimit-Limit"


async def get(ask: Any, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    async with asyncio.timeout(10), ask.session.request(method, ask.url + path, headers=headers) as answer:
        await answer.read()
        return answer.status, answer.headers


async def test_a_limiter_is_asked_where_none_was_asked_to_admit(kit: Any) -> None:
    one, two = Teller({LIMIT: "5"}), Teller({"X-RateLimit-Other": "6"})
    plugins = {"a": kit.specimen(register_limiters=[one]), "b": kit.specimen(register_limiters=[two])}
    async with kit.client(**plugins) as ask:
        for stream in (False, True):
            for early in (await ask.chat(data=b"{"), await ask.chat(stream=stream, model="")):
                assert early.status == 400
                assert (early.headers[LIMIT], early.headers["X-RateLimit-Other"]) == ("5", "6")
        for path, method, status in (("/v1/models", "GET", 200), ("/nothing", "POST", 404), ("/v1/models", "PUT", 405)):
            found, headers = await get(ask, path, method)
            assert (found, headers[LIMIT], headers["X-RateLimit-Other"]) == (status, "5", "6")
        assert one.asked == two.asked == ["anonymous"] * 7


async def test_a_limiter_that_was_asked_to_admit_is_not_asked_again(kit: Any) -> None:
    one, vendor = Teller({LIMIT: "5"}), kit.Vendor(UpstreamError("out of order"))
    async with kit.client(vendor, a=kit.specimen(register_limiters=[one])) as ask:
        for answer in (await ask.chat(), await ask.chat(stream=True), await ask.chat(model="unknown")):
            assert (answer.status in (404, 502), answer.headers[LIMIT]) == (True, "admitted")
    silent = Teller({LIMIT: "5"}, admits_aloud=False)
    async with kit.client(kit.Vendor(UpstreamError("no")), a=kit.specimen(register_limiters=[silent])) as ask:
        assert LIMIT not in (await ask.chat()).headers  # it had its turn, and said nothing
    assert (one.asked, silent.asked) == ([], [])


async def test_a_limiter_that_comes_after_one_that_refuses_is_asked(kit: Any) -> None:
    first, then = kit.Gatekeeper("a", [], refuses=RateLimited("no money left")), Teller({LIMIT: "5"})
    plugins = {**kit.limiters(first), "b": kit.specimen(register_limiters=[then])}
    async with kit.client(**plugins) as ask:
        answer = await ask.chat()
    assert (answer.status, answer.headers[LIMIT], then.asked) == (429, "5", ["anonymous"])


async def test_nobody_is_asked_about_who_is_not_known(kit: Any) -> None:
    one = Teller({LIMIT: "5"})
    door = kit.Door(good=Principal("ann"), bad=AuthenticationFailed("revoked"), odd=RuntimeError("boom"))
    plugins = {"a": kit.specimen(register_limiters=[one]), "d": kit.specimen(register_authenticators=[door])}
    async with kit.client(**plugins) as ask:
        for token in ("", "bad", "odd", "wrong"):
            headers = {"Authorization": f"Bearer {token}"}
            assert LIMIT not in (await ask.chat(headers)).headers
            for path, method in (("/v1/models", "GET"), ("/nothing", "GET"), ("/v1/models", "PUT")):
                status, told = await get(ask, path, method, **headers)
                assert status in (401, 404, 405) or token == "odd"
                assert LIMIT not in told
        assert one.asked == []
        for path, method in (("/v1/models", "GET"), ("/nothing", "GET"), ("/v1/models", "PUT")):
            assert (await get(ask, path, method, Authorization="Bearer good"))[1][LIMIT] == "5"
    assert one.asked == ["ann"] * 3


@pytest.mark.parametrize(
    "told",
    [Unavailable("away"), RuntimeError("boom"), SystemExit(1), {LIMIT: "5\r\nX-Evil: 1"}, 5, {LIMIT: 5}, {LIMIT}, None],
    ids=repr,
)
async def test_an_answer_goes_out_though_it_cannot_be_told(
    kit: Any, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    monkeypatch.setattr(standing, "_PATIENCE", 0.05)
    one, two = Teller(told), Teller({"X-RateLimit-Other": "6"})
    plugins = {"a": kit.specimen(register_limiters=[one]), "b": kit.specimen(register_limiters=[two])}
    async with kit.client(**plugins) as ask, asyncio.timeout(10):
        early, (status, listed) = await ask.chat(data=b"{"), await get(ask, "/v1/models")
    assert (early.status, status) == (400, 200)
    for headers in (early.headers, listed):
        assert headers["X-RateLimit-Other"] == "6"
        assert LIMIT not in headers
        assert "X-Evil" not in headers


async def test_an_authenticator_that_does_not_answer_does_not_hold_up_what_is_not_there(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        async def authenticate(self, credential: Any) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(standing, "_PATIENCE", 0.05)
    limiter = kit.specimen(register_limiters=[Teller({LIMIT: "5"})])
    async with kit.client(a=limiter, d=kit.specimen(register_authenticators=[Silent()])) as ask:
        status, headers = await get(ask, "/nothing")
    assert (status, LIMIT in headers) == (404, False)


async def test_plugins_own_routes_tell_also_in_errors_and_in_streams_that_ask(kit: Any) -> None:
    async def streams(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=await limit_headers(request))
        await response.prepare(request)
        await response.write_eof(request[PRINCIPAL].id.encode())
        return response

    async def fails(request: web.Request) -> web.StreamResponse:
        raise RuntimeError("boom")

    async def refuses(request: web.Request) -> web.StreamResponse:
        raise web.HTTPForbidden

    async def tells_itself(request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"x-ratelimit-limit": "mine"})

    async def is_open(request: web.Request) -> web.StreamResponse:
        assert await limit_headers(request) == {}
        return web.Response()

    routes = [
        Route("GET", "/streams", streams),
        Route("GET", "/fails", fails),
        Route("GET", "/refuses", refuses),
        Route("GET", "/own", tells_itself),
        Route("GET", "/open", is_open, auth=False),
        Route("GET", "/open/fails", fails, auth=False),
        Route("GET", "/admin", is_open, auth="admin"),
    ]
    plugin = kit.specimen(register_limiters=[Teller({LIMIT: "5"})], register_routes=routes)
    expected = [
        ("/streams", 200, "5"),
        ("/fails", 500, "5"),
        ("/refuses", 403, "5"),
        ("/own", 200, "mine"),
        ("/open", 200, None),
        ("/open/fails", 500, "5"),
        ("/admin", 403, "5"),
    ]
    async with kit.client(a=plugin) as ask:
        for path, status, limit in expected:
            found, headers = await get(ask, path)
            assert (path, found, headers.getall(LIMIT, [None])) == (path, status, [limit])
