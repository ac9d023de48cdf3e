"""What an engine answers, compared with what the library's own object does."""

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ASKED = ["Hello", "What is the capital of France?", "Tell me a story", "give me json", "count to five", "Who are you?"]
USAGE = {"stream_options": {"include_usage": True}}


def content(events: list[Any], at: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == at]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def test_greedy_texts_are_the_librarys_own_alone_and_together(engine: Any, plain: Any) -> None:
    wanted = []
    for said in ASKED:
        plain.reset()
        messages = [{"role": "user", "content": said}]
        wanted.append(plain.create_chat_completion(messages, temperature=0)["choices"][0]["message"]["content"])
    alone = [await engine.chat(said) for said in ASKED]
    together = await asyncio.gather(*(engine.chat(said) for said in ASKED * 2))
    for answers in (alone, together[: len(ASKED)], together[len(ASKED) :]):
        assert [answer["choices"][0]["message"]["content"] for answer in answers] == wanted
    assert "Paris" in wanted[1]


@pytest.mark.parametrize("prompt", ["Hello", ["Hello", "The capital"], [72, 105], [[72, 105], [72]]])
async def test_echo_begins_each_text_with_its_prompt(engine: Any, prompt: Any) -> None:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 4, "n": 2}
    plain, whole = [(await engine.post("completions", body | more))[1] for more in ({}, {"echo": True})]
    events = await engine.stream("completions", body | {"echo": True})
    is_text = "Hello" in prompt
    prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    for choice, echoed in zip(plain["choices"], whole["choices"], strict=True):
        before = echoed["text"].removesuffix(choice["text"])
        assert before == prompts[choice["index"] // 2] if is_text else before
        told = [each["text"] for event in events for each in event["choices"] if each["index"] == choice["index"]]
        assert "".join(told) == echoed["text"] == before + choice["text"]
    assert whole["usage"] == plain["usage"] | {"prompt_tokens_details": whole["usage"]["prompt_tokens_details"]}


async def test_a_stream_says_what_a_whole_answer_says(engine: Any) -> None:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0, "n": 2}
    whole = await engine.chat("What is the capital of France?")
    events = await engine.stream("chat/completions", {**body, **USAGE})
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = whole["choices"][0]["message"]["content"]
    assert [content(events), content(events, 1)] == [text, text]
    assert [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]] == ["stop", "stop"]
    usage = events[-1]["usage"]
    assert events[-1]["choices"] == []
    assert usage["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert usage["completion_tokens"] == 2 * whole["usage"]["completion_tokens"]


async def test_seeds_are_reproducible_and_choices_differ(engine: Any) -> None:
    wild = {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 30}
    first, second = [await engine.chat("Tell me a story", seed=7, n=3, **wild) for _ in range(2)]
    texts = [[choice["message"]["content"] for choice in answer["choices"]] for answer in (first, second)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
    unseeded = [(await engine.chat("Tell me a story", **wild))["choices"][0]["message"]["content"] for _ in range(2)]
    assert unseeded[0] != unseeded[1]


async def test_sampling_does_what_it_is_told(engine: Any) -> None:
    said = "What is the capital of France?"
    _, answer = await engine.post("completions", {"prompt": "a", "temperature": 0, "max_tokens": 1, "logprobs": 5})
    chances = answer["choices"][0]["logprobs"]
    assert len(chances["top_logprobs"][0]) == 5
    assert sum(2.718281828**chance for chance in chances["top_logprobs"][0].values()) <= 1.0001
    first = (await engine.chat(said, max_tokens=1, logprobs=True))["choices"][0]
    assert first["logprobs"]["content"][0]["bytes"] == list(first["message"]["content"].encode())
    assert first["finish_reason"] == "length"
    token = 7 + 256 + 1 + ord("T") - 33  # after specials, bytes and the space
    banned = await engine.chat(said, max_tokens=1, logit_bias={str(token): -100})
    assert first["message"]["content"] == "T" != banned["choices"][0]["message"]["content"]
    penalised = await engine.chat("Tell me a story", frequency_penalty=2.0, presence_penalty=2.0, repeat_penalty=2.0)
    assert penalised["choices"][0]["message"] != (await engine.chat("Tell me a story"))["choices"][0]["message"]
    narrow = {"temperature": 2.0, "seed": 1}
    whole = (await engine.chat(said))["choices"][0]["message"]["content"]
    for limit in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
        assert (await engine.chat(said, **narrow, **limit))["choices"][0]["message"]["content"] == whole


async def test_stops_end_an_answer_and_are_no_part_of_it(engine: Any) -> None:
    answer = await engine.chat("What is the capital of France?", stop=["xyz", "is Par"], logprobs=True)
    choice = answer["choices"][0]
    assert choice["message"]["content"] == "The capital of France "
    assert choice["finish_reason"] == "stop"
    assert "".join(each["token"] for each in choice["logprobs"]["content"]) == "The capital of France "


async def test_completions_take_texts_and_tokens_and_several_of_them(engine: Any) -> None:
    body = {"temperature": 0, "max_tokens": 5}
    texts = await engine.post("completions", {**body, "prompt": ["Hello", "The capital"], "n": 2})
    assert [choice["index"] for choice in texts[1]["choices"]] == [0, 1, 2, 3]
    assert texts[1]["choices"][0]["text"] == texts[1]["choices"][1]["text"]
    tokens = [1, *(7 + 256 + 1 + ord(char) - 33 for char in "Hello")]
    for prompt in (tokens, [tokens]):
        status, answer = await engine.post("completions", {**body, "prompt": prompt})
        assert (status, answer["choices"][0]["text"]) == (200, texts[1]["choices"][0]["text"])
    events = await engine.stream("completions", {**body, "prompt": "Hello", **USAGE})
    streamed = "".join(choice["text"] for event in events for choice in event["choices"])
    assert streamed == texts[1]["choices"][0]["text"]
    assert events[-1]["usage"]["total_tokens"] == 6 + events[-1]["usage"]["completion_tokens"]


async def test_a_schema_forces_the_answer(engine: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "n": {"type": "integer"}},
        "required": ["city", "n"],
        "additionalProperties": False,
    }
    wish = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    for seed in range(3):
        answer = await engine.chat("Hello", response_format=wish, seed=seed, temperature=1.5, max_tokens=200)
        told = json.loads(answer["choices"][0]["message"]["content"])
        assert told["city"] in ("Rome", "Oslo")
        assert isinstance(told["n"], int)
    answer = await engine.chat("give me json", response_format={"type": "json_object"}, max_tokens=200)
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), dict)


WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TIME = {"name": "time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]
TEMPLATES = {
    "in words": None,
    "hermes": "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools | tojson }}<tool_call>",
    "mistral": "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools | tojson }}[TOOL_CALLS]",
    "llama": "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools | tojson }}<|python_tag|>",
    "tags": "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools | tojson }}<function=",
}


@pytest.mark.parametrize("family", TEMPLATES)
async def test_a_function_that_must_be_called_is_called(
    begin_engine: Callable[..., Any], trained: Path, family: str
) -> None:
    asked = {"tools": TOOLS, "max_tokens": 200}
    async with begin_engine(trained, chat_template=TEMPLATES[family]) as engine:
        named = await engine.chat("x", **asked, tool_choice={"type": "function", "function": {"name": "weather"}})
        choice = named["choices"][0]
        call = choice["message"]["tool_calls"][0]
        assert (choice["finish_reason"], choice["message"]["content"], call["type"]) == ("tool_calls", None, "function")
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Rome")
        body = {"messages": [{"role": "user", "content": "x"}], **asked, "tool_choice": "required"}
        events = await engine.stream("chat/completions", body)
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert [call["index"] for call in calls] == list(range(len(calls)))
        assert calls[0]["function"]["name"] in ("weather", "time")
        assert content(events) == ""
        assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_results_of_calls_go_to_the_model_and_none_means_none(engine: Any) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "time?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    body = {"messages": messages, "tools": TOOLS, "max_tokens": 5}
    status, told = await engine.post("chat/completions", body)
    assert status == 200
    status, without = await engine.post("chat/completions", {**body, "tool_choice": "none"})
    assert status == 200
    assert without["usage"]["prompt_tokens"] < told["usage"]["prompt_tokens"]


async def test_reasoning_is_told_apart(begin_engine: Callable[..., Any], trained: Path) -> None:
    async with begin_engine(trained, reasoning=["The", "of"]) as engine:
        message = (await engine.chat("What is the capital of France?"))["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == (" capital ", "France is Paris.")


async def test_embeddings_are_normalised_and_the_same_in_any_company(
    begin_engine: Callable[..., Any], random_model: Path
) -> None:
    texts = ["Hello", "a longer text than that", "third"] * 4
    async with begin_engine(random_model, embedding=True, pooling="mean", context=64) as engine:
        status, answer = await engine.post("embeddings", {"input": texts})
        assert (status, len(answer["data"]), answer["data"][1]["index"]) == (200, 12, 1)
        vectors = [each["embedding"] for each in answer["data"]]
        assert all(abs(sum(x * x for x in vector) - 1) < 1e-4 and len(vector) == 64 for vector in vectors)
        _, alone = await engine.post("embeddings", {"input": "Hello", "encoding_format": "base64", "dimensions": 64})
        raw = base64.b64decode(alone["data"][0]["embedding"])
        assert struct.unpack("<64f", raw) == pytest.approx(vectors[0], abs=2e-3)
        assert alone["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
        assert await engine.refused("embeddings", {"input": "a" * 100}) == (
            "input",
            (
                "input: the prompt has 101 tokens; this model's context is 64 tokens, "
                "for the prompt and at least one token of the answer. Shorten it"
            ),
        )
        assert (await engine.refused("embeddings", {"input": "a", "dimensions": 8}))[0] == "dimensions"
        assert (await engine.refused("chat/completions", {"messages": []}))[1].startswith("this model makes embeddings")
