"""Vectors of servers that give numbers whatever `encoding_format` says."""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from gatehook import UpstreamError, Usage

Ask = Callable[..., Any]

NUMBERS = [[0.5, -1e-7, 3], [1.0, 2.5, 1e30]]
ASKED = {"model": "public", "input": ["x", "y"], "encoding_format": "base64"}


def answer(*vectors: Any) -> dict[str, Any]:
    """What a server gives for as many texts."""
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return {"object": "list", "model": "upstream-model", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}


def packed(vector: list[float]) -> str:
    """As OpenAI writes it: 32-bit numbers, the lowest byte first."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def test_numbers_become_the_base64_that_was_asked_for(ask: Ask) -> None:
    """OpenAI's client for JavaScript always asks for base64, and takes whatever comes for it."""
    run = await ask(ASKED, answer(*NUMBERS), operation="embeddings")
    assert json.loads(run.sent.body)["encoding_format"] == "base64"
    assert run.data == answer(*map(packed, NUMBERS)) | {"model": "public"}
    assert run.completion.usage.prompt_tokens == 2


@pytest.mark.parametrize(
    ("given", "vectors"),
    [("base64", [packed(one) for one in NUMBERS]), ("float", NUMBERS), (None, NUMBERS)],
)
async def test_what_comes_as_asked_stays_to_the_byte(ask: Ask, given: str | None, vectors: Any) -> None:
    run = await ask({**ASKED, "encoding_format": given}, answer(*vectors), operation="embeddings")
    assert json.loads(run.completion.raw) == answer(*vectors) | {"model": "public"}
    assert b'"usage":{"prompt_tokens":2,' in run.completion.raw


async def test_a_total_that_has_more_than_the_texts_is_no_answer_of_their_model(ask: Ask) -> None:
    told = {**answer(*NUMBERS), "usage": {"prompt_tokens": 2, "total_tokens": 9}}
    assert (await ask(ASKED, told, operation="embeddings")).completion.usage == Usage(2)


@pytest.mark.parametrize("vector", [["a"], [None], [1e39], [[1.0]], [10**400]])
async def test_what_are_no_numbers_is_an_upstream_failure(ask: Ask, vector: Any) -> None:
    run = await ask(ASKED, answer(vector), operation="embeddings")
    assert type(run.error) is UpstreamError
    assert run.error.code == "upstream_malformed"
