"""Nothing that is sent to /admin is answered with a 500, lets the wrong people in, or is written by half."""

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook.testing import serving

ROUTES = [
    ("GET", "/admin/users"), ("POST", "/admin/users"), ("POST", "/admin/users/quota"), ("GET", "/admin/users/{}"),
    ("PATCH", "/admin/users/{}"), ("DELETE", "/admin/users/{}"), ("GET", "/admin/users/{}/quota"),
    ("GET", "/admin/users/{}/keys"), ("POST", "/admin/users/{}/keys"), ("GET", "/admin/keys"),
    ("PATCH", "/admin/keys/{}"), ("DELETE", "/admin/keys/{}"), ("POST", "/admin/keys/{}/rotate"),
    ("GET", "/admin/models"), ("POST", "/admin/models"), ("GET", "/admin/models/{}"), ("PATCH", "/admin/models/{}"),
    ("PUT", "/admin/models/{}"), ("DELETE", "/admin/models/{}"), ("GET", "/admin/models/{}/fallbacks"),
    ("PUT", "/admin/models/{}/fallbacks"), ("GET", "/admin/usage"), ("GET", "/admin/usage/requests"),
    ("POST", "/admin/usage/corrections"), ("GET", "/admin/audit"),
]  # fmt: skip
RELOAD = ("POST", "/admin/reload")
"""Takes no body, and is refused where no parent process would do it."""
WITH_BODY = [(method, path) for method, path in ROUTES if method in ("POST", "PUT", "PATCH")]
BODY_OPTIONAL = {"/admin/users/{}/keys", "/admin/keys/{}/rotate"}


async def test_these_are_all_the_routes(admin: Any) -> None:
    served = {
        (route.method, re.sub(r"{\w+[^}]*}", "{}", route.path))
        for plugin, route in admin.gateway._routes
        if plugin == "admin_api" and ":quota" not in route.path
    }
    assert served == {*ROUTES, RELOAD} - {("POST", "/admin/users/quota")}
    assert all(route.auth == "admin" for plugin, route in admin.gateway._routes if plugin == "admin_api")


