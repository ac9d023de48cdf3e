"""What answers tell of limits where no limiter was asked to admit a call: the same headers, and nothing is charged."""

import itertools
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import pytest

from gatehook import Key, Limits, Principal, User
from gatehook.awaiting import awaited
from gatehook_plugins.rate_limit.rules import rules

PEOPLE: Final = "[plugins.people]\n"
LIMITED: Final = "[plugins.rate_limit]\n"
SURFACES: Final = """
[plugins.openai_api]
[plugins.images_api]
[plugins.llm_api]
[plugins.generate_api]
[plugins.system_api]
[plugins.health]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "m"
vendor = "mock"
options = { text = "Fine.", usage = { prompt_tokens = 40, completion_tokens = 60 } }
[[models]]
name = "secret"
vendor = "mock"
"""
MESSAGES: Final = [{"role": "user", "content": "hi"}]
CHAT: Final = {"model": "m", "messages": MESSAGES}
BODIES: Final[Mapping[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/images/generations": {"prompt": "a cat"},
    "/api/llm/generate": {"messages": MESSAGES},
    "/api/v1/generate": {"prompt": "hi"},
}
PATHS: Final = tuple(BODIES)

_names = itertools.count()

Surfaces = Callable[[str], AbstractAsyncContextManager[Callable[..., Any]]]


@pytest.fixture
def limited(people: dict[str, Principal]) -> None:
    """Comes with the token "t", and has limits that nobody has used of; "free" has none. Both may call one model."""
    name, models = f"ann{next(_names)}", frozenset({"m"})
    key = Key(f"{name}-key", name, "gk_ann", limits=Limits(100, 50_000))
    people["t"] = Principal(name, models=models, key=key, user=User(name))
    people["free"] = Principal("free", models=models, user=User("free"))


EARLY: Final = [
    ("GET", "/v1/models", None, 200),
    ("HEAD", "/v1/models", None, 200),
    ("GET", "/v1/models/m", None, 200),
    ("GET", "/v1/models/none", None, 404),
    ("GET", "/api/llm/models", None, 200),
    ("GET", "/api/llm/models/m/status", None, 200),
    ("GET", "/api/v1/llm/models", None, 200),
    ("GET", "/api/llm/models/none/status", None, 404),
    ("GET", "/api/v1/models", None, 200),
    ("GET", "/v1/system/status", None, 200),
    ("PUT", "/api/llm/config/models/m", {}, 403),
    ("POST", "/api/v1/batch/generate", b"{", 400),
    ("GET", "/v1/chat/completions", None, 405),
    ("POST", "/v1/nothing", CHAT, 404),
    ("GET", "/api/llm/nothing", None, 404),
    ("GET", "/api/v1/nothing", None, 404),
    *(("POST", path, b"no JSON", 400) for path in PATHS),
    *(("POST", path, b"", 400) for path in PATHS),
    *(("POST", path, {**BODIES[path], "model": "secret"}, 403) for path in PATHS),
    *(("POST", path, {**BODIES[path], "model": "secret", "stream": True}, 403) for path in (PATHS[0], PATHS[3])),
    ("POST", "/api/llm/generate/stream", {**BODIES[PATHS[2]], "model": "secret"}, 403),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": "yes"}, 400),
    ("POST", "/v1/chat/completions", {**CHAT, "async": True}, 400),
]


async def test_every_answer_of_a_limited_key_tells_how_it_stands_and_only_calls_are_charged(
    surfaces: Surfaces, limited: None, redis_table: str
) -> None:
    async with surfaces(redis_table + SURFACES + PEOPLE + LIMITED) as ask:
        first = await ask("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 100})
        assert (first.status, first.limits["x-ratelimit-remaining"]) == (200, "99")
        for method, path, body, status in EARLY:
            answer = await ask(method, path, body)
            assert answer.status == status, (method, path, body)
            assert answer.limits.keys() == first.limits.keys(), (method, path, body)
            for name in ("limit", "remaining", "limit-requests", "remaining-requests", "limit-tokens"):
                assert answer.limits[f"x-ratelimit-{name}"] == first.limits[f"x-ratelimit-{name}"], (method, path)
            assert answer.limits["x-ratelimit-remaining-tokens"] == "49900"
            assert answer.limits["x-ratelimit-reset-requests"] != "0s"
        streamed = await ask("POST", "/v1/chat/completions", {**CHAT, "stream": True})
        assert (streamed.status, streamed.limits["x-ratelimit-remaining"]) == (200, "98")


async def test_a_type_that_is_no_json_is_refused_with_the_limits(surfaces: Surfaces, limited: None) -> None:
    async with surfaces(SURFACES + PEOPLE + LIMITED) as ask:
        for path in PATHS:
            answer = await ask("POST", path, b"hi", kind="text/plain")
            assert answer.status in (400, 415)
            assert answer.limits["x-ratelimit-remaining"] == "100"


async def test_who_is_not_known_or_has_no_limits_is_told_none(
    surfaces: Surfaces, limited: None, redis_table: str
) -> None:
    async with surfaces(redis_table + SURFACES + PEOPLE + LIMITED) as ask:
        for method, path, body, status in EARLY:
            free = await ask(method, path, body, "free")
            assert (free.status, free.limits) == (status, {}), (method, path)
            for token in ("", "wrong"):
                answer = await ask(method, path, body, token)
                assert answer.status in (401, 404, 405), (method, path)
                assert answer.limits == {}, (method, path)


async def test_without_authentication_everybody_is_told_how_all_stand(surfaces: Surfaces) -> None:
    async with surfaces(f"{SURFACES}{LIMITED}requests_per_minute = 7\n") as ask:
        for path, status in (("/v1/models", 200), ("/v1/nothing", 404)):
            answer = await ask("GET", path, token="")
            assert (answer.status, answer.limits["x-ratelimit-remaining"]) == (status, "7")
        assert (await ask("POST", "/v1/chat/completions", b"{", token="")).limits["x-ratelimit-remaining"] == "7"
        assert (await ask("GET", "/health", token="")).limits == {}


async def test_jobs_and_streams_of_plugins_own_tell_too(
    surfaces: Surfaces, limited: None, redis_table: str, tmp_path: Path
) -> None:
    tables = f'[database]\nurl = "sqlite+aiosqlite:///{tmp_path}/g.db"\n[plugins.database]\n[plugins.ledger]\n'
    tables += "[plugins.jobs]\n[plugins.tool_policy]\n"
    async with surfaces(redis_table + tables + SURFACES + PEOPLE + LIMITED) as ask:
        pending = await ask("GET", "/v1/tools/pending/events")
        assert (pending.status, pending.limits["x-ratelimit-remaining"]) == (200, "100")
        accepted = await ask("POST", "/v1/chat/completions", {**CHAT, "async": True})
        assert (accepted.status, accepted.limits["x-ratelimit-limit"]) == (202, "100")
        events = await ask("GET", f"/v1/jobs/{json.loads(accepted.body)['job_id']}/events")
        assert (events.status, events.limits["x-ratelimit-limit"]) == (200, "100")


async def test_a_peek_charges_nothing(store: Any, clock: Any) -> None:
    gate = store.gate(rules("key", "k", Limits(3, 900, 2)))
    for _ in range(5):
        before = await awaited(gate.peek())
        assert (list(before.left), list(before.resets), before.grant) == ([3, 900, 2], [0, 0, 0], None)
    granted = await awaited(gate.admit(400))  # a quarter of a second after a whole one
    clock.turn(10)
    for _ in range(5):
        after = await awaited(gate.peek())
        assert list(after.left) == list(granted.left) == [2, 500, 1]
        assert list(after.resets) == [50_750_000, 50_750_000, 0]
    clock.turn(61)
    assert list((await awaited(gate.peek())).left)[:2] == [3, 900]
    await awaited(granted.grant.gate.settle(granted.grant, 1, 400))
    assert list((await awaited(gate.peek())).left) == [3, 900, 2]


async def test_who_has_used_more_than_all_has_nothing_left(store: Any) -> None:
    gate = store.gate(rules("user", "k", Limits(None, 100)))
    grant = (await awaited(gate.admit(90))).grant
    await awaited(grant.gate.settle(grant, 1, 250))
    assert list((await awaited(gate.peek())).left) == [0]


@pytest.mark.parametrize(("on_failure", "left"), [("local", "5"), ("open", None), ("closed", None)])
async def test_while_redis_is_gone_answers_come_in_time_and_tell_what_the_node_knows(
    surfaces: Surfaces, people: dict[str, Principal], silent_url: str, on_failure: str, left: str | None
) -> None:
    people["t"] = Principal("ann", user=User("ann", limits=Limits(5)))
    redis = f'[redis]\nurl = "{silent_url}"\ntimeout = 0.1\n'
    async with surfaces(f'{redis}{SURFACES}{PEOPLE}{LIMITED}on_failure = "{on_failure}"\n') as ask:
        for method, path, body, status in [("GET", "/v1/models", None, 200), ("POST", PATHS[0], b"{", 400)] * 3:
            answer = await ask(method, path, body)
            assert (answer.status, answer.limits.get("x-ratelimit-remaining")) == (status, left)
