"""Several processes on one real database: requests at once, clients that leave, crashes, midnight."""

import asyncio
import contextlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import Document, RateLimited, Unavailable, Usage, estimate
from gatehook.estimates import look_again
from gatehook_plugins.quota import broker
from gatehook_plugins.quota.account import NOTHING, Amount, Need

NODES = 3
CLIENTS = 12
REQUESTS = 8


class Chaos:
    """Clients of one user, who ask whichever process, and things that happen meanwhile."""

    def __init__(self, world: Any, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        caps = {"tokens": 2000, "budget_per_day": 3000, "tokens_per_month": 1500, "budget": 4000}
        self.caps = dict(self.random.sample(sorted(caps.items()), self.random.choice([1, 2])))
        self.user = world.add(**self.caps)
        self.nodes = [world.node() for _ in range(NODES)]
        self.dead: list[Any] = []
        self.used = NOTHING
        self.error = NOTHING
        self.admitted = 0

    async def run(self) -> None:
        clients = [self.client() for _ in range(CLIENTS)]
        await asyncio.gather(*clients, self.trouble())
        await self.end()

    async def client(self) -> None:
        for _ in range(REQUESTS):
            node = self.random.choice(self.nodes)
            call = node.call(self.user, size=self.random.randrange(4, 80), answer=self.random.randrange(1, 120))
            asking = asyncio.ensure_future(node.admit(call))
            if self.random.random() < 0.1:
                await self.pause()
                asking.cancel()  # the client leaves
            try:
                permit = await asking
            except (RateLimited, Unavailable):
                continue
            except asyncio.CancelledError:
                node.ledger.intents.pop(call.id, None)
                continue
            self.admitted += 1
            await self.pause()
            if node in self.dead:
                continue
            if self.random.random() < 0.2 and not await self.changed(node, call):
                if node not in self.dead:
                    await node.end(call, permit, 0, 0)
                continue
            if node in self.dead:
                continue
            await self.use(node, call, permit)
            if self.random.random() < 0.3:
                with contextlib.suppress(asyncio.CancelledError):
                    await node.ledger.flush()

    async def changed(self, node: Any, call: Any) -> bool:
        """Whether a request is still admitted when it has become another."""
        call.body = Document(call.payload, b" " * self.random.randrange(4, 120))
        look_again(call)
        asking = asyncio.ensure_future(node.limiter.admit_change(call))
        if self.random.random() < 0.2:
            await self.pause()
            asking.cancel()
        try:
            await asking
        except (RateLimited, Unavailable, asyncio.CancelledError):
            return False
        return True

    async def use(self, node: Any, call: Any, permit: Any) -> None:
        need: Need = node.limiter._prices.of("m").need(estimate(call, node.catalog.group("m")))
        assert need.most == permit.most
        prompt = self.random.choice([0, 1, len(call.body.raw)])
        completion = self.random.choice([0, 1, call.payload["max_tokens"]])
        cost = Usage(prompt, completion).cost(node.catalog.group("m")[0].pricing).total
        used = Amount(prompt + completion, cost)
        assert used.at_least(need.most) == need.most
        await node.end(call, permit, prompt, completion)
        self.used += used
        self.error = self.error.at_least(used - need.expected)
        self.check()

    def check(self) -> None:
        for name, cap in self.caps.items():
            tokens = name.startswith("tokens")
            used, error = (self.used.tokens, self.error.tokens) if tokens else (self.used.nano, self.error.nano)
            assert used <= cap + error, name

    async def trouble(self) -> None:
        """A process dies, and another takes over."""
        for _ in range(4):
            await self.pause()
            dying = self.random.choice(self.nodes)
            self.nodes[self.nodes.index(dying)] = self.world.node()
            self.dead.append(dying)
            await dying.crash()
            await self.nodes[0].adopt(dying, close=self.random.random() < 0.8)

    async def pause(self) -> None:
        for _ in range(self.random.randrange(12)):
            await asyncio.sleep(0)

    async def end(self) -> None:
        for node in self.nodes:
            await node.settled()
            await node.crash()
        for dead in self.dead:
            await self.nodes[0].adopt(dead)  # again, as if nobody had come to its end
        balances = await self.world.balances(self.user)
        assert balances.get("all", NOTHING) == self.used, "nothing is lost, or charged twice"
        assert not any((await self.world.leases(self.user)).values()), "nothing stays leased"


@pytest.fixture
def sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is idle is given back at once."""
    monkeypatch.setattr(broker, "_IDLE_SECONDS", 0.005)


@pytest.mark.usefixtures("sweeping")
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9))
async def test_no_schedule_of_several_processes_passes_a_cap(world: Any, seed: int) -> None:
    await Chaos(world, seed).run()
