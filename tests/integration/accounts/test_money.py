"""Exactly once: after any load, records, balances and what vendors delivered agree to the token and the nano-dollar."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gatehook import LEDGER, QUOTAS, Pricing, nano

Accounts = Any
OpenAccounts = Any

PRICES = {
    "main": Pricing(3_000_000, 15_000_000, cached_input=300_000),
    "spare": Pricing(1_000_001, 7_000_003),  # costs that do not come out even
}
KINDS = ("plain", "stream", "untold", "stream-untold", "leave", "leave-plain", "cut", "retry", "move", "fall",
         "fail", "refused", "embed", "malformed")  # fmt: skip


@dataclass
class Expected:
    """What a request must be on record with."""

    model: str
    outcome: str
    prompt: int = 0
    completion: int = 0
    cached: int = 0
    provenance: str = "none"
    vendor: str = ""
    attempts: int = 1

    @property
    def cost(self) -> int:
        pricing = PRICES[self.vendor or "main"]
        cost = pricing.cost(self.prompt, self.completion, self.cached)
        return cost.total if self.provenance != "none" else 0


@dataclass
class Vendor:
    """An upstream that does what a prompt says ("KIND NUMBER"), and keeps what it delivered."""

    delivered: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    let_go: dict[str, asyncio.Event] = field(default_factory=dict)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        who = request.match_info["who"]
        text = asked["input"] if "input" in asked else asked["messages"][0]["content"]
        kind, number = text.split()
        self.tries[text] += 1
        usage = {"prompt_tokens": 11 + int(number) % 7, "completion_tokens": 1 + int(number) % 13}
        if kind == "embed":
            usage["completion_tokens"] = 0
        first = who == "first"
        match kind:
            case "refused":
                return web.json_response({"error": {"message": "no", "type": "invalid_request_error"}}, status=400)
            case "fail":
                return web.json_response({"error": {"message": "down"}}, status=500)
            case "malformed":
                return web.Response(text='{"choices": [', content_type="application/json")
            case "retry" if first and self.tries[text] == 1:
                return web.json_response({"error": {"message": "down"}}, status=503, headers={"Retry-After": "0"})
            case "move" if first:
                return web.json_response({"error": {"message": "no key"}}, status=401)
            case "fall" if who != "spare":
                return web.json_response({"error": {"message": "no key"}}, status=401)
            case "leave-plain":
                self.let_go[text].set()
                await asyncio.Event().wait()
        if kind != "leave" and kind != "cut":
            self.delivered[text] = ("spare" if who == "spare" else "main", usage)
        if asked.get("stream"):
            return await self._stream(request, text, usage)
        told = {} if kind == "untold" else {"usage": _with_details(usage)}
        if kind == "embed":
            return web.json_response({"object": "list", "data": [_EMBEDDING], "model": "up", **told})
        choice = {"index": 0, "message": {"role": "assistant", "content": _WRITTEN}, "finish_reason": "stop"}
        return web.json_response({"id": "x", "object": "chat.completion", "created": 1, "model": "up",
                                  "choices": [choice], **told})  # fmt: skip

    async def _stream(self, request: web.Request, text: str, usage: dict[str, int]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        kind, number = text.split()

        async def send(**more: Any) -> None:
            event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "up", **more}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())

        for _ in range(contents(int(number))):
            await send(choices=[{"index": 0, "delta": {"content": "word "}, "finish_reason": None}])
        if kind == "leave":
            self.let_go[text].set()
            await asyncio.Event().wait()
        if kind == "cut":
            assert request.transport is not None
            request.transport.close()
            return response
        await send(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if kind != "stream-untold":
            await send(choices=[], usage=_with_details(usage))
        await response.write(b"data: [DONE]\n\n")
        return response


_WRITTEN = "word " * 9
_EMBEDDING = {"object": "embedding", "index": 0, "embedding": [0.5]}


def contents(number: int) -> int:
    """How many events with content a stream has."""
    return 2 + number % 3


def _with_details(usage: dict[str, int]) -> dict[str, Any]:
    return {**usage, "total_tokens": sum(usage.values()), "prompt_tokens_details": {"cached_tokens": 5}}


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    made, app = Vendor(), web.Application()
    app.router.add_post("/{who}/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


def deployments(url: str) -> list[dict[str, Any]]:
    main = {"name": "m", "vendor": "openai", "model": "up", "fallbacks": ["spare"], "pricing": _written("main")}
    return [
        {**main, "base_url": f"{url}/first", "priority": 1},
        {**main, "base_url": f"{url}/second", "priority": 2},
        {**main, "name": "spare", "base_url": f"{url}/spare", "fallbacks": [], "pricing": _written("spare")},
    ]


def _written(name: str) -> dict[str, str]:
    pricing = PRICES[name]
    prices = {"input": pricing.input, "output": pricing.output, "cached_input": pricing.cached_input}
    return {f"{side}_per_1k_tokens": f"{one / 10**9:.9f}" for side, one in prices.items() if one is not None}


class Load:
    """Clients of one gateway, and what must be on record of them."""

    def __init__(self, accounts: Accounts, vendor: Vendor) -> None:
        self.accounts = accounts
        self.vendor = vendor
        self.expected: dict[str, Expected] = {}
        self.left: list[Expected] = []
        """The same of those that were left before their answer, whose ids nobody knows."""
        self.told: dict[str, Any] = {}

    async def ask(self, key: str, kind: str, number: int) -> None:
        """One request of this kind."""
        text = f"{kind} {number}"
        self.vendor.let_go[text] = asyncio.Event()
        asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text}]}
        if kind == "embed":
            asked = {"model": "m", "input": text}
        if kind in ("stream", "stream-untold", "leave", "cut") or (kind in ("retry", "move", "fall") and number % 2):
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(asked).encode()
        path = "/v1/embeddings" if kind == "embed" else "/v1/chat/completions"
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = self.accounts.http.post(self.accounts.url + path, data=body, headers=headers)
        if kind == "leave-plain":
            asking = asyncio.ensure_future(_whole(request))
            await self.vendor.let_go[text].wait()
            asking.cancel()
            await asyncio.wait([asking])
            self.left.append(Expected("m", "failed", _guess(body), provenance="estimated", vendor="main"))
            return
        async with request as answer:
            read = b""
            try:
                async for part in answer.content.iter_any():
                    read += part
                    if kind == "leave" and read.count(b"word") == contents(number):
                        answer.close()
                        break
            except aiohttp.ClientPayloadError:
                assert kind == "cut"
            self.expect(answer.headers["X-Request-ID"], text, body)

    def expect(self, request_id: str, text: str, body: bytes) -> None:
        """What this request must be on record with, by what the vendor says it delivered."""
        kind, number = text.split()
        who, usage = self.vendor.delivered.get(text, ("main", {}))
        guess = _guess(body)
        expected = Expected("m", "complete", vendor=who, attempts=self.vendor.tries[text])
        match kind:
            case "leave" | "cut":
                expected.outcome, expected.provenance = "partial", "estimated"
                expected.prompt, expected.completion = guess, contents(int(number))
            case "refused" | "fail" | "malformed":
                expected.outcome = "failed"
            case "untold":
                expected.provenance, expected.prompt = "estimated", guess
                expected.completion = _guess(_WRITTEN.encode())
            case "stream-untold":
                expected.provenance = "estimated"
                expected.prompt, expected.completion = guess, contents(int(number))
            case _:
                expected.provenance, expected.cached = "vendor", 5
                expected.prompt, expected.completion = usage["prompt_tokens"], usage["completion_tokens"]
        self.expected[request_id] = expected


def _guess(text: bytes) -> int:
    """The tokens of a request, or of what a model has written, that no vendor has counted."""
    return -(-len(text) // 4)


async def _whole(request: Any) -> bytes:
    async with request as answer:
        read: bytes = await answer.read()
        return read


async def test_records_balances_and_deliveries_agree_after_any_load(
    open_accounts: OpenAccounts, vendor: Vendor, settled: Any
) -> None:
    chance = random.Random(7)
    changes = {"failover": {"retries": 1, "first_token_timeout": 20}}
    async with open_accounts(*deployments(vendor.url), **changes) as accounts:
        capped = {"token_quota": 10**9, "token_quota_per_day": 10**9, "budget": 10**6, "budget_per_month": 10**6}
        keys = {
            "alice": await accounts.client("alice", **capped),
            "bob": await accounts.client("bob"),  # who has no caps, and must be counted all the same
            "carol": await accounts.client("carol", token_quota=10**9, rpm_limit=10**6, concurrent_limit=1000),
        }
        loads = {name: Load(accounts, vendor) for name in keys}
        asked = [(name, kind, number) for number, kind in enumerate(KINDS * 16) for name in [chance.choice([*keys])]]
        chance.shuffle(asked)
        running = asyncio.Semaphore(40)

        async def one(name: str, kind: str, number: int) -> None:
            async with running:
                await loads[name].ask(keys[name], kind, number)

        await asyncio.gather(*(one(*request) for request in asked))

        for name, load in loads.items():
            mine = [(kind, number) for who, kind, number in asked if who == name]

            async def rows(name: str = name) -> list[Any]:
                await accounts.gateway.services[LEDGER].flush()
                return list(await accounts.gateway.services[LEDGER].rows(user_id=name, limit=500))

            async with asyncio.timeout(5):
                while len(found := await rows()) < len(mine):  # noqa: ASYNC110  # clients leave unannounced
                    await asyncio.sleep(0.01)
            by_id = {row.request_id: row for row in found}
            assert len(found) == len(by_id) == len(mine), "one row for each request"
            gone = [row for row in found if row.request_id not in load.expected]
            assert sorted(
                (row.outcome, row.http_status, row.provenance, row.tokens, row.cost) for row in gone
            ) == sorted((one.outcome, 499, one.provenance, one.prompt, one.cost) for one in load.left)
            for request_id, expected in load.expected.items():
                row = by_id[request_id]
                assert (row.outcome, row.provenance, row.prompt_tokens, row.completion_tokens, row.cached_tokens,
                        row.cost, row.attempts) == (expected.outcome, expected.provenance, expected.prompt,
                        expected.completion, expected.cached, expected.cost, expected.attempts)  # fmt: skip

            tokens, cost = sum(row.tokens for row in found), sum(row.cost for row in found)
            assert tokens == sum(one.prompt + one.completion for one in [*load.expected.values(), *load.left])
            assert await accounts.gateway.services[QUOTAS].used(name) == dict.fromkeys(
                ("all", "day", "month"), (tokens, cost)
            )
            quota = await accounts.done("GET", f"/admin/users/{name}/quota")
            assert {period["used"] for period in quota["tokens"].values()} == {tokens}
            assert {nano(period["used"]) for period in quota["budget"].values()} == {cost}
            usage = await accounts.done("GET", "/api/llm/stats/usage", key=keys[name])
            assert (usage["total_requests"], usage["total_tokens"]) == (len(mine), tokens)
            assert nano(usage["total_cost"]) == cost
