"""What a vendor sends: whether its table of parameters is true, and how long translating takes."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

from gatehook.calls.attempts import Attempts
from gatehook.model import Operation
from gatehook.parameters import Parameter
from gatehook.testing import attempt
from gatehook.testing.conformance.bench import Bench
from gatehook.testing.conformance.script import Said
from gatehook.testing.conformance.suite import check, expect
from gatehook.testing.conformance.vendor import TOOLS, VendorSuite

__all__ = ["SAMPLES", "VendorRequests"]

_PATHS: Mapping[Operation, str] = {
    "chat": "chat/completions",
    "completions": "completions",
    "embeddings": "embeddings",
}
_BASE: Mapping[Operation, frozenset[str]] = {
    "chat": frozenset({"model", "messages", "stream", "stream_options"}),
    "completions": frozenset({"model", "prompt", "stream", "stream_options"}),
    "embeddings": frozenset({"model", "input", "encoding_format"}),
}
"""The fields of the request itself, which other checks are about."""

_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}

SAMPLES: Mapping[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "best_of": 3,
    "dimensions": 2,
    "echo": True,
    "frequency_penalty": 0.3,
    "function_call": "auto",
    "functions": [{"name": "f", "parameters": {"type": "object"}}],
    "logit_bias": {"42": 5},
    "logprobs": True,
    "max_completion_tokens": 2051,
    "max_tokens": 2053,
    "metadata": {"team": "blue"},
    "modalities": ["text", "image"],
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "abc"},
    "presence_penalty": 0.4,
    "prompt_cache_key": "some-cache",
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA, "strict": True}},
    "safety_identifier": "some-user",
    "seed": 1234,
    "service_tier": "flex",
    "stop": ["END"],
    "store": True,
    "suffix": "the end",
    "temperature": 0.35,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tool_choice": "required",
    "tools": TOOLS,
    "top_k": 17,
    "top_logprobs": 3,
    "top_p": 0.85,
    "user": "some-user",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
"""A value for each of OpenAI's parameters that asks for something."""

_COMPLETIONS: Mapping[str, Any] = {"logprobs": 3}
"""Parameters that have another type in text completions."""

_BESIDE: Mapping[str, Mapping[str, Any]] = {
    "function_call": {"functions": SAMPLES["functions"]},
    "parallel_tool_calls": {"tools": TOOLS},
    "tool_choice": {"tools": TOOLS},
    "top_logprobs": {"logprobs": True},
}
"""What a parameter needs beside it to make sense."""

_ROUNDS = 25
_FLOOR = 0.002
"""Seconds that translating may take in any case, however fast the bare exchange is."""


