"""What is kept: what `register_caches` promises, end to end."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gatehook import Chunk, Principal, StreamBuilder, UpstreamError, Usage

Part = Callable[[StreamBuilder], Chunk] | Exception | asyncio.Event


def say(text: str) -> Part:
    return lambda answer: answer.text(text)


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_caches_the_second_answer_is_a_hit_and_the_same(kit: Any, stream: bool) -> None:
    vendor, memory, watch = kit.Vendor(), kit.Memory(), kit.Watching()
    plugins = {"c": kit.specimen(register_caches=[memory]), "w": kit.specimen(register_observers=[watch])}
    async with kit.client(vendor, **plugins) as ask:
        first = await ask.chat(stream=stream)
        await memory.stored.wait()
        second = await ask.chat(stream=stream)
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("miss", "hit")
    assert first.body == second.body
    assert first.headers["Content-Type"] == second.headers["Content-Type"]
    assert second.body.endswith(b"data: [DONE]\n\n") == stream
    assert len(vendor.attempts) == 1
    assert [outcome.status for outcome in watch.outcomes] == ["complete", "cached"]
    assert watch.outcomes[1].usage == Usage()
    assert all(len(key) == 32 for key in memory.keys)


async def test_hook_register_caches_the_first_hit_wins_and_all_are_written(kit: Any) -> None:
    one, two, vendor = kit.Memory(), kit.Memory(), kit.Vendor()
    async with kit.client(vendor, a=kit.specimen(register_caches=[one]), b=kit.specimen(register_caches=[two])) as ask:
        await ask.chat()
        assert len(one.entries) == len(two.entries) == 1
        await ask.chat()
        assert (len(one.keys), len(two.keys)) == (2, 1)
        one.entries.clear()
        assert (await ask.chat()).headers["X-Cache"] == "hit"
    assert len(vendor.attempts) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("broken", [RuntimeError("no"), ConnectionResetError("redis went away"), TimeoutError()])
async def test_hook_register_caches_a_broken_one_never_fails_a_call(kit: Any, stream: bool, broken: Exception) -> None:
    sound, watch = kit.Memory(), kit.Watching()
    caches = {"a": kit.specimen(register_caches=[kit.Memory(broken)]), "b": kit.specimen(register_caches=[sound])}
    async with kit.client(**caches, w=kit.specimen(register_observers=[watch])) as ask:
        assert (await ask.chat(stream=stream)).status == 200
        await sound.stored.wait()
        assert (await ask.chat(stream=stream)).headers["X-Cache"] == "hit"
        await watch.over.wait()
    assert [outcome.code for outcome in watch.outcomes] == ["", ""]


@pytest.mark.parametrize(
    "script",
    [(say("hel"),), (say("hel"), UpstreamError("cut")), (UpstreamError("broken"),), (asyncio.Event(),)],
    ids=["truncated", "cut", "failed", "left"],
)
async def test_hook_register_caches_only_whole_answers_are_stored(kit: Any, script: tuple[Part, ...]) -> None:
    vendor, memory, watch = kit.Vendor(*script), kit.Memory(), kit.Watching()
    plugins = {"c": kit.specimen(register_caches=[memory]), "w": kit.specimen(register_observers=[watch])}
    async with kit.client(vendor, **plugins) as ask:
        if isinstance(script[0], asyncio.Event):
            await ask.leave(vendor, stream=True)
        else:
            await ask.chat(stream=True)
        await watch.over.wait()
    assert memory.entries == {}


async def test_hook_register_caches_keys_differ_by_all_that_changes_the_answer_and_by_nothing_else(kit: Any) -> None:
    memory = kit.Memory()
    door = kit.Door(ann=Principal("ann"), bob=Principal("bob"))
    plugins = {"c": kit.specimen(register_caches=[memory]), "d": kit.specimen(register_authenticators=[door])}
    ann, bob = {"X-API-Key": "ann"}, {"X-API-Key": "bob"}
    second = '[[models]]\nname = "n"\nvendor = "specimen"\n'
    different: list[tuple[Mapping[str, str], dict[str, Any]]] = [
        (ann, {}),
        (bob, {}),
        (ann, {"model": "n"}),
        (ann, {"temperature": 0}),
        (ann, {"temperature": 1}),
        (ann, {"stream": True}),
        (ann, {"stream": True, "stream_options": {"include_usage": True}}),
        (ann, {"messages": [{"role": "user", "content": "ho"}]}),
        (ann, {"unknown": {"a": 1}}),
        (ann, {"unknown": [["a", 1]]}),
        (ann, {"unknown": {}}),
        (ann, {"unknown": []}),
        (ann, {"unknown": None}),
        (ann, {"unknown": "é"}),
    ]
    same = [
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"unknown":{"a":1,"b":{"c":2,"d":3}}}',
        b'{"unknown": {"b": {"d":3,"c":2}, "a":1},  "messages":[{"content":"hi","role":"user"}], "model":"m"}',
    ]
    async with kit.client(None, second, **plugins) as ask:
        for headers, fields in different:
            assert (await ask.chat(headers, **fields)).status == 200
        assert len(set(memory.keys)) == len(different)
        memory.keys.clear()
        for text in same:
            assert (await ask.chat(ann, data=text)).status == 200
        assert len(set(memory.keys)) == 1


async def test_without_a_cache_no_answer_is_marked(kit: Any) -> None:
    async with kit.client() as ask:
        assert "X-Cache" not in (await ask.chat()).headers
