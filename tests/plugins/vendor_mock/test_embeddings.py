import base64
import math
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from gatehook import Completion, InvalidRequest, Usage
from gatehook.testing import attempt
from gatehook_plugins.vendor_mock.vendor import MockVendor


async def embed(options: Mapping[str, Any] | None = None, **payload: Any) -> Completion:
    body = {"model": "vectors", **payload}
    return await MockVendor().complete(attempt(body, operation="embeddings", options=options or {}))


async def vectors(options: Mapping[str, Any] | None = None, **payload: Any) -> list[list[float]]:
    return [one["embedding"] for one in (await embed(options, **payload)).data["data"]]


async def test_the_answer_has_the_shape_of_openai() -> None:
    answer = await embed(input=["one two", "three"], dimensions=2)
    body = answer.data
    assert (body["object"], body["model"]) == ("list", "vectors")
    assert [(one["object"], one["index"]) for one in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert answer.usage == Usage(prompt_tokens=3)


@pytest.mark.parametrize("dimensions", [1, 2, 8, 1536, 16384])
async def test_vectors_have_the_length_asked_for_and_lie_on_the_unit_sphere(dimensions: int) -> None:
    (vector,) = await vectors(input="text", dimensions=dimensions)
    assert len(vector) == dimensions
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-5)


async def test_the_same_text_has_the_same_vector_wherever_it_stands() -> None:
    (alone,) = await vectors(input="b", dimensions=8)
    assert (await vectors(input=["a", "b", "c"], dimensions=8))[1] == alone


async def test_different_inputs_have_different_vectors() -> None:
    found = await vectors(input=["a", "b", "A", "", "1,2"], dimensions=8)
    found += await vectors(input=[[1, 2], [12]], dimensions=8)
    assert len({tuple(one) for one in found}) == 7


async def test_the_vector_of_a_text_never_changes() -> None:
    (vector,) = await vectors(input="Gatehook", dimensions=3)
    assert vector == pytest.approx([-0.315412, -0.769648, 0.555119], abs=1e-6)


async def test_base64_holds_the_same_floats_little_endian() -> None:
    (floats,) = await vectors(input="a", dimensions=5, encoding_format="float")
    (text,) = (
        one["embedding"] for one in (await embed(input="a", dimensions=5, encoding_format="base64")).data["data"]
    )
    assert list(struct.unpack("<5f", base64.b64decode(text))) == floats


async def test_the_dimensions_of_the_deployment_apply_if_none_are_asked_for() -> None:
    assert len((await vectors(input="a"))[0]) == 1536
    assert len((await vectors({"dimensions": 4}, input="a"))[0]) == 4
    assert len((await vectors({"dimensions": 4}, input="a", dimensions=2))[0]) == 2


@pytest.mark.parametrize(
    ("given", "count", "tokens"),
    [("one two", 1, 2), (["one two", "three"], 2, 3), ([5, 6, 7], 1, 3), ([[5], [6, 7]], 2, 3)],
)
async def test_texts_and_tokens_are_taken(given: Any, count: int, tokens: int) -> None:
    answer = await embed(input=given, dimensions=2)
    assert len(answer.data["data"]) == count
    assert answer.data["usage"]["prompt_tokens"] == tokens


async def test_usage_can_be_overridden_or_withheld() -> None:
    assert (await embed({"usage": {"prompt_tokens": 9}}, input="a", dimensions=2)).usage == Usage(prompt_tokens=9)
    silent = await embed({"report_usage": False}, input="a", dimensions=2)
    assert (silent.usage, silent.data["usage"]) == (None, None)


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [None]}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 10**9}, "dimensions"),
        ({"input": "a", "dimensions": "3"}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_cannot_be_understood_is_refused_by_name(payload: Mapping[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await embed(**payload)
    assert caught.value.param == param