class VendorRequests(VendorSuite):
    """Nothing that a client asks for is silently lost, and translating takes hardly any time."""

    samples: Mapping[str, Any] = {}
    """Values for parameters that OpenAI does not have, or other values than those of `SAMPLES`."""
    beside: Mapping[str, Mapping[str, Any]] = {}
    """What else a request has to have for a parameter to make sense, by the parameter."""
    unseen: Mapping[str, str] = {}
    """Parameters that are mapped without anything being sent for them, and why that is right."""
    budget: float = 5.0
    """How many times longer than the bare exchange with the upstream a whole call of the vendor may take."""

    @check("parameters")
    async def test_each_parameter_becomes_what_the_table_says(self) -> None:
        vendor = self.claimed
        wrong: list[str] = []
        for operation in sorted(vendor.operations & _PATHS.keys()):
            said = (
                self.said(operation=operation)
                if operation != "embeddings"
                else Said(operation="embeddings", vectors=([0.5, 1.0],))
            )
            act = self.plain(said)
            self.reply(act)
            async with self.bench(act) as bench:
                table = vendor.parameters.get(operation)
                if table:
                    wrong += [f"{operation}: {one}" for one in await self._compared(bench, operation, table)]
                else:
                    wrong += [f"{operation}: {one}" for one in await self._passed(bench, operation)]
        expect(not wrong, "\n".join(wrong))

    async def _compared(self, bench: Bench, operation: Operation, table: Mapping[str, Parameter]) -> list[str]:
        """What is wrong with the rows of one table."""
        rows = {name: rule for name, rule in table.items() if name not in _BASE[operation]}
        rows["x_nobody_knows_this"] = Parameter("dropped", "not in the table")
        wrong = []
        for name, rule in rows.items():
            value = self._sample(name, operation)
            beside = {**_BESIDE.get(name, {}), **self.beside.get(name, {})}
            if value is None:
                wrong.append(f"{name}: nobody knows a value for it; put one into `samples`")
            elif name not in self.unseen:
                wrong += [f"{name}: {fault}" for fault in await self._row(bench, operation, name, value, rule, beside)]
        return wrong

    def _sample(self, name: str, operation: Operation) -> Any:
        known = {**SAMPLES, **(_COMPLETIONS if operation == "completions" else {}), "x_nobody_knows_this": 1}
        return {**known, **self.samples}.get(name)

    async def _row(
        self, bench: Bench, operation: Operation, name: str, value: Any, rule: Parameter, beside: Mapping[str, Any]
    ) -> list[str]:
        """What is wrong with one row."""
        without, _, _, _ = await self._sent(bench, operation, beside)
        if without is None:  # what it needs beside it is refused itself
            beside, (without, _, _, _) = {}, await self._sent(bench, operation, {})
        sent, status, told, error = await self._sent(bench, operation, {**beside, name: value})
        if rule.disposition == "refused":
            param = error.get("param")
            if sent is not None:
                return [f"is to be refused ({rule.note}), but {value!r} was accepted"]
            return [] if (status, param) == (400, name) else [f"is refused with {status} and param {param!r}"]
        if sent is None:
            return [f"is {rule.disposition} ({rule.note}), but {value!r} is refused: {error.get('message')}"]
        if status != 200:
            return [f"is {rule.disposition} ({rule.note}), but with {value!r} the call fails: {error.get('message')}"]
        if rule.disposition == "mapped":
            lost = f"is mapped ({rule.note}), but nothing is sent for {value!r}; if that is right, say why in `unseen`"
            return [] if sent != without else [lost]
        faults = [] if name in told else ["is dropped, but the client is not told"]
        return faults if sent == without else [*faults, "is dropped, but something is sent for it"]

    async def _sent(
        self, bench: Bench, operation: Operation, more: Mapping[str, Any]
    ) -> tuple[tuple[str, Any, bytes] | None, int, str, Mapping[str, Any]]:
        """What reached the upstream (None: nothing), and what the client was told: status, dropped names, error."""
        before = len(bench.stub.requests)
        answer = await bench.ask(_PATHS[operation], **{**self._base(operation), **more})
        told = answer.headers.get("X-Gatehook-Dropped-Params", "")
        if len(bench.stub.requests) == before:
            return None, answer.status, told, answer.error
        one = bench.stub.requests[-1]
        varying = ("host", "content-length", "date")
        headers = {key: text for key, text in one.headers.items() if key not in varying}
        return (one.path, {} if "x-amz-date" in headers else headers, one.body), answer.status, told, answer.error

    def _base(self, operation: Operation) -> dict[str, Any]:
        if operation == "chat":
            return {}
        return {"messages": None, "prompt" if operation == "completions" else "input": self.prompt}

    async def _passed(self, bench: Bench, operation: Operation) -> list[str]:
        """What is lost of a request in a dialect that takes OpenAI's own."""
        wrong = []
        for name in [*SAMPLES, "x_nobody_knows_this"]:
            value = self._sample(name, operation)
            before = len(bench.stub.requests)
            await bench.ask(_PATHS[operation], **{**self._base(operation), name: value})
            if len(bench.stub.requests) == before:
                continue  # the gateway's own surface refuses it, whatever the vendor
            if bench.stub.requests[-1].json.get(name) != value:
                wrong.append(f"{name}: there is no table, so it should go through, but the upstream gets another value")
        return wrong

    @check("latency")
    async def test_a_call_takes_little_longer_than_the_bare_exchange(self) -> None:
        act = self.plain(self.said())
        self.reply(act)
        async with self.bench(act) as bench:
            gateway, target = bench.served.gateway, bench.target
            attempts = Attempts(gateway.settings.failover, gateway.vendors, gateway.pipeline.concerns.deadlines)
            bare, whole = [], []
            await attempts.complete(attempt(bench.payload(), target=target).call, target)
            body = bench.stub.requests[0].body
            for _ in range(_ROUNDS):
                start = time.perf_counter()
                headers = {"Content-Type": "application/json"}
                async with await gateway.egress.request(
                    target, "POST", bench.stub.url + "/bare", headers=headers, body=body, uds=self.uds
                ) as upstream:
                    await upstream.read()
                bare.append(time.perf_counter() - start)
                start = time.perf_counter()
                await attempts.complete(attempt(bench.payload(), target=target).call, target)
                whole.append(time.perf_counter() - start)
        took, least = statistics.median(whole), statistics.median(bare)
        expect(
            took <= least * self.budget + _FLOOR,
            f"a call takes {took * 1000:.2f} ms, the bare exchange {least * 1000:.2f} ms: more than {self.budget:g} "
            f"times as long and {_FLOOR * 1000:g} ms",
        )
