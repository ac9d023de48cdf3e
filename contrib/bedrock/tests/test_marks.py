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


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a"}}
FILM = {"type": "file", "file": {"file_data": "data:video/mp4;base64,AAAA", "filename": "a"}}


@pytest.mark.parametrize("part", [PICTURE, FILE, FILM])
@pytest.mark.parametrize("model", ["us.anthropic.claude-sonnet-4-5", "us.amazon.nova-pro-v1:0"])
async def test_nova_takes_them_behind_words_only(asked: Any, model: str, part: Any) -> None:
    content = [text("A"), part | MARK, text("B")]
    (request,), _, one = await asked({"messages": [{"role": "user", "content": content}]}, ANSWER, model=model)
    blocks = request.json["messages"][0]["content"]
    is_nova = "nova" in model
    assert [block == POINT for block in blocks] == [False, True, False, *([] if is_nova else [True]), False, True]
    assert one.dropped == (["cache_control"] if is_nova else [])


@pytest.mark.parametrize(("kind", "taken"), [("application/pdf", True), ("text/csv", False), ("text/plain", False)])
async def test_claude_takes_none_behind_a_document_that_is_no_pdf(asked: Any, kind: str, taken: bool) -> None:
    part = {"type": "file", "file": {"file_data": f"data:{kind};base64,AAAA", "filename": "a"}} | MARK
    messages = [{"role": "user", "content": [text("A"), part]}]
    (request,), _, one = await asked({"messages": messages}, ANSWER, model="us.anthropic.claude-sonnet-4-5")
    blocks = request.json["messages"][0]["content"]
    assert [block == POINT for block in blocks] == [False, True, False, *([True] if taken else [])]
    assert one.dropped == ([] if taken else ["cache_control"])


async def test_nova_takes_none_behind_a_tool_s_result(asked: Any) -> None:
    messages = [
        {"role": "user", "content": [text("U")]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [text("2")]},
    ]
    (request,), _, one = await asked({"messages": messages}, ANSWER, model="us.amazon.nova-2-lite-v1:0")
    first, _, last = request.json["messages"]
    assert first["content"] == [{"text": "U"}, POINT]
    assert [list(block) for block in last["content"]] == [["toolResult"]]
    assert one.dropped == ["cache_control"]


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("us.anthropic.claude-opus-5", True),
        ("my-profile", True),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", False),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", False),
        ("us.amazon.nova-pro-v1:0", False),
    ],
)
async def test_a_time_is_told_to_models_that_keep_something_for_an_hour(asked: Any, model: str, kept: bool) -> None:
    for time, sent, dropped in (
        ("1h", {"ttl": "1h"} if kept else {}, [] if kept else ["cache_control.ttl"]),
        ("5m", {}, []),
    ):
        part = {"type": "text", "text": "U", "cache_control": {"type": "ephemeral", "ttl": time}}
        (request,), _, one = await asked({"messages": [{"role": "user", "content": [part]}]}, ANSWER, model=model)
        _, point = request.json["messages"][0]["content"]
        assert point == {"cachePoint": {"type": "default"} | sent}
        assert one.dropped == dropped