async def test_only_admins_get_in(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    ordinary = (await admin.done("POST", "/admin/users/alice/keys", {}))["key"]
    for method, path in [*ROUTES, RELOAD]:
        path = path.format("alice")
        for key in (ordinary, admin.ordinary):
            assert (await admin.refused(403, method, path, key=key))["code"] == "admin_required"
        assert (await admin.refused(401, method, path, key=""))["type"] == "authentication_error"
        assert (await admin.refused(401, method, path, key="wrong-key-0123456789"))["type"] == "authentication_error"
    admins = (await admin.done("POST", "/admin/users/alice/keys", {"admin": True}))["key"]
    assert (await admin.done("GET", "/admin/users", key=admins))["data"]


async def test_without_any_authentication_it_is_closed(database_url: str) -> None:
    import aiohttp

    text = f'[database]\nurl = "{database_url}"\nsecret = "{"pepper" * 8}"\n[plugins.database]\n[plugins.admin_api]\n'
    async with serving(text) as served, aiohttp.ClientSession() as http:
        for method, path in [*ROUTES, RELOAD]:
            async with http.request(method, served.url + path.format("x")) as answer:
                assert answer.status == 403


NO_OBJECTS: tuple[tuple[bytes, dict[str, str], int, str | None], ...] = (
    (b"", {}, 400, None),
    (b"{", {}, 400, "invalid_json"),
    (b"\xff\xfe{}", {}, 400, "invalid_json"),
    (b'{"name": NaN}', {}, 400, None),
    (b'{"name": "\\ud800"}', {}, 400, None),
    (b"[]", {}, 400, None),
    (b"null", {}, 400, None),
    (b'"text"', {}, 400, None),
    (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    (b'{"a":' * 300 + b"1" + b"}" * 300, {}, 400, "invalid_json"),
    (b"[" * 100_000 + b"]" * 100_000, {}, 400, "invalid_json"),
)


async def test_what_is_no_such_object_is_refused_everywhere(open_admin: Any) -> None:
    async with open_admin(records=True) as admin:
        for body, headers, status, code in NO_OBJECTS:
            for method, path in WITH_BODY:
                if not body and path in BODY_OPTIONAL:
                    continue
                error = await admin.refused(status, method, path.format("x"), body, headers=headers)
                assert error["type"] == "invalid_request_error"
                assert code in (None, error["code"])
        assert (await admin.done("GET", "/admin/audit"))["data"] == []


async def test_a_body_that_cannot_be_unpacked_is_refused(admin: Any) -> None:
    error = await admin.refused(400, "POST", "/admin/users", b"no gzip", headers={"Content-Encoding": "gzip"})
    assert "cannot be read" in error["message"]


@pytest.mark.parametrize("database_url", ["not used"])
async def test_without_its_database_it_answers_503_and_recovers_when_it_is_back(
    database_url: str, own_postgres: Any, open_admin: Any
) -> None:
    async with open_admin(records=True, url=own_postgres.url("postgres")) as admin:
        await admin.done("POST", "/admin/users", {"user_id": "alice"})
        await asyncio.to_thread(own_postgres.stop)
        for method, path, body in (
            ("GET", "/admin/users", None), ("POST", "/admin/users", {"user_id": "bob"}),
            ("PATCH", "/admin/users/alice", {"name": "A"}), ("DELETE", "/admin/users/alice", None),
            ("POST", "/admin/users/alice/keys", {}), ("GET", "/admin/keys", None), ("GET", "/admin/models", None),
            ("POST", "/admin/models", {"model_id": "m", "vendor_type": "mock"}), ("GET", "/admin/usage", None),
            ("GET", "/admin/usage/requests", None), ("GET", "/admin/audit", None),
            ("POST", "/admin/usage/corrections", {"user_id": "alice", "tokens": 1, "reason": "r"}),
        ):  # fmt: skip
            error = await admin.refused(503, method, path, body)
            assert str(own_postgres.folder) not in error["message"]
        await asyncio.to_thread(own_postgres.start)
        assert (await admin.done("POST", "/admin/users", {"user_id": "bob"}))["user_id"] == "bob"
        assert [user["user_id"] for user in (await admin.done("GET", "/admin/users"))["data"]] == ["alice", "bob"]


CAPS = ("rpm_limit", "tpm_limit", "concurrent_limit", "token_quota", "token_quota_per_day", "token_quota_per_month")
BUDGETS = ("budget", "budget_per_day", "budget_per_month")
ABSURD: tuple[Any, ...] = (-1, 1.5, 1.0, True, False, "5", "", [], {}, 10**15 + 1, 10**30, 1e300)
ABSURD_DOLLARS: tuple[Any, ...] = (
    -1,
    -0.001,
    True,
    "much",
    "",
    [],
    {},
    10**10,
    1e300,
    "NaN",
    "Infinity",
    "1e-10",
    1e-10,
)


async def test_absurd_quotas_are_refused_by_their_field_and_nothing_is_written(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice", "token_quota": 5})
    before = await admin.done("GET", "/admin/users/alice")
    wrong: list[tuple[str, Any]] = [(field, value) for field in CAPS for value in ABSURD]
    wrong += [(field, value) for field in BUDGETS for value in ABSURD_DOLLARS]
    wrong += [("name", 5), ("name", None), ("name", "x" * 5000), ("name", "a\nb"), ("admin", 1), ("admin", None)]
    wrong += [("disabled", "no"), ("models", "gpt"), ("models", [1]), ("models", [""]), ("models", {})]
    for field, value in wrong:
        asked = {"name": "Changed", field: value}
        for method, path, body in (
            ("PATCH", "/admin/users/alice", asked),
            ("POST", "/admin/users/quota", {"user_id": "alice", **asked}),
            ("POST", "/admin/users", {"user_id": "new", **asked}),
        ):
            error = await admin.refused(400, method, path, body)
            assert error["param"].startswith(field), (body, error)
            assert error["message"].startswith(field), (body, error)
    assert await admin.done("GET", "/admin/users/alice") == before
    await admin.refused(404, "GET", "/admin/users/new")
    assert len((await admin.done("GET", "/admin/audit"))["data"]) == 1


async def test_ids_that_cannot_be_are_refused(admin: Any) -> None:
    for user_id in ("", " a", "a ", "a/b", "a\x00b", "a\nb", "x" * 129, "x" * 100_000, None, 5, ["a"], "\u2028"):
        for path in ("/admin/users", "/admin/users/quota"):
            error = await admin.refused(400, "POST", path, {"user_id": user_id})
            assert error["param"] == "user_id"
    await admin.refused(400, "POST", "/admin/users/quota", {"rpm_limit": 5})
    assert (await admin.done("GET", "/admin/users"))["data"] == []


async def test_an_unknown_field_is_named_with_the_nearest_known(admin: Any) -> None:
    error = await admin.refused(400, "POST", "/admin/users/quota", {"user_id": "a", "rpm_limt": 5})
    assert error["param"] == "rpm_limt"
    assert error["message"] == "rpm_limt: no such field; did you mean 'rpm_limit'?"
    error = await admin.refused(400, "POST", "/admin/users/quota", {"user_id": "a", "xyzzy" * 1000: 5})
    assert len(error["message"]) < 600
    error = await admin.refused(400, "GET", "/admin/users?limt=5")
    assert error["message"] == "limt: no such field; did you mean 'limit'?"


async def test_wrong_pages_are_refused(admin: Any) -> None:
    await admin.done("POST", "/admin/users/quota", {"user_id": "alice"})
    for query in ("limit=0", "limit=-1", "limit=501", "limit=x", "limit=", "limit=1&limit=2", "after=%00"):
        for path in ("/admin/users", "/admin/keys", "/admin/users/alice/keys"):
            assert (await admin.refused(400, "GET", f"{path}?{query}"))["param"] == query.partition("=")[0]


ODD = ["", "alice", "mock", "\x00", "\ud800", "\u202e", "2026-11-21", "env:HOME", "x" * 300]
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, 1, 10**15, 2**63, 10**30, -1]), st.floats(),
    st.text(max_size=8), st.sampled_from(ODD),
)  # fmt: skip
ANY = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3), max_leaves=4
)
NAMES = st.lists(st.sampled_from(["mock", "m", "alice", "a/b"]) | st.text(max_size=4), max_size=3)
FLAG, COUNT, DOLLARS = st.booleans(), st.integers(0, 10**15) | st.none(), st.decimals(0, 10**9, places=9).map(str)
LIMITED = {"name": st.text(max_size=8), "admin": FLAG, "models": NAMES, **dict.fromkeys(CAPS[:3], COUNT)}
USER = {**LIMITED, "disabled": FLAG, **dict.fromkeys(CAPS, COUNT), **dict.fromkeys(BUDGETS, DOLLARS)}
KEY = {**LIMITED, "disabled": FLAG, "expires_in": st.integers(1, 10**9), "expires_at": st.dates().map(str)}
NESTED = {
    "rate_limit": st.dictionaries(st.sampled_from(["requests_per_minute", "_env_file", "x"]), st.integers(0, 5)),
    "limits": st.dictionaries(st.sampled_from(["max_tokens", "context_window"]), st.integers(0, 5)),
    "pricing": st.dictionaries(st.sampled_from(["input_per_1k_tokens", "output_per_1k_tokens"]), st.floats(0, 1)),
    "options": st.dictionaries(st.sampled_from(["text", "mode", "\x00", "fault"]), ANY, max_size=2),
}
MODEL = {
    **NESTED, "vendor_type": st.just("Mock"), "name": st.text(max_size=8), "base_url": st.text(max_size=8),
    "api_key": st.text(max_size=20), "weight": st.floats(0, 9), "priority": st.integers(), "timeout": st.floats(1, 99),
    "fallbacks": NAMES, "capabilities": NAMES, "strict": FLAG, "enabled": FLAG, "model": st.text(max_size=9),
}  # fmt: skip
CORRECTION = {
    "user_id": st.just("alice"), "model": st.text(max_size=5), "tokens": st.integers(-(10**15), 10**15),
    "cost": DOLLARS, "reason": st.text(max_size=9),
}  # fmt: skip
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "/admin/users": {"user_id": st.text(max_size=5), **USER},
    "/admin/users/quota": {"user_id": st.just("alice"), **USER},
    "/admin/users/{}": USER,
    "/admin/users/{}/keys": KEY,
    "/admin/keys/{}": KEY,
    "/admin/keys/{}/rotate": {"overlap_seconds": st.floats(0, 10**7)},
    "/admin/models": {"model_id": st.text(max_size=5), **MODEL},
    "/admin/models/{}": MODEL,
    "/admin/models/{}/fallbacks": {"fallbacks": NAMES},
    "/admin/usage/corrections": CORRECTION,
}
REQUIRED: dict[str, dict[str, Any]] = {
    "/admin/users": {"user_id": "bob"},
    "/admin/users/quota": {"user_id": "alice"},
    "/admin/models": {"model_id": "m", "vendor_type": "mock"},
    "/admin/models/{}": {"vendor_type": "mock"},
    "/admin/models/{}/fallbacks": {"fallbacks": []},
    "/admin/usage/corrections": {"user_id": "alice", "tokens": 1, "reason": "r"},
}
IDS = st.sampled_from(["%00", "%FF", "%20", "..", "x" * 300, "a%2Fb", "%ED%A0%80", "mock", "mock%231"])
QUERY = st.dictionaries(
    st.sampled_from(["after", "limit", "user_id", "model", "start_date", "end_date", "by", "before", "?"]),
    st.sampled_from([*ODD, "0", "-1", "1e3", "2026-11-21T10:00:00+25:00", "9" * 30]) | st.text(max_size=6),
    max_size=2,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, str, Any]:
    """A method, a path, and a body for it: some of what it takes, some of it odd; or anything at all."""
    method, path = draw(st.sampled_from(WITH_BODY))
    if draw(st.integers(0, 9)) == 0:
        return method, path, draw(ANY)
    fields = FIELDS[path]
    named = draw(st.lists(st.sampled_from([*fields]), max_size=4, unique=True))
    given_ = {name: draw(fields[name] if draw(st.integers(0, 3)) else ANY) for name in named}
    return method, path, {**REQUIRED.get(path, {}), **given_}


