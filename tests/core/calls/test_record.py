"""What is told of a call: only what one answer can have taken."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Call, Completion, Document, Target, Usage, estimate
from gatehook.accounts import Cost, Pricing
from gatehook.calls.record import Record

PRICING = Pricing(1_000_000, 2_000_000, image=10**9)
FIGURES = st.integers() | st.integers(0, 1000)


@dataclass
class Told:
    """A stream whose vendor tells this."""

    usage: Usage | None
    contents: int = 0
    finished: bool = True


def of(
    usage: Usage, pricing: Pricing = PRICING, *, contents: int = 0, finished: bool = True
) -> tuple[Usage | None, Cost | None]:
    call = Call("chat", "openai", {}, model="m")
    call.target = Target("m#1", "m", "openai", "m", pricing=pricing)
    record = Record(call)
    record.stream = Told(usage, contents, finished)
    outcome = record.outcome()
    return outcome.usage, outcome.cost


def test_what_can_be_is_told_as_the_vendor_said_it() -> None:
    usage = Usage(1000, 500, 100, 7, 50, images=2)
    assert of(usage) == (usage, usage.cost(PRICING))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Usage(10**40, -5, cached_tokens=-1), Usage(10**12)),
        (Usage(10, 20, cached_tokens=11, reasoning_tokens=21), Usage(10, 20, 10, 0, 20)),
        (Usage(10, 20, cache_write_tokens=-1, estimated=True), Usage(10, 20, estimated=True)),
        (
            Usage(10, 20, cache_write_tokens=5, cache_write_1h_tokens=6),
            Usage(10, 20, cache_write_tokens=5, cache_write_1h_tokens=5),
        ),
        (Usage(-1, 0, cached_tokens=-2), Usage()),
        (Usage(1, 1, images=-1), Usage(1, 1)),
    ],
)
def test_absurd_figures_of_a_vendor_reach_no_limit_and_no_statistic(said: Usage, told: Usage) -> None:
    assert of(said)[0] == told


@pytest.mark.parametrize(
    ("said", "contents", "finished", "told"),
    [
        (Usage(9000, 1, cached_tokens=8000), 70, False, Usage(9000, 70, 8000, estimated=True)),
        (Usage(9000, 400, reasoning_tokens=390), 70, False, Usage(9000, 400, reasoning_tokens=390)),
        (Usage(9000, 1), 70, True, Usage(9000, 1)),
    ],
)
def test_what_was_told_before_a_stream_broke_off_is_no_less_than_what_came(
    said: Usage, contents: int, finished: bool, told: Usage
) -> None:
    assert of(said, contents=contents, finished=finished)[0] == told


@pytest.mark.parametrize(("operation", "written"), [("chat", 25), ("embeddings", 0), ("images", 0)])
def test_an_answer_without_usage_is_estimated_by_its_length_if_it_was_written(operation: str, written: int) -> None:
    call = Call(operation, "openai", {}, model="m", body=Document(raw=b"x" * 40))
    record = Record(call)
    record.spent(Completion(raw=b"y" * 100))
    assert record.outcome().usage == Usage(10, written, estimated=True)


CALL = {"type": "function", "id": "x" * 90, "function": {"name": "look", "arguments": '{"at": "it"}'}}
PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "So."}, None, 7]


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        ({"message": {"content": "Hi"}, "logprobs": {"content": [{"token": "Hi", "bytes": [72, 105]}]}}, 1),
        ({"message": {"content": "日本語で"}}, 3),
        ({"message": {"content": "\ud83d..."}}, 2),
        ({"message": {"content": None, "refusal": "x" * 40}}, 10),
        ({"message": {"content": "x" * 40, "reasoning": "y" * 40, "reasoning_content": "y" * 40}}, 20),
        ({"message": {"content": "", "reasoning": "y" * 40}}, 10),
        ({"message": {"content": PARTS}}, 2),
        ({"message": {"content": None, "tool_calls": [CALL, CALL]}}, 8),
        ({"message": {"content": None, "function_call": CALL["function"]}}, 4),
        (
            {"message": {"tool_calls": [{"id": "x", "type": "custom", "custom": {"name": "run", "input": "x" * 37}}]}},
            10,
        ),
        ({"message": {"content": None, "audio": {"id": "x", "data": "A" * 4_000, "transcript": "x" * 40}}}, 10),
        ({"message": {"content": "Hi", "images": [{"image_url": {"url": "data:" + "A" * 1_000_000}}]}}, 1),
        ({"text": "x" * 40, "index": 0}, 10),
        ({"message": None}, 0),
    ],
)
def test_an_answer_without_usage_is_counted_by_what_the_model_has_written(choice: Any, written: int) -> None:
    record = Record(Call("chat", "openai", {}, model="m", body=Document(raw=b"x" * 40)))
    record.spent(Completion({"id": "chatcmpl-" + "1" * 100, "choices": [choice]}))
    assert record.outcome().usage == Usage(10, written, estimated=True)


@pytest.mark.parametrize(
    "raw", [b'["%s"]', b'{"choices":"%s"}', b'{"choices":null,"x":"%s"}', b'{"choices":[],"x":9%s}']
)
def test_what_is_no_answer_of_choices_is_counted_by_its_size(raw: bytes) -> None:
    raw %= b"9" * 5_000
    record = Record(Call("rerank", "openai", {}, model="m", body=Document(raw=b"x" * 40)))
    record.spent(Completion(raw=raw))
    assert record.outcome().usage == Usage(10, len(raw) // 4, estimated=True)


PICTURE = b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:%s"}}]}]%s}'


@pytest.mark.parametrize(
    ("body", "window", "prompt"),
    [
        (b"x" * 41, None, 11),
        (b"x" * 4_000, 100, 100),
        (PICTURE % (b"A" * 400_000, b""), None, 1_022),
        (PICTURE % (b"A" * 400, b',"seed":' + b"9" * 5_000), None, 1_374),  # which nobody can decode
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_prompt_that_no_vendor_has_counted_costs_what_it_was_expected_to(
    body: bytes, window: int | None, prompt: int, *, streamed: bool
) -> None:
    call = Call("chat", "openai", {}, model="m", body=Document(raw=body))
    call.target = Target("m#1", "m", "openai", "m", context_window=window)
    record = Record(call)
    if streamed:
        record.stream = Told(None, contents=2, finished=False)
    else:
        record.spent(Completion(raw=b"y" * 8))
    assert record.outcome().usage == Usage(prompt, 2, estimated=True)


def test_so_it_does_if_it_was_estimated_for_others_too() -> None:
    call = Call("chat", "openai", {}, model="m", choices=1, body=Document(raw=b"x" * 4_000))
    estimate(call, [Target("m#1", "m", "openai", "m", context_window=70)])
    record = Record(call)
    record.stream = Told(None)
    assert record.outcome().usage == Usage(70, 0, estimated=True)


@pytest.mark.parametrize(
    ("attempts", "served", "usage"),
    [
        (0, "", None),  # it waited for a limit
        (1, "", None),  # the attempt had failed, and it waited before another one
        (1, "m", Usage(10, 0, estimated=True)),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_who_leaves_while_a_vendor_is_at_work_pays_for_the_prompt(
    attempts: int, served: str, usage: Usage | None, before: int
) -> None:
    call = Call("chat", "openai", {}, model="m", attempts=before, body=Document(raw=b"x" * 40))
    call.target = Target("m#1", "m", "openai", "m", pricing=PRICING)
    record = Record(call)
    if before:  # an earlier round, whose model is still named
        call.served = "m"
        record.spent(Completion(raw=b"", usage=Usage(1, 1)))
        record.next_round()
    call.attempts += attempts
    call.served = served if attempts else call.served
    record.client_left()
    outcome, alone = record.outcome(), record.outcome_of_round()
    assert (alone.status, alone.http_status, alone.usage) == ("failed", 499, usage)
    assert alone.cost == (None if usage is None else usage.cost(PRICING))
    assert outcome.usage == (usage if not before else Usage(1, 1) if usage is None else Usage(1, 1) + usage)


def test_no_answer_costs_more_than_can_be_added_up() -> None:
    assert of(Usage(10**12, 10**12), Pricing(10**12, 10**12)) == (Usage(10**12, 10**12), Cost(10**15, 10**15))


@given(FIGURES, FIGURES, FIGURES, FIGURES, FIGURES, FIGURES)
def test_whatever_a_vendor_says_one_answer_could_have_taken_it(
    prompt: int, completion: int, cached: int, written: int, reasoning: int, images: int
) -> None:
    said = Usage(prompt, completion, cached, written, reasoning, images=images)
    told, cost = of(said)
    assert told is not None
    assert cost is not None
    assert told.is_credible()
    assert 0 <= cost.input <= 10**15
    assert 0 <= cost.output <= 10**15
    assert told == said or not said.is_credible()
