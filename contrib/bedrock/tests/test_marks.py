"""Marks up to which a model shall cache."""

from typing import Any

import pytest

MARK = {"cache_control": {"type": "ephemeral"}}
POINT = {"cachePoint": {"type": "default"}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}} | MARK
ANSWER = {"output": {"message": {"content": [{"text": "a"}]}}, "stopReason": "end_turn"}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words} | MARK


async def sent(asked: Any, model: str, *words: str) -> tuple[str, list[str]]:
    """T, S and U for tools, system and texts of the user, with a | after those marked; and what is told as dropped."""
    messages = [
        {"role": "system", "content": [text("S")]},
        {"role": "user", "content": [text(word) for word in words]},
    ]
    (request,), _, one = await asked({"messages": messages, "tools": [TOOL]}, ANSWER, model=model)
    body = request.json
    blocks = body["toolConfig"]["tools"] + body["system"] + body["messages"][0]["content"]
    letters = ("|" if block == POINT else "T" if "toolSpec" in block else block["text"] for block in blocks)
    return "".join(letters), one.dropped


@pytest.mark.parametrize(
    ("model", "few", "many"),
    [
        ("us.anthropic.claude-sonnet-4-5", "T|S|U|", "TSU|U|U|U|"),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/x", "T|S|U|", "TSU|U|U|U|"),
        ("us.amazon.nova-pro-v1:0", "TS|U|", "TSU|U|U|U|"),
        ("us.meta.llama3-3-70b-instruct-v1:0", "TSU", "TSUUUU"),
        ("openai.gpt-oss-120b-1:0", "TSU", "TSUUUU"),
    ],
)
async def test_a_model_gets_those_that_it_takes_and_the_last_four_at_most(
    asked: Any, model: str, few: str, many: str
) -> None:
    wire, dropped = await sent(asked, model, "U")
    assert (wire, set(dropped)) == (few, set() if few == "T|S|U|" else {"cache_control"})
    assert await sent(asked, model, *"UUUU") == (many, ["cache_control"])
