"""Aliases, wildcards and what deployments can do, through a whole gateway."""

import json
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Recorded, Reply, StubUpstream, serving

ANSWER = Reply.of_json(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
)
PLUGINS = """
[plugins.openai_api]
[plugins.llm_api]
[plugins.metrics]
[plugins.health]
[plugins.route_models]
[plugins.vendor_openai]
"""
IMAGE = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def model(name: str, url: str, *, upstream: str = "", more: str = "") -> str:
    asked = f'model = "{upstream}"\n' if upstream else ""
    return f'[[models]]\nname = "{name}"\nvendor = "openai"\n{asked}base_url = "{url}/v1"\napi_key = "k"\n{more}\n'


async def chat(url: str, model: str, *, key: str = "", **body: Any) -> tuple[int, Any]:
    asked = {"model": model, "messages": [{"role": "user", "content": "hello"}], **body}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=asked, headers=headers) as answer,
    ):
        return answer.status, json.loads(await answer.read())


async def get(url: str, path: str, key: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as session, session.get(url + path, headers=headers) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith("{") else text


def asked(requests: list[Recorded]) -> list[str]:
    return [request.json["model"] for request in requests]


async def test_aliases_and_wildcards_are_answered_under_the_name_that_was_asked() -> None:
    async with StubUpstream(ANSWER) as stub:
        text = model("big", stub.url, upstream="big-1", more='aliases = ["gpt", "large"]')
        text += model("o/*", stub.url, upstream="*") + model("o/own", stub.url, upstream="mine")
        text += model("o/long-*", stub.url, upstream="long/*")
        async with serving(PLUGINS + text) as served:
            for name in ("gpt", "o/any", "o/own", "o/long-1"):
                status, said = await chat(served.url, name)
                assert (status, said["model"]) == (200, name)
            assert asked(stub.requests) == ["big-1", "any", "mine", "long/1"]
            for name in ("o/", "o/*", "o/../x", "o/a b", "o/x?y", "unknown"):
                assert (await chat(served.url, name))[0] == 404


async def test_models_and_aliases_are_listed_and_what_a_wildcard_serves_is_found() -> None:
    text = model("big", "http://x.example", more='aliases = ["gpt"]') + model("o/*", "http://x.example")
    async with serving(PLUGINS + text) as served:
        _, listed = await get(served.url, "/v1/models")
        assert [one["id"] for one in listed["data"]] == ["big", "gpt"]
        assert (await get(served.url, "/v1/models/o/any"))[1]["id"] == "o/any"
        assert (await get(served.url, "/v1/models/o/*"))[0] == 404
        _, listed = await get(served.url, "/api/llm/models")
        assert [one["id"] for one in listed["models"]] == ["big", "gpt"]
        assert (await get(served.url, "/health"))[1]["models"] == 2


async def test_metrics_count_by_model_whatever_names_clients_make_up() -> None:
    async with StubUpstream(ANSWER) as stub:
        text = model("big", stub.url, more='aliases = ["gpt"]') + model("o/*", stub.url)
        async with serving(PLUGINS + text) as served:
            for name in ("gpt", "o/one", "o/two"):
                await chat(served.url, name)
            _, told = await get(served.url, "/metrics")
    assert 'model="o/*"' in told
    assert 'model="big"' in told
    assert "o/one" not in told
    assert 'model="gpt"' not in told


async def test_limits_of_a_model_hold_for_its_aliases_and_for_all_a_wildcard_serves() -> None:
    limits = (
        '[plugins.rate_limit]\nmodels = { "big" = { requests_per_minute = 2 }, "o/*" = { requests_per_minute = 2 } }\n'
    )
    async with StubUpstream(ANSWER) as stub:
        text = model("big", stub.url, more='aliases = ["gpt"]') + model("o/*", stub.url)
        async with serving(PLUGINS + limits + text) as served:
            assert [(await chat(served.url, name))[0] for name in ("big", "gpt", "gpt")] == [200, 200, 429]
            assert [(await chat(served.url, name))[0] for name in ("o/a", "o/b", "o/c")] == [200, 200, 429]


async def test_the_limit_of_a_deployment_is_one_for_all_its_names() -> None:
    async with StubUpstream(ANSWER) as stub:
        more = "rate_limit = { requests_per_minute = 2 }\n"
        async with serving(PLUGINS + "[plugins.rate_limit]\n" + model("o/*", stub.url, more=more)) as served:
            assert [(await chat(served.url, name))[0] for name in ("o/a", "o/b", "o/c")] == [200, 200, 429]


async def test_images_and_tools_go_where_they_can_be_used() -> None:
    async with StubUpstream(ANSWER) as blind, StubUpstream(ANSWER) as seeing:
        text = model("m", blind.url, more='capabilities = ["conversation"]')
        text += model("m", seeing.url, more='priority = 2\ncapabilities = ["vision", "tools"]')
        async with serving(PLUGINS + text) as served:
            assert (await chat(served.url, "m"))[0] == 200
            assert (await chat(served.url, "m", messages=[{"role": "user", "content": IMAGE}]))[0] == 200
            assert (await chat(served.url, "m", tools=TOOLS))[0] == 200
    assert (len(blind.requests), len(seeing.requests)) == (1, 2)


async def test_what_no_deployment_can_do_is_refused_by_name() -> None:
    async with StubUpstream(ANSWER) as stub:
        more = 'capabilities = ["conversation"]\nlimits = { context_window = 100, max_tokens = 50 }'
        async with serving(PLUGINS + model("m", stub.url, more=more)) as served:
            status, said = await chat(served.url, "m", messages=[{"role": "user", "content": IMAGE}])
            assert (status, said["error"]["code"]) == (400, "unsupported_capability")
            assert "'vision'" in said["error"]["message"]
            status, said = await chat(served.url, "m", messages=[{"role": "user", "content": "word " * 1000}])
            assert (status, said["error"]["code"]) == (400, "context_length_exceeded")
            assert "context window is 100 tokens" in said["error"]["message"]
            status, said = await chat(served.url, "m", max_tokens=51)
            assert (status, said["error"]["param"]) == (400, "max_tokens")
            assert not stub.requests


SPENDING = """
[plugins.auth_keys]
[plugins.database]
[plugins.ledger]
directory = "{folder}"
[plugins.quota]
budget = 0.001
[database]
url = "{url}"
secret = "secret-of-the-tests-0123456789"
"""


async def test_prices_and_budgets_hold_for_aliases_and_wildcards(database_url: str, tmp_path: Any) -> None:
    from gatehook.accounts import User
    from gatehook.services import DIRECTORY, LEDGER

    price = "pricing = { input_per_1k_tokens = 0.001, output_per_1k_tokens = 0.002 }\n"
    async with StubUpstream(ANSWER) as stub:
        text = SPENDING.format(url=database_url, folder=tmp_path)
        text += model("big", stub.url, more='aliases = ["gpt"]\n' + price) + model("o/*", stub.url, more=price)
        async with serving(PLUGINS + text) as served:
            directory = served.gateway.services[DIRECTORY]
            await directory.create_user("tests", User("ann"))
            allowed = frozenset({"big", "o/a*"})
            _, key = await directory.create_key("tests", "ann", models=allowed)
            for name in ("gpt", "o/a1"):
                assert (await chat(served.url, name, key=key, max_tokens=20))[0] == 200
            await served.gateway.services[LEDGER].flush()
            used = await served.gateway.services[LEDGER].usage(0, 2**53, user_id="ann")
            assert {one.model: one.cost for one in used} == {"gpt": 20_000, "o/a1": 20_000}
            status, said = await chat(served.url, "o/a1", key=key, max_tokens=100_000)
            assert (status, said["error"]["code"]) == (429, "insufficient_quota")
            assert (await chat(served.url, "o/b1", key=key))[0] == 403


@pytest.mark.parametrize(
    ("allowed", "name", "expected"),
    [
        (["big"], "gpt", 200),  # another name of what is allowed
        (["gpt"], "gpt", 200),
        (["gpt"], "big", 403),  # an alias allows no more than itself
        (["gpt"], "large", 403),
        (["o/a*"], "o/a1", 200),
        (["o/a*"], "o/b1", 403),
        (["o/*"], "o/own", 200),  # what begins so is allowed, also where it has a table of its own
        (["o/x"], "o/x", 200),
        (["*"], "big", 200),
        (["bi"], "big", 403),
    ],
)
async def test_keys_allow_what_they_name_and_no_more(allowed: list[str], name: str, expected: int) -> None:
    from collections.abc import Iterable

    from gatehook import Authenticator, Credential, Principal, Section, hookimpl

    class Door:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        async def authenticate(self, credential: Credential) -> Principal:
            return Principal("ann", models=frozenset(allowed))

        @hookimpl
        def register_authenticators(self) -> Iterable[Authenticator]:
            return [self]

    async with StubUpstream(ANSWER) as stub:
        text = (
            model("big", stub.url, more='aliases = ["gpt", "large"]')
            + model("o/*", stub.url)
            + model("o/own", stub.url)
        )
        async with serving("[plugins.door]\n" + PLUGINS + text, plugins={"door": Door}) as served:
            assert (await chat(served.url, name))[0] == expected
            status, _ = await get(served.url, f"/v1/models/{name}")
            assert (status == 200) is (expected == 200)
