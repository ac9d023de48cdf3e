"""GET /v1/models and /openapi.json, as clients get them."""

import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import anthropic
import pytest
from anthropic.types import ModelInfo
from yarl import URL

from gatehook.testing import serving

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "mock"
vendor = "mock"
[[models]]
name = "org/deep/model:free"
vendor = "mock"
[[models]]
name = "mock"
vendor = "mock"
model = "second"
priority = 2
[[models]]
name = "Größe 😀"
vendor = "mock"
[[models]]
name = "half on"
vendor = "mock"
api_key = "env:GATEHOOK_TEST_NO_SUCH_KEY"
[[models]]
name = "half on"
vendor = "mock"
model = "other"
[[models]]
name = "off"
vendor = "mock"
api_key = "env:GATEHOOK_TEST_NO_SUCH_KEY"
[[models]]
name = "disabled"
vendor = "mock"
enabled = false
"""


async def got(url: str | URL, **rest: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(url, **rest) as answer:
        assert answer.content_type == "application/json"
        return answer.status, json.loads(await answer.read())


async def test_the_list_holds_each_model_once_that_can_be_called_in_the_order_of_the_settings() -> None:
    async with serving(SETTINGS) as gateway:
        status, answer = await got(f"{gateway.url}/v1/models")
    assert status == 200
    assert answer["object"] == "list"
    assert [one["id"] for one in answer["data"]] == ["mock", "org/deep/model:free", "Größe 😀", "half on"]
    for one in answer["data"]:
        assert one == {"id": one["id"], "object": "model", "created": one["created"], "owned_by": "mock",
                       "permission": [], "root": one["id"], "parent": None}  # fmt: skip
        assert isinstance(one["created"], int)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mock", "mock"),
        ("org/deep/model:free", "org/deep/model:free"),
        ("org%2Fdeep%2Fmodel%3Afree", "org/deep/model:free"),
        ("Gr%C3%B6%C3%9Fe%20%F0%9F%98%80", "Größe 😀"),
        ("half%20on", "half on"),
    ],
)
async def test_one_model_is_found_whatever_its_name_holds(path: str, name: str) -> None:
    async with serving(SETTINGS) as gateway:
        status, model = await got(URL(f"{gateway.url}/v1/models/{path}", encoded=True))
    assert (status, model["id"]) == (200, name)


@pytest.mark.parametrize(
    "path", ["off", "disabled", "nothing", "mock/", "MOCK", "%FF", "..%2F..%2Fetc", "%00", "a" * 5000]
)
async def test_any_other_model_is_told_as_not_found(path: str) -> None:
    async with serving(SETTINGS) as gateway:
        status, answer = await got(URL(f"{gateway.url}/v1/models/{path}", encoded=True))
    assert status == 404
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == ("not_found_error", "model_not_found", "model")


KEYED = SETTINGS + '\n[plugins.auth_keys]\nkeys = ["0123456789abcdef0123"]\n'


async def test_a_model_whose_vendor_no_plugin_provides_is_not_one_that_can_be_called() -> None:
    nowhere = SETTINGS.replace("[[models]]", '[[models]]\nname = "w"\nvendor = "nowhere"\n[[models]]', 1)
    async with serving(nowhere) as served, aiohttp.ClientSession() as http:
        async with http.get(f"{served.url}/v1/models") as answer:
            assert "w" not in [model["id"] for model in (await answer.json())["data"]]
        async with http.get(f"{served.url}/v1/models/w") as answer:
            assert answer.status == 404
        body = {"model": "w", "messages": [{"role": "user", "content": "x"}]}
        async with http.post(f"{served.url}/v1/chat/completions", json=body) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (400, "unknown_vendor")


async def test_with_keys_the_list_needs_one_and_the_document_does_not() -> None:
    async with serving(KEYED) as gateway:
        for path in ("/v1/models", "/v1/models/mock"):
            status, answer = await got(gateway.url + path)
            assert (status, answer["error"]["type"]) == (401, "authentication_error")
            status, answer = await got(gateway.url + path, headers={"Authorization": "Bearer 0123456789abcdef0123"})
            assert status == 200
        status, document = await got(f"{gateway.url}/openapi.json")
    assert status == 200
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"} <= set(document["paths"])


async def test_anthropics_clients_get_the_list_in_their_own_shape() -> None:
    limits = 'limits = { max_tokens = 64000, context_window = 200000 }\n[[models]]\nname = "org/'
    async with serving(SETTINGS.replace('[[models]]\nname = "org/', limits, 1)) as gateway:
        transport = anthropic.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes longer than the test
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="k", http_client=transport) as client:
            page = await client.models.list()
            models = [one async for one in client.models.list()]
            one = await client.models.retrieve("mock")
            with pytest.raises(anthropic.NotFoundError, match="nobody"):
                await client.models.retrieve("nobody")
    assert [one.id for one in models] == ["mock", "org/deep/model:free", "Größe 😀", "half on"]
    assert (page.has_more, page.first_id, page.last_id) == (False, "mock", "half on")
    assert models[0] == one
    assert (one.type, one.display_name, one.lifecycle) == ("model", "mock", "active")
    assert (one.max_input_tokens, one.max_tokens) == (200000, 64000)
    assert abs((datetime.now(UTC) - one.created_at).total_seconds()) < 600
    ModelInfo.model_validate(one.model_dump())


@contextlib.asynccontextmanager
async def anthropics(text: str, key: str = "k") -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The SDK's client of a gateway."""
    transport = anthropic.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes longer than the test
    async with (
        serving(text) as gateway,
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key=key, max_retries=0, http_client=transport) as client,
    ):
        yield client


