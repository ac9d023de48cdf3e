"""What a vendor of pictures makes of a request's fields, and how long a call of it takes."""

import time
from collections.abc import Mapping
from typing import Any

from gatehook.parameters import Parameter
from gatehook.testing.conformance.image_vendor import ImageBench, ImageSuite
from gatehook.testing.conformance.suite import check, expect

__all__ = ["IMAGE_SAMPLES", "ImageRequests"]

IMAGE_SAMPLES: Mapping[str, Any] = {
    "background": "transparent",
    "moderation": "low",
    "negative_prompt": "no ships, no gulls",
    "output_compression": 57,
    "output_format": "webp",
    "quality": "high",
    "seed": 918_273,
    "steps": 37,
    "style": "vivid",
    "user": "some-user",
    "x_nobody_knows_this": 61_843,
}
"""A value for each field, that asks for something and would never be sent otherwise."""

_OWN = frozenset({"model", "prompt", "n", "size", "response_format", "stream"})
"""Fields that other checks are about."""
_ROUNDS = 8


class ImageRequests(ImageSuite):
    """Nothing that a client asks for is silently lost, and a call takes hardly any time of its own."""

    samples: Mapping[str, Any] = {}
    """Values for further fields, or other values than those of `IMAGE_SAMPLES`."""
    arrives_as: Mapping[str, Any] = {}
    """What the server is sent for a field's sample, if that is another value."""
    unseen: Mapping[str, str] = {}
    """Fields that are accepted without anything being sent or told, and why that is right."""
    budget: float = 0.1
    """Seconds that a call may take with a server that answers at once."""

    @check("parameters")
    async def test_each_field_reaches_the_server_or_is_told(self) -> None:
        self.needs_a_server()
        table = self.claimed.parameters.get("images", {})
        samples = {**IMAGE_SAMPLES, **self.samples}
        wrong = [f"{name}: nobody knows a value for it; put one into `samples`" for name in table.keys() - samples]
        wrong = [one for one in wrong if one.partition(":")[0] not in _OWN]
        async with self.bench() as bench:
            for name, value in samples.items():
                if name not in self.unseen:
                    rule = table.get(name) or (Parameter("dropped", "not in the table") if table else None)
                    wrong += [f"{name}: {fault}" for fault in await self._field(bench, name, value, rule)]
        expect(not wrong, "\n".join(wrong))

    async def _field(self, bench: ImageBench, name: str, value: Any, rule: Parameter | None) -> list[str]:
        """What is wrong with what becomes of a field; without a rule, it only must not be lost silently."""
        before = len(bench.server.requests)
        answer = await bench.draw(**{name: value})
        sent = bench.server.requests[before:]
        is_sent = self.arrives_as.get(name, value) in [one for request in sent for one in bench.server.values(request)]
        is_told = name in answer.headers.get("X-Gatehook-Dropped-Params", "").split(", ")
        is_refused = answer.status == 400 and answer.error.get("param") == name
        if answer.status != 200 and not is_refused:
            return [f"with {value!r} the call fails: {answer.status} {answer.error.get('message')}"]
        found = {"mapped": is_sent, "dropped": is_told, "refused": is_refused}
        become = [what for what, holds in found.items() if holds]
        if not become:
            return [f"{value!r} is silently lost: not sent, and nobody is told"]
        if len(become) > 1:
            return [f"is {' and '.join(become)} at once"]
        if rule is not None and become != [rule.disposition]:
            return [f"the table says {rule.disposition} ({rule.note}), but it is {become[0]}"]
        return []

    @check("latency")
    async def test_a_call_takes_little_longer_than_the_server(self) -> None:
        """The quickest of several counts, as the machine may be busy with other things."""
        took = []
        async with self.bench() as bench:
            for _ in range(_ROUNDS):
                start = time.perf_counter()
                self.drawn(await bench.draw())
                took.append(time.perf_counter() - start)
        least = min(took)
        expect(least <= self.budget, f"a call takes {least * 1000:.0f} ms, of {self.budget * 1000:.0f} that it may")
