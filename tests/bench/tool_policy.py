"""What the tool policy costs: `python tests/bench/tool_policy.py`.

First the microseconds that it adds to a request without tools (plain, streamed in frames), and with a tool and a call.
Then the gaps between the events of a stream that a real gateway passes on, with the policy off and on: its vendor waits
a moment after each event, so what were held back would show as a longer gap. Prints medians.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp

from gatehook import Call, Chunk, Completion, Document, Frames
from gatehook.catalog import LiveCatalog
from gatehook.sse import events, frame
from gatehook.testing import serving
from gatehook.tools.policies import ToolPolicies
from gatehook_plugins.tool_policy.policy import OperatorPolicy
from gatehook_plugins.tool_policy.rules import Rule
from gatehook_plugins.tool_policy.standing import Standing

ROUNDS = 7
TIMES = 5_000
RULES = [Rule(tool=f"{word}_*", verdict="deny") for word in ("delete", "drop", "rm", "kill", "format")]
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi " * 300}]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALLED = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}
SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "m"
vendor = "mock"
options = {{ text = "{text}", delay = {delay} }}
"""
DELAY = 0.005
"""Seconds between the vendor's events."""


def answer(*calls: dict[str, Any]) -> bytes:
    """A vendor's plain answer."""
    message = {"role": "assistant", "content": "word " * 200, **({"tool_calls": list(calls)} if calls else {})}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


def split(raw: bytes) -> Sequence[Chunk]:
    """The events of frames."""
    return [Chunk(raw=data) for _, data in events(raw)]


async def microseconds(once: Callable[[], Awaitable[object]]) -> float:
    """The median of a few rounds, per call."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(TIMES):
            await once()
        taken.append((time.perf_counter() - start) / TIMES * 1e6)
    return statistics.median(taken)


async def costs() -> None:
    """Print what offering and judging cost."""
    policy = OperatorPolicy(Standing(RULES, "allow"), LiveCatalog([]), None, None, invalid="retry", retries=2)
    tools = ToolPolicies([policy])
    bare, offering = json.dumps(BODY).encode(), json.dumps({**BODY, "tools": [TOOL]}).encode()
    plain, calling = answer(), answer(CALLED)
    piece = frame(json.dumps({"choices": [{"index": 0, "delta": {"content": "word"}}]}).encode())

    async def judged(body: bytes, said: bytes) -> None:
        call = Call("chat", "bench", {}, model="m", body=Document(raw=body))
        await tools.offer(call)
        await tools.judge(call, Completion(raw=said))

    async def nothing() -> None:
        Call("chat", "bench", {}, model="m", body=Document(raw=bare))
        Completion(raw=plain)

    gate = tools.gate(Call("chat", "bench", {}, model="m", body=Document(raw=bare)))
    assert gate is not None

    async def passed() -> None:
        await gate.passed(Frames(piece, split, contents=1))

    base = await microseconds(nothing)
    print(f"a request without tools      {await microseconds(lambda: judged(bare, plain)) - base:7.2f} µs")
    print(f"one with a tool, and a call  {await microseconds(lambda: judged(offering, calling)) - base:7.2f} µs")
    print(f"an event of a stream         {await microseconds(passed):7.2f} µs")


async def gaps(policy: str, words: int) -> list[float]:
    """Seconds between the events of one stream, as its client sees them."""
    text = " ".join(["word"] * words)
    body = {**BODY, "stream": True, "tools": [TOOL]}
    async with (
        serving(policy + SETTINGS.format(text=text, delay=DELAY)) as at,
        aiohttp.ClientSession() as http,
        http.post(f"{at.url}/v1/chat/completions", json=body) as response,
    ):
        moments = [time.perf_counter() async for _ in response.content.iter_any()]
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


async def main(words: int) -> None:
    """All measurements."""
    await costs()
    for name, policy in (
        ("off", ""),
        ("on ", "[plugins.tool_policy]\n"),
        ("off", ""),
        ("on ", "[plugins.tool_policy]\n"),
    ):
        found = await gaps(policy, words)
        longest = max(found) * 1e3
        print(f"gaps, policy {name} {len(found):5} of them, median {statistics.median(found) * 1e3:6.2f} ms, "
              f"longest {longest:6.2f} ms")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=300, help="events of the streams")
    asyncio.run(main(parser.parse_args().words))
