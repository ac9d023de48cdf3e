"""What a decision of the rate limiter costs: `python tests/bench/limiter.py [redis://HOST:PORT/N]`.

One request, decided by three limits at once (requests, tokens, running requests) and settled afterwards; without an
address of a Redis, in memory only. Prints microseconds: the median of several rounds.
"""

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable

from gatehook import Call, Key, Limits, Outcome, Principal, RedisSettings, SecretStr, Usage
from gatehook.awaiting import awaited
from gatehook.catalog import LiveCatalog
from gatehook.jsonio import Document
from gatehook_plugins.rate_limit.limiter import RateLimiter
from gatehook_plugins.rate_limit.memory import MemoryStore
from gatehook_plugins.rate_limit.rules import rules
from gatehook_plugins.rate_limit.store import Grant, Store

LIMITS = Limits(10**9, 10**12, 10**6)
ROUNDS = 7


async def microseconds(once: Callable[[], Awaitable[object]], times: int) -> float:
    """The median of a few rounds, per call."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(times):
            await once()
        taken.append((time.perf_counter() - start) / times * 1e6)
    return statistics.median(taken)


async def measure(name: str, store: Store, times: int) -> None:
    """Print what the store alone costs, and what the whole limiter does."""
    gate = store.gate(rules("key", "bench", LIMITS))
    limiter = RateLimiter(store, LiveCatalog([]), Limits(), {})
    principal = Principal("bench", key=Key("bench", "bench", "gk", limits=LIMITS))
    body = {"model": "m", "messages": [{"role": "user", "content": "hi " * 100}]}
    outcome = Outcome("complete", 200, Usage(100, 200))

    async def decide() -> None:
        decision = await awaited(gate.admit(600))
        assert decision.grant is not None
        grants.append(decision.grant)

    async def settle() -> None:
        await awaited(gate.settle(grants.pop(), 1, 300))

    async def whole() -> None:
        call = Call("chat", "bench", {}, principal=principal, model="m", body=Document(body))
        permit = await awaited(limiter.admit(call))
        assert permit is not None
        await awaited(permit.settle(outcome))

    grants: list[Grant] = []
    decided = await microseconds(decide, times)
    settled = await microseconds(settle, times)
    print(f"{name:8} decide {decided:7.1f} µs   settle {settled:7.1f} µs   with estimate and headers, both", end=" ")
    print(f"{await microseconds(whole, times):7.1f} µs")


async def at_once(store: Store, tasks: int, times: int) -> float:
    """Decisions a second, by so many tasks at the same time."""
    gate = store.gate(rules("key", "crowd", Limits(10**9, 10**12)))

    async def ask() -> None:
        for _ in range(times):
            await awaited(gate.admit(600))

    start = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(tasks)))
    return tasks * times / (time.perf_counter() - start)


async def main(url: str) -> None:
    """All measurements."""
    await measure("memory", MemoryStore(), 20_000)
    if not url:
        return
    from gatehook.redis_line import RedisLine
    from gatehook_plugins.rate_limit.shared import RedisStore

    settings = RedisSettings(url=SecretStr(url), timeout=5)
    store = RedisStore(RedisLine(settings, logging.getLogger(), gone="it is measured", back="it was"), "bench")
    async with store.lifespan():
        await measure("redis", store, 500)
        print(f"redis    {await at_once(store, 50, 100):7,.0f} decisions/s by 50 tasks")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="")
    asyncio.run(main(parser.parse_args().url))
