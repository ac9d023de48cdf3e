"""Nodes that share rests through a real Redis."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
import redis

from gatehook import HEALTH, RedisSettings, SecretStr
from gatehook.testing import Reply, StubUpstream, serving
from gatehook_plugins.cooldown.book import Book
from gatehook_plugins.cooldown.condition import SOUND, Rules
from gatehook_plugins.cooldown.nodes import Nodes

RULES = Rules(1, 1, 30, 300)
NOW = 1_700_000_000.0
_prefixes = itertools.count()


def nodes_of(url: str, prefix: str, book: Book, timeout: float = 5) -> Nodes:
    return Nodes(RedisSettings(url=SecretStr(url), timeout=timeout, prefix=prefix), book)


@pytest.fixture
def prefix() -> str:
    return f"cooldown-test-{next(_prefixes)}"


async def test_a_rest_and_its_end_reach_the_other_node_and_the_newest_word_holds(redis_url: str, prefix: str) -> None:
    books = Book(), Book()
    one, other = (nodes_of(redis_url, prefix, book) for book in books)
    async with one.running(), other.running():
        books[0].change("d", lambda known: known.failed(NOW, RULES))
        await one.exchange()
        await other.exchange()
        told = books[1].get("d")
        assert told is not None
        assert told.is_resting(NOW + 29)
        assert told.on_trial
        books[1].change("d", lambda known: known.answered(NOW + 31, RULES))
        await other.exchange()
        await one.exchange()
        known = books[0].get("d")
        assert known is not None
        assert known.is_sound
        assert not known.is_resting(NOW + 1)
        books[0].change("e", lambda known: known.failed(NOW + 40, RULES))
        books[1].change("e", lambda known: known.failed(NOW + 50, RULES))
        for node in (one, other, one, other):
            await node.exchange()
        assert {book.get("e").until for book in books} == {NOW + 80}  # type: ignore[union-attr]


async def test_what_another_version_wrote_is_passed_over(redis_url: str, prefix: str) -> None:
    book = Book()
    nodes = nodes_of(redis_url, prefix, book)
    async with nodes.running():
        with redis.Redis.from_url(redis_url) as server:
            server.hset(f"{prefix}:cooldown", mapping={"d": b"\xc1 not ours"})
        await nodes.exchange()
        assert book.get("d") in (None, SOUND)


async def test_one_node_makes_each_check_and_without_redis_everyone_does(redis_url: str, prefix: str) -> None:
    nodes = [nodes_of(redis_url, prefix, Book()) for _ in range(3)]
    async with nodes[0].running(), nodes[1].running(), nodes[2].running():
        assert sorted([await node.claim("d", 60) for node in nodes]) == [False, False, True]
    away = nodes_of("redis://127.0.0.1:1/0", prefix, Book(), 0.2)
    assert await away.claim("d", 60)


async def test_while_redis_is_away_each_node_goes_by_what_it_knows_and_says_so_once(
    settings: Callable[..., str], client: Callable[..., Any], answer: Reply, broken: Reply, wait: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    more = '[redis]\nurl = "redis://:a-password@127.0.0.1:1/0"\ntimeout = 0.1\n'
    with caplog.at_level(logging.WARNING, "gatehook.cooldown"):
        async with (
            StubUpstream(broken) as bad,
            StubUpstream(answer) as good,
            serving(settings(bad, good, cooldown="failure_threshold = 1", more=more)) as served,
            aiohttp.ClientSession() as session,
        ):
            await wait(lambda: "Redis is gone" in caplog.text)
            assert (await client(session, served.url).ask())[0] == 200
            target = served.gateway.catalog.group("m")[0]
            assert served.gateway.services[HEALTH].of(target).state == "unavailable"
    assert caplog.text.count("Redis is gone") == 1
    assert "a-password" not in caplog.text


async def test_two_gateways_share_a_rest(
    settings: Callable[..., str], client: Callable[..., Any], answer: Reply, broken: Reply, wait: Any, redis_url: str,
    prefix: str,
) -> None:  # fmt: skip
    more = f'[redis]\nurl = "{redis_url}"\nprefix = "{prefix}"\n'
    async with StubUpstream(broken) as bad, StubUpstream(answer) as good, aiohttp.ClientSession() as session:
        text = settings(bad, good, cooldown="failure_threshold = 1", more=more)
        async with serving(text) as one, serving(text) as other:
            await client(session, one.url).ask()
            target = other.gateway.catalog.group("m")[0]
            await wait(lambda: other.gateway.services[HEALTH].of(target).state == "unavailable")
            await client(session, other.url).ask()
            assert len(bad.requests) == 1


async def test_what_nobody_expected_does_not_end_the_sharing(
    redis_url: str, prefix: str, wait: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, other = Book(), Book()
    nodes, elsewhere = nodes_of(redis_url, prefix, book), nodes_of(redis_url, prefix, other)
    exchange, failures = nodes.exchange, iter([RuntimeError("a bug")])

    async def at_first_fails() -> None:
        if (error := next(failures, None)) is not None:
            raise error
        await exchange()

    monkeypatch.setattr(nodes, "exchange", at_first_fails)
    other.change("d", lambda known: known.failed(NOW, RULES))
    async with elsewhere.running(), nodes.running():
        await wait(lambda: book.get("d") is not None)
    assert "could not be shared between nodes" in caplog.text


async def test_what_was_told_before_a_clock_was_put_back_does_not_undo_a_rest(redis_url: str, prefix: str) -> None:
    now = NOW + 31
    books = Book(), Book()
    settings = RedisSettings(url=SecretStr(redis_url), timeout=5, prefix=prefix)
    one, other = (Nodes(settings, book, lambda: now) for book in books)
    async with one.running(), other.running():
        books[0].change("d", lambda known: known.failed(NOW, RULES))
        books[0].change("d", lambda known: known.answered(now, RULES))
        for node in (one, other):
            await node.exchange()
        now -= 3600
        books[0].change("d", lambda known: known.failed(now, RULES))
        for node in (one, other, one):
            await node.exchange()
        for book in books:
            told = book.get("d")
            assert told is not None
            assert told.is_resting(now)
