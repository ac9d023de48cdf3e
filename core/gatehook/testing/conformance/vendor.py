"""The suite for vendors: one deployment, an upstream that plays what the author's script says, and no network."""

import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NoReturn

import aiohttp
import pytest

from gatehook.model import ToolCall
from gatehook.protocols import Vendor
from gatehook.testing import Reply, Served, StubUpstream, serving
from gatehook.testing.conformance.bench import MODEL, Bench, logged
from gatehook.testing.conformance.script import Act, Said, Script
from gatehook.testing.conformance.suite import Suite, not_offered, toml

__all__ = ["VendorSuite"]

TEXT = ("Grüße, ", "world", " 🌍!")
"""Characters of one, two and four bytes: what is cut between two bytes must still be put together."""

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


class VendorSuite(Suite):
    """What the checks of vendors share. An author subclasses `VendorConformance` and gives `plugin` and `script`."""

    kind: ClassVar[str] = "vendor"
    script: Script
    """How its upstream answers."""
    vendor_name: str = ""
    """Its name in `[[models]]`, if the plugin has several vendors."""
    upstream_model: str = "upstream-model"
    """The `model` of the deployment."""
    options: Mapping[str, Any] = {}
    """The `options` of the deployment."""
    deployment: Mapping[str, Any] = {}
    """More of its `[[models]]` table."""
    prompt: str = "Say something."
    says: tuple[str, ...] = TEXT
    """What the model says to it; for engines that cannot be told what to say."""
    is_real: bool = False
    """Whether a real engine answers, which nobody can tell what to say: what the script lacks is then not tried."""
    key: str = "canary.6b1f0c9a7e3d"
    """The deployment's key. It looks like nothing that is known for a key, so that only who hides it hides it."""

    def said(self, **what: Any) -> Said:
        """What the model says in most checks."""
        return Said(**({"text": self.says} | what))

    def vendor(self, served: Served) -> Vendor:
        """The vendor in question."""
        return served.gateway.vendors[self.claimed.name]

    @functools.cached_property
    def claimed(self) -> Vendor:
        """The vendor as it is registered, for what it claims; it serves nothing."""
        vendors = self.build().vendors
        return vendors[self.vendor_name] if self.vendor_name else self.own(list(vendors.values()), "vendor")

    def plain(self, said: Said) -> Act:
        """The upstream's whole answer; ends the check if it has none."""
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
        """The act as bytes of an upstream; ends the check for vendors without one."""
        if not isinstance(act, Reply):
            self.lacks("upstream on a socket")
        return act

    @asynccontextmanager
    async def bench(
        self, act: Act, *, failover: Mapping[str, Any] | None = None, **deployment: Any
    ) -> AsyncIterator[Bench]:
        """A gateway that serves one deployment, which answers so."""
        replies = [act] if isinstance(act, Reply) else []
        options = self.options if isinstance(act, Reply) else {**self.options, **act}
        with logged() as log:
            async with StubUpstream(*replies) as stub, aiohttp.ClientSession() as http:
                settings = self._settings(stub.url, options, {"retries": 0, **(failover or {})}, deployment)
                async with serving(settings, plugins=self.plugins) as served:
                    yield Bench(served, stub, http, log, self.prompt)

    def _settings(
        self, url: str, options: Mapping[str, Any], failover: Mapping[str, Any], deployment: Mapping[str, Any]
    ) -> str:
        model = {
            "name": MODEL,
            "vendor": self.claimed.name,
            "model": self.upstream_model,
            "base_url": self.script.base_url(url),
            "api_key": self.key,
            "options": options,
            **self.deployment,
            **deployment,
        }
        tables = {"failover": failover, "[models]": model}
        written = [
            "\n".join([f"[{table}]", *(f"{key} = {toml(value)}" for key, value in values.items())])
            for table, values in tables.items()
        ]
        return self.written("\n".join(["[plugins.openai_api]", "[plugins.route_models]", *written]))