async def test_anthropics_clients_go_through_the_pages_in_both_directions() -> None:
    names = ["mock", "org/deep/model:free", "Größe 😀", "half on"]
    async with anthropics(SETTINGS) as client:
        for limit in range(1, 6):
            assert [one.id async for one in client.models.list(limit=limit)] == names
            assert [one.id async for one in client.beta.models.list(limit=limit)] == names
        page = await client.models.list(limit=2)
        assert ([one.id for one in page.data], page.has_more, page.last_id) == (names[:2], True, names[1])
        page = await client.models.list(limit=2, before_id="half on")
        assert [one.id for one in page.data] == names[1:3]
        assert (page.has_more, page.first_id) == (True, names[1])
        page = await page.get_next_page()
        assert ([one.id for one in page.data], page.has_more) == (names[:1], False)
        page = await client.models.list(after_id="half on")
        assert (page.data, page.has_more, page.first_id, page.last_id) == ([], False, None, None)


async def test_anthropics_clients_find_all_models_among_the_active_ones_alone() -> None:
    async with anthropics(SETTINGS) as client:
        for models in (client.models, client.beta.models):
            assert [one.id async for one in models.list(lifecycle=["retired", "active"], limit=3)] == [
                one.id async for one in models.list()
            ]
            page = await models.list(lifecycle=["deprecated", "retired"])
            assert (page.data, page.has_more) == ([], False)
        assert (await client.get("/v1/models?lifecycle=deprecated", cast_to=dict[str, Any]))["data"] == []


async def test_anthropics_clients_that_ask_for_no_page_get_all_models_as_many_read_one_page_only() -> None:
    many = "".join(f'[[models]]\nname = "m{number}"\nvendor = "mock"\n' for number in range(45))
    async with anthropics(f"[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_mock]\n{many}") as client:
        page = await client.models.list()
        assert (len(page.data), page.has_more) == (45, False)
        page = await client.models.list(limit=20)
        assert (len(page.data), page.has_more) == (20, True)
        assert [one.id async for one in page] == [f"m{number}" for number in range(45)]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"limit": 0}, "limit: expected int >= 1"),
        ({"limit": 1001}, "limit: expected int <= 1000"),
        ({"limit": "many"}, "limit: "),
        ({"after_id": "off"}, "after_id: there is no model 'off' in the list"),
        ({"before_id": "nobody"}, "before_id: there is no model 'nobody' in the list"),
        (
            {"lifecycle": ["active", "gone"]},
            "lifecycle[1]: invalid value 'gone'; there are: active, deprecated, retired",
        ),
        ({"before_id": "mock", "after_id": "mock"}, "before_id: cannot be given together with after_id"),
    ],
)
async def test_a_page_that_there_cannot_be_is_refused_in_anthropics_shape(asked: Any, says: str) -> None:
    async with anthropics(SETTINGS) as client:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await client.models.list(**asked)
    body: Any = caught.value.body
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith(says)


async def test_anthropics_clients_are_told_their_request_in_whatever_they_get() -> None:
    async with anthropics(KEYED, key="wrong") as client:
        for asking in (client.models.list(), client.models.retrieve("mock")):
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await asking
            told_as_an_error(refused.value, "authentication_error")
    async with anthropics(SETTINGS) as client:
        for answer in (await client.models.list(), await client.models.retrieve("mock")):
            assert answer._request_id is not None
            assert answer._request_id.startswith("req_")
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.models.retrieve("off")
        told_as_an_error(missing.value, "not_found_error")
        with pytest.raises(anthropic.APIStatusError) as wrong:
            await client.put("/v1/models", cast_to=object, body={})
        told_as_an_error(wrong.value, "invalid_request_error")


def told_as_an_error(error: anthropic.APIStatusError, kind: str) -> None:
    body: Any = error.body
    assert set(body) == {"type", "error", "request_id"}
    assert set(body["error"]) == {"type", "message"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert error.request_id == body["request_id"] == error.response.headers["X-Request-ID"]


async def test_anthropics_clients_get_an_empty_list_where_there_is_nothing() -> None:
    async with serving("[plugins.openai_api]\n[plugins.route_models]\n") as gateway:
        status, answer = await got(f"{gateway.url}/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert (status, answer) == (200, {"data": [], "has_more": False, "first_id": None, "last_id": None})
