"""The suite for vendors: one deployment, an upstream that plays what the author's script says, and no network."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NoReturn

import aiohttp
import pytest

from gatehook.model import ToolCall
from gatehook.testing import Reply, StubUpstream, serving
from gatehook.testing.conformance.bench import Bench, logged
from gatehook.testing.conformance.deployment import DeploymentSuite
from gatehook.testing.conformance.script import Act, Said, Script
from gatehook.testing.conformance.suite import not_offered

__all__ = ["VendorSuite"]

TEXT = ("Grüße, ", "world", " 🌍!")
"""Characters of one, two and four bytes, which must survive being cut between two bytes."""

CALLS = (
    ToolCall("call_1", "get_weather", '{"city": "Zürich"}'),
    ToolCall("call_2", "get_weather", '{"city": "Bern"}'),
)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


class VendorSuite(DeploymentSuite):
    """What the checks of vendors share. An author subclasses `VendorConformance` and gives `plugin` and `script`."""

    kind: ClassVar[str] = "vendor"
    script: Script
    """How its upstream answers."""
    uds: str = ""
    """The path of the Unix socket that its upstream listens on, if it speaks through one."""
    prompt: str = "Say something."
    says: tuple[str, ...] = TEXT
    """What the model answers to that; to be set for engines that cannot be told what to say."""
    is_real: bool = False
    """Whether a real engine answers, which cannot be told what to say: then what the script lacks is not tried."""

    def said(self, **what: Any) -> Said:
        """What the model says in most checks."""
        return Said(**({"text": self.says} | what))

    def plain(self, said: Said) -> Act:
        """The upstream's plain answer; ends the check if it has none."""
        return self._offered(self.script.plain(said), "plain answers")

    def stream(self, said: Said) -> Act:
        """The upstream's streamed answer; ends the check if it has none."""
        return self._offered(self.script.stream(said), "streams")

    def _offered(self, act: Act | None, what: str) -> Act:
        if act is None:
            self.lacks(what)
        return act

    def lacks(self, what: str) -> NoReturn:
        """End the check: the script has no such thing."""
        if self.is_real:
            pytest.skip(f"not tried: a real engine cannot be made to give {what}")
        not_offered(f"the script has no {what}")

    def reply(self, act: Act) -> Reply:
        """The act as an upstream's reply; ends the check for vendors without an upstream."""
        if not isinstance(act, Reply):
            self.lacks("upstream on a socket")
        return act

    @asynccontextmanager
    async def bench(
        self, act: Act, *, failover: Mapping[str, Any] | None = None, **deployment: Any
    ) -> AsyncIterator[Bench]:
        """A gateway with one deployment, which answers so."""
        replies = [act] if isinstance(act, Reply) else []
        options = self.options if isinstance(act, Reply) else {**self.options, **act}
        with logged() as log:
            async with StubUpstream(*replies, uds=self.uds) as stub, aiohttp.ClientSession() as http:
                url = self.script.base_url(stub.url)
                plugins = ["[plugins.openai_api]", "[plugins.route_models]"]
                settings = self.serving_one(url, options, deployment, failover=failover, plugins=plugins)
                async with serving(settings, plugins=self.plugins) as served:
                    yield Bench(served, http, log, stub, self.prompt)
