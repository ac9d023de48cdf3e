"""Nothing is kept: whoever asks for an earlier response is told so."""

from typing import Any

import openai
import pytest

OpenApi = Any
Mock = Any


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/resp_1"), ("DELETE", "/resp_1"), ("POST", "/resp_1/cancel"), ("GET", "/resp_1/input_items")],
)
async def test_an_earlier_response_is_a_404_that_says_why(api: OpenApi, mock: Mock, method: str, path: str) -> None:
    async with api(mock("")) as it:
        error = (await it.request(method, path)).error(404)
    assert error["code"] == "response_not_found"
    assert f"{method} /v1/responses{path}" in error["message"]
    assert "keeps no responses" in error["message"]


async def test_the_sdk_raises_its_own_error(api: OpenApi, mock: Mock) -> None:
    async with api(mock("")) as it:
        answer = await it.sdk.responses.create(model="m", input="Hi")
        calls: Any = (it.sdk.responses.retrieve, it.sdk.responses.delete, it.sdk.responses.cancel)
        for call in calls:
            with pytest.raises(openai.NotFoundError, match="keeps no responses"):
                await call(answer.id)


async def test_other_methods_are_told_which_there_is(api: OpenApi, mock: Mock) -> None:
    async with api(mock("")) as it:
        assert (await it.request("HEAD", "/resp_1")).status == 404
        answer = await it.request("GET", "")
    assert (answer.error(405)["code"], answer.headers["Allow"]) == ("method_not_allowed", "POST")