async def test_whatever_is_sent_is_never_a_500(open_admin: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    loop = asyncio.get_running_loop()
    async with open_admin(records=True) as admin:
        await admin.done("POST", "/admin/users", {"user_id": "alice"})
        key = await admin.done("POST", "/admin/users/alice/keys", {})
        await admin.done("POST", "/admin/models", {"model_id": "m", "vendor_type": "mock"})
        there = {"users": "alice", "keys": key["key_id"], "models": "m"}

        def sent(method: str, path: str, name: str | None, **rest: Any) -> None:
            path = path.format(name or there.get(path.split("/")[2]))
            status, _, raw = asyncio.run_coroutine_threadsafe(admin.raw(method, path, **rest), loop).result(10)
            assert status < 500, (method, path, rest, raw)
            json.loads(raw)

        @given(bodies(), st.none() | IDS)
        @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
        def changes(asked: tuple[str, str, Any], name: str | None) -> None:
            sent(asked[0], asked[1], name, body=asked[2])

        @given(st.sampled_from(ROUTES), IDS | st.none(), QUERY)
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        def questions(route: tuple[str, str], name: str | None, query: dict[str, str]) -> None:
            params = {one: value.encode("utf-8", "replace").decode() for one, value in query.items()}
            sent("GET" if name is None else route[0], route[1], name, params=params)

        await asyncio.to_thread(changes)
        await asyncio.to_thread(questions)
        assert await admin.chat(key["key"]) < 500
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
