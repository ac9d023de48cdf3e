"""What workers have in common: the metrics' sums, and the limits."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families as read_text

from gatehook.testing import Reply, StubUpstream

Wait = Callable[..., Any]
Text = Callable[..., str]
Open = Callable[..., Any]

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def scrape(port: int) -> dict[str, float]:
    """The sum of every metric's samples."""
    sums: dict[str, float] = {}
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        for family in read_text(await answer.text()):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


async def test_metrics_are_summed_over_the_workers_and_outlive_them(
    text: Text, tmp_path: Path, served: Open, lines: Open
) -> None:
    model = {"name": "m", "vendor": "mock"}
    async with (
        served(text(model, plugin_metrics={"process": True}), tmp_path) as program,
        lines(program.port, workers=3, each=2) as opened,
    ):
        for number in range(200):
            await opened[number % len(opened)].ask("/v1/chat/completions", ASK)

        async def seen(requests: int) -> dict[str, float]:
            """The metrics once they show so many: a request is counted just after its answer."""
            async with asyncio.timeout(10):
                while (found := await scrape(program.port))["gateway_requests_total"] < requests:
                    pass
            return found

        found = await seen(200)
        assert found["gateway_requests_total"] == 200
        assert found["http_request_duration_seconds_count"] == 200
        assert found["gateway_requests_in_flight"] == 0
        tokens = found["gateway_tokens_total"]
        assert tokens > 0
        assert tokens % 200 == 0
        assert found["process_resident_memory_bytes"] > 0

        victim = opened[0].pid
        os.kill(victim, signal.SIGKILL)
        await program.line("another takes its place")
        async with lines(program.port, workers=3) as later:
            assert (await scrape(program.port))["gateway_requests_total"] == 200
            for line in later:
                await line.ask("/v1/chat/completions", ASK)
            found = await seen(200 + len(later))
            assert found["gateway_requests_total"] == 200 + len(later)
            assert found["gateway_tokens_total"] == tokens // 200 * (200 + len(later))


async def test_running_requests_are_summed_over_the_workers_that_live(
    text: Text, tmp_path: Path, settled: Wait, served: Open, lines: Open
) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        model = {"name": "m", "vendor": "openai", "base_url": stub.url}
        async with (
            served(text(model, plugin_metrics={}), tmp_path) as program,
            lines(program.port, workers=3) as opened,
        ):
            for line in opened:
                line.send("/v1/chat/completions", ASK)
            await settled(lambda: len(stub.requests) == len(opened))
            assert (await scrape(program.port))["gateway_requests_in_flight"] == len(opened)
            victim = opened[0].pid
            os.kill(victim, signal.SIGKILL)
            await program.line("another takes its place")
            left = sum(line.pid != victim for line in opened)
            assert (await scrape(program.port))["gateway_requests_in_flight"] == left


async def test_workers_share_rate_limits_and_free_what_a_dead_one_held(
    text: Text, tmp_path: Path, settled: Wait, started: Open, lines: Open
) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        model = {"name": "held", "vendor": "openai", "base_url": stub.url}
        limits = {"requests_per_minute": 12, "concurrent_requests": 1}
        settings = text({"name": "m", "vendor": "mock"}, model, plugin_rate_limit=limits)
        async with started(settings, tmp_path) as program:
            assert "shared by the 3 workers of this machine" in await program.line("rate limits")
            program.address = (await program.line("listens on")).split()[2]
            async with lines(program.port, workers=3) as opened:
                victim = opened[0]
                victim.send("/v1/chat/completions", {**ASK, "model": "held"})
                await settled(lambda: stub.requests)
                other = next(line for line in opened if line.pid != victim.pid)
                assert await other.status(ASK) == 429
                os.kill(victim.pid, signal.SIGKILL)
                await program.line("another takes its place")
                async with lines(program.port, workers=3, each=2) as later:
                    statuses = [await later[number % len(later)].status(ASK) for number in range(30)]
                assert statuses == [200] * 11 + [429] * 19
