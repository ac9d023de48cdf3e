"""Whole answers of servers that leave out what every answer of OpenAI's begins with, or leave it empty."""

from collections.abc import Callable
from typing import Any

import pytest

from gatehook import Call, Document, Operation, Usage, encode
from gatehook.calls.record import Record

Ask = Callable[..., Any]

CHOICE = {"message": {"role": "assistant", "content": "Hi", "annotations": []}, "finish_reason": "stop"}


def booked(run: Any) -> Usage:
    """The usage that the gateway books for a chat."""
    record = Record(Call("chat", "openai", {}, body=Document(raw=run.sent.body)))
    record.spent(run.completion)
    usage = record.outcome().usage
    assert usage is not None
    return usage


@pytest.mark.parametrize("head", [{}, {"id": "", "object": ""}, {"id": None, "object": None, "created": None}])
async def test_an_answer_without_a_head_gets_one(ask: Ask, head: dict[str, Any]) -> None:
    """As the events of a stream do; what nobody can know is null."""
    run = await ask(answer={**head, "choices": [CHOICE, CHOICE], "x_extra": 1})
    told = run.data
    assert told.pop("id").startswith("chatcmpl-")
    assert told.pop("created") > 1_700_000_000
    assert told == {
        "object": "chat.completion",
        "model": "public",
        "choices": [{"index": 0, **CHOICE}, {"index": 1, **CHOICE}],
        "usage": None,
        "system_fingerprint": None,
        "x_extra": 1,
    }


async def test_the_head_adds_nothing_to_what_is_charged(ask: Ask) -> None:
    """Where no usage is told, an answer is counted by what the model has written."""
    given = encode({"model": "public", "choices": [CHOICE]})
    run = await ask(answer=given, model="public")
    assert len(run.completion.raw) > len(given) + 100
    assert booked(run) == Usage(-(-len(run.sent.body) // 4), 1, estimated=True)


async def test_a_picture_is_not_charged_by_its_bytes(ask: Ask) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}}
    asked = {"model": "public", "messages": [{"role": "user", "content": [picture]}]}
    run = await ask(asked, {"model": "public", "choices": [CHOICE]}, model="public")
    assert 1_000 < booked(run).prompt_tokens < 1_100


@pytest.mark.parametrize(
    ("operation", "asked", "choice", "prefix", "kind"),
    [
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, CHOICE, "chatcmpl-", "chat.completion"),
        ("completions", {"prompt": "x"}, {"text": "Hi", "finish_reason": "stop"}, "cmpl-", "text_completion"),
    ],
)
async def test_what_a_server_does_tell_of_it_stays(
    ask: Ask, operation: Operation, asked: Any, choice: Any, prefix: str, kind: str
) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    given = {"created": 5, "model": "upstream-model", "system_fingerprint": "fp", "usage": usage}
    run = await ask({"model": "public", **asked}, {**given, "choices": [choice]}, operation=operation)
    assert run.data.pop("id").startswith(prefix)
    assert run.data | {"id": ""} == {
        **given, "id": "", "object": kind, "model": "public", "choices": [{"index": 0, **choice}]
    }  # fmt: skip
    assert run.completion.usage.total_tokens == 3
