import asyncio
import contextlib
import itertools
import time
from collections.abc import Mapping
from typing import Any

import pytest

from gatehook import (
    GatewayError,
    InvalidRequest,
    Misconfigured,
    RateLimited,
    Retry,
    Target,
    UpstreamError,
    UpstreamTimeout,
)
from gatehook.testing import attempt
from gatehook_plugins.vendor_mock.options import Options, option_faults
from gatehook_plugins.vendor_mock.vendor import MockVendor

HI = [{"role": "user", "content": "Hi there"}]
WAIT = 0.05
"""Seconds after which nothing is expected to come any more."""


class Deployment:
    """One deployment, asked again and again."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._vendor = MockVendor()
        self._target = Target(key="m#1", name="m", vendor="mock", model="m", options=options)

    async def plain(self) -> str:
        answer = await self._vendor.complete(attempt({"messages": HI}, target=self._target))
        text: str = answer.data["choices"][0]["message"]["content"]
        return text

    async def stream(self) -> tuple[list[str], bool]:
        """The texts that came, and whether there was an end; raises what the stream raises."""
        texts: list[str] = []
        finished = False
        async with contextlib.aclosing(self._vendor.stream(attempt({"messages": HI}, target=self._target))) as batches:
            self.texts = texts
            async for batch in batches:
                for chunk in batch:
                    finished = finished or chunk.finished
                    texts += [c["delta"]["content"] for c in chunk.data["choices"] if "content" in c["delta"]]
        return texts, finished

    async def failures(self, requests: int) -> list[bool]:
        """Which of so many plain requests failed."""
        failed: list[bool] = []
        for _ in range(requests):
            try:
                await self.plain()
            except GatewayError:
                failed.append(True)
            else:
                failed.append(False)
        return failed


def failing(kind: str, **fault: Any) -> Deployment:
    return Deployment({"text": "a b c", "fault": {"kind": kind, **fault}})


@pytest.mark.parametrize(
    ("fault", "kind", "status", "retry"),
    [
        ({}, UpstreamError, 502, Retry.SAME),
        ({"status": 429, "retry_after": 1.5}, RateLimited, 429, Retry.SAME),
        ({"status": 401}, UpstreamError, 502, Retry.NEXT),
        ({"status": 404}, UpstreamError, 502, Retry.NEXT),
        ({"status": 408}, UpstreamTimeout, 504, Retry.SAME),
        ({"status": 503, "retry_after": 2}, UpstreamError, 503, Retry.SAME),
        ({"status": 400}, InvalidRequest, 400, Retry.NEVER),
        ({"status": 400, "code": "context_length_exceeded"}, InvalidRequest, 400, Retry.NEXT),
    ],
)
async def test_a_status_is_the_error_that_a_vendor_with_it_would_be(
    fault: Mapping[str, Any], kind: type[GatewayError], status: int, retry: Retry
) -> None:
    one = failing("status", message="too bad", **fault)
    for run in (one.plain, one.stream):
        with pytest.raises(GatewayError) as caught:
            await run()
        assert type(caught.value) is kind
        assert (caught.value.status, caught.value.retry) == (status, retry)
        assert caught.value.message == "mock: too bad"
        assert caught.value.retry_after == fault.get("retry_after")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("reset", "connection reset"), ("malformed", "not valid JSON"), ("cut", "cut in the middle")],
)
async def test_broken_plain_answers_are_upstream_errors(kind: str, words: str) -> None:
    with pytest.raises(UpstreamError, match=f"mock: .*{words}"):
        await failing(kind).plain()


@pytest.mark.parametrize("kind", ["reset", "malformed", "status"])
@pytest.mark.parametrize(
    ("after", "texts"), [(0, []), (2, ["a", " b"]), (3, ["a", " b", " c"]), (9, ["a", " b", " c"])]
)
async def test_a_stream_breaks_after_so_many_chunks_but_always_before_its_end(
    kind: str, after: int, texts: list[str]
) -> None:
    one = failing(kind, after=after)
    with pytest.raises(UpstreamError):
        await one.stream()
    assert one.texts == texts


@pytest.mark.parametrize(("after", "texts"), [(0, []), (2, ["a", " b"]), (9, ["a", " b", " c"])])
async def test_a_cut_stream_just_ends_without_a_finish(after: int, texts: list[str]) -> None:
    assert await failing("cut", after=after).stream() == (texts, False)


@pytest.mark.parametrize("kind", ["silence", "stall"])
async def test_silence_never_answers(kind: str) -> None:
    one = failing(kind)
    for run in (one.plain, one.stream):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run(), WAIT)


async def test_a_stall_stops_in_the_middle_for_ever() -> None:
    one = failing("stall", after=2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(one.stream(), WAIT)
    assert one.texts == ["a", " b"]


async def test_a_silent_stream_can_be_closed() -> None:
    target = Target(key="m#1", name="m", vendor="mock", model="m", options={"fault": {"kind": "stall", "after": 1}})
    stream = MockVendor().stream(attempt({"messages": HI}, target=target))
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stream.aclose()


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"times": 2}, [1, 1, 0, 0, 0, 0]),
        ({"every": 3}, [0, 0, 1, 0, 0, 1]),
        ({"every": 2, "times": 2}, [0, 1, 0, 1, 0, 0]),
    ],
)
async def test_a_fault_strikes_as_often_as_it_says(fault: Mapping[str, Any], failed: list[int]) -> None:
    assert await failing("reset", **fault).failures(6) == [bool(one) for one in failed]


async def test_a_turn_of_a_script_may_fail() -> None:
    one = Deployment({"script": [{"text": "one"}, {"fault": {"kind": "status", "status": 503}}, {"text": "three"}]})
    assert await one.failures(6) == [False, True, False] * 2


async def test_a_turns_fault_counts_the_appearances_of_its_turn() -> None:
    one = Deployment({"script": [{"text": "one"}, {"text": "two", "fault": {"kind": "reset", "times": 1}}]})
    assert await one.failures(6) == [False, True, False, False, False, False]


async def test_a_fault_beside_a_script_counts_all_requests() -> None:
    one = Deployment({"script": [{"text": "one"}, {"text": "two"}], "fault": {"kind": "reset", "times": 1}})
    assert await one.failures(3) == [True, False, False]


@pytest.mark.parametrize("operation", ["completions", "embeddings"])
async def test_every_operation_fails(operation: Any) -> None:
    one = attempt({"prompt": "a", "input": "a"}, operation=operation, options={"fault": {"kind": "reset"}})
    with pytest.raises(UpstreamError):
        await MockVendor().complete(one)


async def test_delays_come_before_the_first_and_between_the_others() -> None:
    vendor = MockVendor()
    one = attempt({"messages": HI}, options={"text": "a b c", "first_delay": 0.06, "delay": 0.03})
    times = [time.monotonic(), *[time.monotonic() async for _ in vendor.stream(one)]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) == 4
    assert gaps[0] >= 0.055
    assert all(0.025 <= gap < 5 for gap in gaps[1:])


async def test_a_plain_answer_waits_for_the_first_delay() -> None:
    before = time.monotonic()
    await MockVendor().complete(attempt({"messages": HI}, options={"first_delay": 0.05}))
    assert time.monotonic() - before >= 0.045


async def test_a_stream_without_delays_lets_others_run() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(tick())
    async for _ in MockVendor().stream(attempt({"messages": HI}, options={"text": "a " * 50})):
        pass
    other.cancel()
    assert ticks >= 50


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({}, []),
        ({"text": "a", "chunk_size": 3, "delay": 0.1, "first_delay": 1}, []),
        ({"chunk_sise": 3}, ["options.chunk_sise: unknown key; did you mean 'chunk_size'?"]),
        ({"zzz": 3}, ["options.zzz: unknown key"]),
        ({"chunk_size": 0}, ["options.chunk_size: input should be greater than or equal to 1"]),
        ({"delay": -1}, ["options.delay: input should be greater than or equal to 0"]),
        ({"delay": float("inf")}, ["options.delay: input should be a finite number"]),
        ({"mode": "loud"}, ["options.mode: input should be 'fixed', 'echo' or 'script'"]),
        ({"mode": "script"}, ["options: mode = 'script' needs a script, a list of turns"]),
        ({"mode": "echo", "script": [{}]}, ["options: a script is not played with mode = 'echo'"]),
        (
            {"text": "a", "usage": {}, "script": [{}]},
            ["options: beside a script there can be no text, usage; each turn has its own"],
        ),
        ({"fault": {}}, ["options.fault.kind: required, but not set"]),
        ({"fault": {"kind": "reset", "afer": 1}}, ["options.fault.afer: unknown key; did you mean 'after'?"]),
        (
            {"fault": {"kind": "status", "status": 200}},
            ["options.fault.status: input should be greater than or equal to 400"],
        ),
        ({"fault": {"kind": "silence", "after": 1}}, ["options.fault: a silence after some chunks is kind = 'stall'"]),
        ({"tool_calls": [{"arguments": {}}]}, ["options.tool_calls[0].name: required, but not set"]),
        (
            {"tool_calls": [{"name": "f", "arguments": 5}]},
            ["options.tool_calls[0].arguments: expected a table, or a text"],
        ),
        (
            {"script": [{"text": "a"}, {"usage": {"prompt_tokens": -1}}]},
            ["options.script[1].usage.prompt_tokens: input should be greater than or equal to 0"],
        ),
    ],
)
async def test_wrong_options_are_told_by_their_keys(options: Mapping[str, Any], faults: list[str]) -> None:
    target = Target(key="m#1", name="m", vendor="mock", model="m", options=options)
    assert list(MockVendor().check(target)) == faults


def test_all_faults_are_told_at_once_and_no_values() -> None:
    told = list(option_faults({"chunk_size": "hunter2", "delay": "hunter2", "x": "hunter2"}))
    assert len(told) == 3
    assert "hunter2" not in "".join(told)


async def test_wrong_options_that_nobody_checked_fail_the_deployment_by_name() -> None:
    one = Deployment({"chunk_sise": 3})
    for run in (one.plain, one.stream):
        with pytest.raises(Misconfigured, match=r"model 'm': options\.chunk_sise: unknown key") as caught:
            await run()
        assert caught.value.retry is Retry.NEXT


def test_the_examples_in_the_books_are_valid() -> None:
    for options in (
        {"text": "Paris.", "chunk_size": 2, "delay": 0.05},
        {"mode": "echo"},
        {"tool_calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]},
        {"fault": {"kind": "status", "status": 429, "retry_after": 1, "times": 2}},
        {"script": [{"tool_calls": [{"name": "f"}]}, {"text": "done"}, {"fault": {"kind": "cut", "after": 3}}]},
    ):
        assert Options.model_validate(options)
