"""Each shipped plugin switched off alone: the others go on, and what is missing says so."""

import tomllib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook.testing import serving

SHIPPED = Path(__file__).parents[2].joinpath("settings.toml").read_text("utf-8").replace("port = 8080", "port = 0")
CHAT: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": "Hi"}]}
LOST: dict[str, dict[str, Any]] = {
    "cooldown": {},
    "dashboard": {"/dashboard": 404},
    "generate_api": {},
    "health": {"/health": 404},
    "llm_api": {},
    "messages_api": {},
    "metrics": {"/metrics": 404},
    "openai_api": {"/v1/models": 404, "chat": (404, "unknown_path")},
    "responses_api": {},
    "route_models": {"chat": (503, "no_router")},
    "system_api": {},
    "vendor_anthropic": {},
    "vendor_gemini": {},
    "vendor_mock": {"chat": (400, "unknown_vendor")},
    "vendor_openai": {},
}


@pytest.mark.parametrize("plugin", sorted(LOST))
async def test_a_plugin_switched_off_takes_only_its_own_with_it(plugin: str) -> None:
    table = f"[plugins.{plugin}]"
    start = SHIPPED.index("enabled = true", SHIPPED.index(table))
    settings = SHIPPED[:start] + "enabled = false" + SHIPPED[start + len("enabled = true") :]
    paths = ("/dashboard", "/health", "/metrics", "/v1/models")
    expected: dict[str, Any] = dict.fromkeys(paths, 200) | {"chat": (200, None)} | LOST[plugin]
    told: dict[str, Any] = {}
    async with serving(settings) as served, aiohttp.ClientSession() as http:
        assert plugin not in served.gateway.plugins.names
        for path in paths:
            async with http.get(served.url + path) as answer:
                told[path] = answer.status
        async with http.post(f"{served.url}/v1/chat/completions", json=CHAT) as answer:
            told["chat"] = (answer.status, (await answer.json()).get("error", {}).get("code"))
    assert told == expected


def test_every_shipped_plugin_is_among_them() -> None:
    on = {line[9:].split("]")[0] for line in SHIPPED.splitlines() if line.startswith("[plugins.")}
    off = {name for name, section in tomllib.loads(SHIPPED)["plugins"].items() if not section["enabled"]}
    assert set(LOST) == on - off
