"""Nobody gets another's answer, and nobody gets the answer to another question."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Call, Completion, Document, Entry, Principal
from gatehook.calls.answers import Answers
from gatehook.catalog import LiveCatalog
from gatehook_plugins.cache.lifetimes import Lifetimes
from gatehook_plugins.cache.memory import MemoryStore
from gatehook_plugins.cache.responses import ResponseCache, Scope

Gateway = Callable[..., AbstractAsyncContextManager[Any]]

WORDS = st.text(max_size=3)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(WORDS, VALUES, max_size=3)
PEOPLE = st.builds(
    lambda user, key: Principal(user, key_id=key), st.sampled_from(["", "a", "a:", "ab", "b", ":"]), WORDS
)


def caches(scope: Scope) -> Answers:
    lifetimes = Lifetimes(LiveCatalog([]), 60, {})
    return Answers([ResponseCache(MemoryStore(1 << 20), lifetimes, scope, 1 << 20, None)])


def a_call(who: Principal, body: dict[str, Any], raw: bytes | None = None, **more: Any) -> Call:
    text = json.dumps(body).encode() if raw is None else raw
    return Call("chat", "test", {}, principal=who, model="m", body=Document(raw=text), **more)


async def finds(answers: Answers, stored: Call, asked: Call) -> bool:
    """Whether the answer to the one call is given to the other."""
    entry = Entry(Completion(raw=b'{"an":"answer"}'))
    await answers.put(stored, answers.key(stored), entry)
    key = answers.key(asked)
    found = None if key is None else await answers.get(asked, key)
    assert found is None or (found.completion is not None and found.completion.raw == b'{"an":"answer"}')
    return found is not None


def owner(scope: Scope, who: Principal) -> object:
    return {"user": who.id, "key": (who.id, who.key_id), "all": None}[scope]


def strict(value: Any) -> Any:
    """JSON values that are equal only if they are the same: 1, 1.0 and true are not."""
    if isinstance(value, dict):
        return "object", frozenset((key, strict(one)) for key, one in value.items())
    if isinstance(value, list):
        return "array", tuple(map(strict, value))
    return type(value).__name__, repr(value)


@given(st.sampled_from(get_args(Scope)), PEOPLE, PEOPLE, BODIES, BODIES, st.booleans())
def test_an_answer_is_for_its_owner_and_its_question(
    scope: Scope, ann: Principal, bob: Principal, one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    other = one if same else other
    expected = owner(scope, ann) == owner(scope, bob) and strict(one) == strict(other)
    assert asyncio.run(finds(caches(scope), a_call(ann, one), a_call(bob, other))) == expected


@given(BODIES, st.randoms(use_true_random=False))
def test_the_order_of_keys_and_the_space_between_them_do_not_matter(body: dict[str, Any], chance: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            chance.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(one) for one in value] if isinstance(value, list) else value

    ann = Principal("ann")
    spaced = json.dumps(shuffled(body), indent=chance.choice([None, 0, 3])).encode()
    plain = a_call(ann, body)
    assert asyncio.run(finds(caches("user"), plain, a_call(ann, {}, spaced)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"a":2}', b'{"a":2}'),
        (b'{"a":1,"a":2}', b'{"a":3,"a":2}'),
        (b'{"a":1,"a":2,"b":"\\u003a"}', b'{"a":9,"a":2,"b":"\\u003a"}'),
        (b'{"seed":100000000000000000000001}', b'{"seed":100000000000000000000002}'),
        (b'{"a":"\\ud83d"}', b'{"a":"\\ud83e"}'),
        (b'{"a":1}', b'{"a":1.0}'),
        (b'{"a":null}', b"{}"),
        (b'{"user":"x"}', b'{"user":"y"}'),
        (b'{"metadata":{"a":"b"}}', b"{}"),
    ],
)
async def test_requests_that_a_vendor_may_tell_apart_are_two(one: bytes, other: bytes) -> None:
    ann = Principal("ann")
    for text in (one, other):
        assert await finds(caches("user"), a_call(ann, {}, text), a_call(ann, {}, text))
    assert not await finds(caches("user"), a_call(ann, {}, one), a_call(ann, {}, other))


@pytest.mark.parametrize("more", [{"stream": True}, {"include_usage": True}])
async def test_what_the_surface_has_read_counts_too(more: dict[str, Any]) -> None:
    ann = Principal("ann")
    assert not await finds(caches("user"), a_call(ann, {}), a_call(ann, {}, **more))


@pytest.mark.parametrize(
    ("scope", "marks"),
    [
        ("user", ["miss", "hit", "hit", "miss"]),
        ("key", ["miss", "hit", "miss", "miss"]),
        ("all", ["miss", "hit", "hit", "hit"]),
    ],
)
async def test_scopes_in_a_gateway(gateway: Gateway, scope: str, marks: list[str]) -> None:
    async with gateway(f'scope = "{scope}"') as client:
        people = ["ann/1", "ann/1", "ann/2", "bob/1"]
        assert [(await client.ask(who=who)).cache for who in people] == marks
