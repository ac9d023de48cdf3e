"""Many streams at once: who waits, who goes on, what is remembered, what a departure frees."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehook_plugins.vendor_gguf.engine.costs import StepCosts
from gatehook_plugins.vendor_gguf.engine.scheduler import Scheduler
from gatehook_plugins.vendor_gguf.engine.slots import Slots, common

ENDS = {"2": -100}
"""The token that ends an answer, kept away."""
CORES = len(os.sched_getaffinity(0))
SHOWS_TELLINGS = """
from gatehook_plugins.vendor_gguf.engine.jobs import Mail
put = Mail.put
def shown(self, job, news):
    news.text = chr(1) + news.text
    put(self, job, news)
Mail.put = shown
"""
IS_SLOW = """
import time
from gatehook_plugins.vendor_gguf.engine.llama import Context
compute = Context.compute
def slow(self, tokens):
    time.sleep(0.05)
    return compute(self, tokens)
Context.compute = slow
"""
LONG = {"temperature": 0, "max_tokens": 1500, "logit_bias": ENDS}


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_the_common_beginning_is_found(one: list[int], other: list[int]) -> None:
    found = common(one, other)
    assert one[:found] == other[:found]
    assert found == min(len(one), len(other)) or one[found] != other[found]


@settings(max_examples=30)
@given(st.lists(st.floats(0.5, 20), min_size=8, max_size=8), st.integers(2, 8))
def test_turns_are_taken_where_that_is_faster(times: list[float], running: int) -> None:
    costs = StepCosts(8)
    spent = done = 0.0
    for _ in range(1000):
        size = costs.choose(running)
        assert 1 <= size <= running
        costs.record(size, times[size - 1])
        spent, done = spent + times[size - 1], done + size
    # Neither all at once nor taking turns is much better; to find that out costs a little.
    best = max(size / times[size - 1] for size in (1, running))
    assert done / (spent - 4 * sum(times)) > best * 0.9


def test_together_is_chosen_unless_turns_are_clearly_faster() -> None:
    costs = StepCosts(4)
    for _ in range(50):
        for size, seconds in ((1, 3.0), (2, 13.0), (4, 11.5)):
            costs.record(size, seconds)
    assert (costs.choose(1), costs.choose(2), costs.choose(4)) == (1, 1, 4)


async def test_a_next_turn_and_a_shared_beginning_are_not_computed_again(engine: Any) -> None:
    system = {"role": "system", "content": "You are helpful. " * 12}
    said = [system, {"role": "user", "content": "Hello"}]
    _, first = await engine.post("chat/completions", {"messages": said, "temperature": 0})
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    answer = first["choices"][0]["message"]
    _, turn = await engine.post("chat/completions", {"messages": [*said, answer, {"role": "user", "content": "And?"}]})
    read = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert turn["usage"]["prompt_tokens_details"]["cached_tokens"] >= read
    others = [{"messages": [system, {"role": "user", "content": text}], "max_tokens": 1} for text in "abcd"]
    answers = await asyncio.gather(*(engine.post("chat/completions", body) for body in others))
    assert all(each["usage"]["prompt_tokens_details"]["cached_tokens"] > 200 for _, each in answers)


async def test_what_arrives_together_with_the_same_beginning_is_read_once(engine: Any) -> None:
    beginning = "One and the same long beginning of a text. " * 10
    asked = [engine.post("completions", {"prompt": beginning + end, "max_tokens": 1}) for end in "abcd"]
    cached = sorted(each["usage"]["prompt_tokens_details"]["cached_tokens"] for _, each in await asyncio.gather(*asked))
    assert cached[0] == 0
    assert cached[1] >= len(beginning)


async def test_a_reused_beginning_changes_no_answer(engine: Any, plain: Any) -> None:
    texts = ["Hello", "What is the capital of France?", "Tell me a story"]
    for text in (*texts, *reversed(texts)):
        plain.reset()
        wanted = plain.create_chat_completion([{"role": "user", "content": text}], temperature=0)
        told = await engine.chat(text)
        assert told["choices"][0]["message"]["content"] == wanted["choices"][0]["message"]["content"]


async def test_more_than_may_wait_are_told_when_to_come_again(
    begin_engine: Callable[..., Any], random_model: Path
) -> None:
    async with begin_engine(random_model, slots=1) as engine:
        many = {"prompt": ["a"] * 40, **LONG}
        waiting = asyncio.create_task(engine.post("completions", many))
        await engine.until(lambda status: status["queued"] == 39)
        async with engine.client.post("http://engine/v1/completions", json=many) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "engine_busy"
        waiting.cancel()
        await engine.until(lambda status: status["active"] == status["queued"] == 0)
        assert (await engine.post("completions", {"prompt": "a", "max_tokens": 1}))[0] == 200


async def test_who_leaves_frees_a_slot_at_once(begin_engine: Callable[..., Any], random_model: Path) -> None:
    async with begin_engine(random_model, slots=2) as engine:
        for body in ({"stream": True}, {"stream": False}, {"stream": True, "n": 2}):
            asked = asyncio.create_task(engine.post("completions", {"prompt": "a", **LONG, **body}))
            await engine.until(lambda status: status["active"])
            asked.cancel()
            began = time.perf_counter()
            await engine.until(lambda status: not status["active"])
            assert time.perf_counter() - began < 0.5


async def test_a_long_prompt_does_not_hold_up_who_writes(begin_engine: Callable[..., Any], random_model: Path) -> None:
    async with begin_engine(random_model, slots=2) as engine:
        url = "http://engine/v1/completions"
        await engine.post("completions", {"prompt": "b " * 400, "max_tokens": 1})  # how fast it reads is known now
        async with engine.client.post(url, json={"prompt": "a", "stream": True, **LONG}) as writing:
            await writing.content.readline()
            reading = asyncio.create_task(engine.post("completions", {"prompt": "a " * 900, "max_tokens": 1}))
            events = 0
            while not reading.done():
                events += (await writing.content.readline()).startswith(b"data")
            assert reading.result()[0] == 200
            assert events > 1


async def test_who_reads_slowly_holds_up_nobody_and_loses_nothing(
    begin_engine: Callable[..., Any], random_model: Path
) -> None:
    async with begin_engine(random_model, slots=2) as engine:
        whole = await engine.post("completions", {"prompt": "a", **LONG})
        url = "http://engine/v1/completions"
        async with engine.client.post(url, json={"prompt": "a", "stream": True, **LONG}) as slow:
            await slow.content.readline()
            assert (await engine.post("completions", {"prompt": "b", "max_tokens": 200, "logit_bias": ENDS}))[0] == 200
            rest = await slow.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert whole[1]["usage"]["completion_tokens"] == 1500


async def test_what_comes_faster_than_anybody_reads_shares_events_and_loses_nothing(engine: Any) -> None:
    body = {"prompt": "Tell me", "max_tokens": 200, "temperature": 0, "logit_bias": ENDS, "logprobs": 0}
    events = await engine.stream("completions", body)
    _, whole = await engine.post("completions", body)
    assert "".join(event["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]
    tokens = [token for event in events for token in event["choices"][0]["logprobs"]["tokens"]]
    assert tokens == whole["choices"][0]["logprobs"]["tokens"]
    assert 1 < len(events) < len(tokens)


@pytest.mark.parametrize("threads", [1, CORES])
async def test_the_first_of_a_stream_is_told_at_once_and_the_rest_at_a_pace(
    begin_engine: Callable[..., Any], random_model: Path, threads: int
) -> None:
    async with begin_engine(random_model, threads=threads) as engine:
        await engine.post("completions", {"prompt": "a", "max_tokens": 1})
        began = time.perf_counter()
        events = await engine.stream("completions", {"prompt": "b", "logprobs": 0, **LONG})
        seconds = time.perf_counter() - began
    tokens = [len(event["choices"][0]["logprobs"]["tokens"]) for event in events]
    assert tokens[0] == 1
    assert sum(tokens) == 1500
    # On a busy machine some of the steps take so long that what they bring is told by itself.
    assert len(events) <= 2 + seconds / (0.016 if threads < CORES else 0.04)
    assert len(events) < 1500


async def test_what_comes_slowly_is_told_token_by_token(begin_engine: Callable[..., Any], trained: Path) -> None:
    asked = {"prompt": "Tell me", "logprobs": 0, "temperature": 0, "max_tokens": 8, "logit_bias": ENDS}
    async with begin_engine(trained, patch=IS_SLOW, threads=CORES) as engine:
        events = await engine.stream("completions", asked)
    assert [len(event["choices"][0]["logprobs"]["tokens"]) for event in events] == [1] * 8


async def test_an_answer_that_is_wanted_whole_is_told_once(begin_engine: Callable[..., Any], trained: Path) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 600, "temperature": 0, "logit_bias": ENDS}
    async with begin_engine(trained, patch=SHOWS_TELLINGS) as engine:
        _, whole = await engine.post("chat/completions", body)
        events = await engine.stream("chat/completions", body)
    content = whole["choices"][0]["message"]["content"]
    assert content.count("\x01") == 1
    told = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert told.count("\x01") > 1
    assert told.replace("\x01", "") == content[1:]


async def test_more_streams_than_slots_are_all_answered(engine: Any) -> None:
    wanted = (await engine.chat("What is the capital of France?"))["choices"][0]["message"]["content"]
    answers = await asyncio.gather(*(engine.chat("What is the capital of France?") for _ in range(40)))
    assert {answer["choices"][0]["message"]["content"] for answer in answers} == {wanted}
    status = await engine.status()
    assert (status["active"], status["queued"], status["kv_total"]) == (0, 0, 4 * 1024)
    assert 0 < status["kv_used"] <= status["kv_total"]


@pytest.mark.parametrize("limit", [None, 5000])
async def test_an_answer_ends_where_the_context_does(engine: Any, limit: int | None) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": limit, "logit_bias": ENDS}
    status, answer = await engine.post("chat/completions", body)
    assert (status, answer["choices"][0]["finish_reason"]) == (200, "length")
    assert answer["usage"]["total_tokens"] == 1024


def test_who_leaves_while_it_is_looked_who_has_left_is_counted_too() -> None:
    class Gone:
        cancelled = True

    class Leaving:
        looks = 0

        @property
        def cancelled(self) -> bool:
            """False when the thread asks first: the event loop cancels it right then."""
            self.looks += 1
            return self.looks > 1

    scheduler = Scheduler.__new__(Scheduler)
    scheduler._slots, scheduler._placed = Slots(None, 0), 0  # type: ignore[arg-type]  # there are none
    scheduler._waiting = deque([Gone(), Leaving()])  # type: ignore[list-item]
    scheduler._drop_cancelled()
    assert scheduler._placed + len(scheduler._waiting) == 2
