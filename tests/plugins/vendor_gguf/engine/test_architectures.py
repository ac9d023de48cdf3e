"""Models that are unlike the usual ones: those that only encode, and those that cannot forget a part of a text."""

import asyncio
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = Callable[[str], Path]
TELLS_LAYERS = """
import llama_cpp, sys
load = llama_cpp.llama_model_load_from_file
def telling(path, params):
    print("layers", params.n_gpu_layers, file=sys.stderr, flush=True)
    return load(path, params)
llama_cpp.llama_model_load_from_file = telling
"""
TEXTS = ["abc", "a text of several words", "abc"]


async def test_a_model_that_only_encodes_makes_the_library_s_own_embeddings(
    begin_engine: Callable[..., Any], made_model: Make, llama_cpp: Any
) -> None:
    path = made_model("bert")
    plain = llama_cpp.Llama(str(path), n_ctx=64, embedding=True, n_threads=1, verbose=False)
    async with begin_engine(path, embedding=True, context=64, slots=2) as engine:
        status, answer = await engine.post("embeddings", {"input": TEXTS})
        assert status == 200, answer
        for text, told in zip(TEXTS, answer["data"], strict=True):
            wanted = plain.create_embedding(text)["data"][0]["embedding"]
            length = math.sqrt(sum(each * each for each in wanted))
            assert told["embedding"] == pytest.approx([each / length for each in wanted], abs=1e-4)
        # Between blanks there are no tokens: how long a text is says nothing here about how many it has.
        blanks = {"input": "a" + " " * 100_000 + "b"}
        assert (await engine.post("embeddings", blanks))[1]["usage"]["prompt_tokens"] == 4
        param, message = await engine.refused("completions", {"prompt": "a"})
        assert (param, "makes embeddings" in message) == ("model", True)
    plain.close()


async def test_a_recurrent_model_writes_what_the_library_does_whatever_was_asked_before(
    begin_engine: Callable[..., Any], made_model: Make, llama_cpp: Any
) -> None:
    path = made_model("mamba")
    plain = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)

    def wanted(prompt: str) -> list[str]:
        plain.reset()
        tokens = plain.generate(plain.tokenize(prompt.encode(), special=True), temp=0.0)
        pieces = (plain.detokenize([token], special=True) for token in tokens)
        return [piece.decode("utf-8", "replace") for piece in itertools.islice(pieces, 12)]

    async with begin_engine(path, context=256, slots=2) as engine:

        async def said(prompt: str) -> list[str]:
            body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "logprobs": 0, "logit_bias": {"2": -100}}
            status, answer = await engine.post("completions", body)
            assert status == 200, answer
            tokens: list[str] = answer["choices"][0]["logprobs"]["tokens"]
            return tokens

        start = "a beginning that several prompts have in common, and long enough to be worth it: "
        # Asked again, a part of what is remembered would have to be forgotten: here that is all or nothing.
        for prompt in (start, start, start + "b", start[:40], start):
            assert await said(prompt) == wanted(prompt)
        together = await asyncio.gather(*(said(start + end) for end in "abcd"))
        assert together == [wanted(start + end) for end in "abcd"]
    plain.close()


@pytest.mark.parametrize("layers", [0, 7, -1])
async def test_the_library_is_asked_for_as_many_layers_on_a_gpu_as_the_options_say(
    begin_engine: Callable[..., Any], random_model: Path, layers: int
) -> None:
    async with begin_engine(random_model, patch=TELLS_LAYERS, gpu_layers=layers, context=64) as engine:
        told = await engine.process.stderr.readline()
        assert told == f"layers {layers}\n".encode()
        assert (await engine.post("completions", {"prompt": "a", "max_tokens": 2}))[0] == 200
