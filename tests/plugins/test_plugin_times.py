"""`plugin_times` of the plugin `metrics`: what /metrics tells of a whole gateway's plugins."""

from collections.abc import Mapping
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families as read_text

from gatehook import Call, Section, hookimpl
from gatehook.testing import serving

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.cache]
[plugins.auth_keys]
keys = ["0123456789abcdef"]
[plugins.rate_limit]
requests_per_minute = 1000
[plugins.bad]
[plugins.metrics]
plugin_times = true
[[models]]
name = "m"
vendor = "mock"
"""
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Bad:
    """Its cache is out of order."""

    class Settings(Section): ...

    def __init__(self, settings: Section) -> None: ...

    @hookimpl
    def register_caches(self) -> list[Any]:
        class Broken:
            async def get(self, key: bytes, call: Call) -> None:
                raise RuntimeError("out of order")

            async def put(self, key: bytes, call: Call, entry: object) -> None: ...

        return [Broken()]


async def told(settings: str) -> Mapping[str, dict[tuple[str, str], float]]:
    """The families of plugins after a plain, a cached, a streamed and a refused call."""
    async with serving(settings, plugins={"bad": Bad}) as served:
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        async with aiohttp.ClientSession(served.url, headers=headers) as http:
            for body in (CHAT, CHAT, CHAT | {"stream": True}, CHAT | {"model": "nothing"}):
                async with http.post("/v1/chat/completions", json=body) as answer:
                    await answer.read()
            async with http.get("/metrics") as answer:
                text = await answer.text()
    return {
        family.name: {
            (sample.labels["plugin"], sample.labels["method"]): sample.value
            for sample in family.samples
            if sample.name.endswith("_total")
        }
        for family in read_text(text)
        if family.name.startswith("gateway_plugin_")
    }


async def test_each_plugin_s_calls_times_and_errors_are_told() -> None:
    families = await told(SETTINGS)
    assert sorted(families) == [
        "gateway_plugin_busy_seconds",
        "gateway_plugin_calls",
        "gateway_plugin_errors",
        "gateway_plugin_seconds",
    ]
    calls, seconds, busy, errors = (
        families[f"gateway_plugin_{name}"] for name in ("calls", "seconds", "busy_seconds", "errors")
    )
    assert calls["auth_keys", "authenticate"] == 4
    assert calls["rate_limit", "admit"] == calls["rate_limit", "settle"] == 4
    assert calls["vendor_mock", "complete"] == calls["vendor_mock", "stream"] == 1
    assert calls["openai_api", "parse"] == 4
    assert calls["metrics", "finished"] == 4
    assert errors["bad", "get"] == calls["bad", "get"] == 4
    assert {key for key, count in errors.items() if count} == {("bad", "get")}
    assert all(0 <= busy[key] <= seconds[key] for key in calls)


async def test_nothing_is_told_and_nothing_counted_by_default() -> None:
    assert await told(SETTINGS.replace("plugin_times = true", "")) == {}
