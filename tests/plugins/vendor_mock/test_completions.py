"""Text completions: one answer a prompt, in their own shape."""

from typing import Any

import pytest

from gatehook import InvalidRequest, Usage
from gatehook.testing import attempt
from gatehook_plugins.vendor_mock.vendor import MockVendor

CALL_F = {"name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [("Hi", ["Hi"]), (["a", "b"], ["a", "b"]), ([1, 2, 3], [""]), ([[1, 2], [3]], ["", ""])],
)
async def test_text_completions_answer_each_prompt(prompt: Any, texts: list[str]) -> None:
    one = attempt({"model": "m", "prompt": prompt}, operation="completions", options={"mode": "echo", "text": "> "})
    body = (await MockVendor().complete(one)).data
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"]) == ("text_completion", "m")
    assert body["choices"] == [
        {"index": index, "text": f"> {said}", "logprobs": None, "finish_reason": "stop"}
        for index, said in enumerate(texts)
    ]
    tokens = {"Hi": 1}.get(str(prompt), 0) or (2 if prompt == ["a", "b"] else 3)
    assert body["usage"]["prompt_tokens"] == tokens


async def test_text_completions_stream_in_their_own_shape() -> None:
    payload = {"model": "m", "prompt": ["p", "q"], "n": 2, "echo": True, "stream": True}
    options = {"text": "a b c", "reasoning": "hidden", "tool_calls": [CALL_F]}
    one = attempt({**payload, "max_tokens": 2, "stop": "z"}, operation="completions", options=options)
    stream = [chunk async for batch in MockVendor().stream(one) for chunk in batch]
    assert {chunk.data["object"] for chunk in stream} == {"text_completion"}
    assert all("delta" not in choice for chunk in stream for choice in chunk.data["choices"])
    texts = {
        index: "".join(c["text"] for chunk in stream for c in chunk.data["choices"] if c["index"] == index)
        for index in range(4)
    }
    assert texts == {0: "pa b", 1: "pa b", 2: "qa b", 3: "qa b"}
    ends = [(c["index"], c["finish_reason"]) for chunk in stream for c in chunk.data["choices"] if c["finish_reason"]]
    assert sorted(ends) == [(index, "length") for index in range(4)]
    assert stream[-1].usage == Usage(prompt_tokens=2, completion_tokens=8)
    whole = (await MockVendor().complete(one)).data
    assert {choice["index"]: choice["text"] for choice in whole["choices"]} == texts


@pytest.mark.parametrize("prompt", [None, [], 5, [True], ["a", 1], [[]], {}])
async def test_a_prompt_that_is_none_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await MockVendor().complete(attempt({"prompt": prompt}, operation="completions"))
    assert caught.value.param == "prompt"
