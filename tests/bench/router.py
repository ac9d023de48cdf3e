"""What a decision of the router costs: `python tests/bench/router.py`.

One request, among 100 deployments of one model and priority, by each strategy; then by sessions; beside them the check
of what deployments can do, also where all tell their limits. Prints microseconds: the median of several rounds. More
than 10 is a failure.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from gatehook import Call, Outcome, Pricing, Target
from gatehook.awaiting import awaited
from gatehook.calls.fitness import fitting
from gatehook.catalog import LiveCatalog
from gatehook.jsonio import Document
from gatehook_plugins.route_models.affinity import Affinity
from gatehook_plugins.route_models.balance import Balance
from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.router import ModelRouter
from gatehook_plugins.route_models.strategies import STRATEGIES, strategies

DEPLOYMENTS, ROUNDS, TIMES = 100, 7, 5_000
MOST = 10.0
CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}'


async def microseconds(once: Callable[[], Awaitable[object]]) -> float:
    """The median of a few rounds, per call."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(TIMES):
            await once()
        taken.append((time.perf_counter() - start) / TIMES * 1e6)
    return statistics.median(taken)


def deployments(count: int, **fields: Any) -> list[Target]:
    """Each with a weight and a price of its own."""
    chance = random.Random(1)
    prices = [Pricing(chance.randrange(9**6), chance.randrange(9**6)) for _ in range(count)]
    return [
        Target(f"m#{n}", "m", "v", "m", weight=n % 7 + 1, pricing=pricing, **fields) for n, pricing in enumerate(prices)
    ]


def a_call() -> Call:
    """One of a session, parsed."""
    return Call("chat", "bench", {"X-Session": "s"}, model="m", max_tokens=100, choices=1, body=Document(raw=CHAT))


async def routed(strategy: str, targets: list[Target], affinity: str = "") -> float:
    """What one decision costs, of a router that has measured something of every deployment."""
    loads, call = Loads(), a_call()
    sessions = Affinity(affinity) if affinity else None
    chosen = strategies(loads, random.Random(2).random)
    router = ModelRouter(LiveCatalog(targets), Balance(strategy), chosen, loads, affinity=sessions)
    for target in targets:
        if (permit := await awaited(loads.admit_attempt(call, target))) is not None:
            await awaited(permit.settle(Outcome("complete", 200)))
    return await microseconds(lambda: awaited(router.route(call)))


async def fitted(targets: list[Target]) -> float:
    """What the check costs."""
    call = a_call()

    async def once() -> object:
        return fitting(call, targets)

    return await microseconds(once)


async def main() -> int:
    """Print all figures; 1 if one is too high."""
    many = deployments(DEPLOYMENTS)
    figures = {name: (await routed(name, many[:1]), await routed(name, many)) for name in STRATEGIES}
    by_session = "header:X-Session"
    figures["affinity"] = (await routed("weighted", many[:1], by_session), await routed("weighted", many, by_session))
    limited = deployments(DEPLOYMENTS, context_window=8_000, max_tokens=1_000, capabilities=("tools",))
    for name, targets in (("(fitness)", many), ("(with limits)", limited)):
        figures[name] = (await fitted(targets[:1]), await fitted(targets))
    print(f"{'µs a decision':16}{1:>8} deployment{DEPLOYMENTS:>8} deployments")
    for name, (one, hundred) in figures.items():
        print(f"{name:16}{one:8.2f}{'':11}{hundred:8.2f}")
    return int(any(max(found) > MOST for found in figures.values()))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
