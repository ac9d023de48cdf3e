"""Chats of other dialects, for servers that know OpenAI's fields and no others."""

import base64
from typing import Any

import pytest

from gatehook import InvalidRequest, Retry, plain_chat

MARK = {"type": "ephemeral"}
HI = {"role": "user", "content": "Hi"}
PICTURE = {"type": "image_url", "image_url": {"url": "https://pictures.test/a.png"}}


def plain(**payload: Any) -> tuple[dict[str, Any], list[str]]:
    lost: list[str] = []
    given = {"model": "m", "messages": [HI], **payload}
    made = plain_chat(given, lambda name: lost.append(name) if name not in lost else None)
    return {name: value for name, value in made.items() if name != "model"}, lost


def messages(*given: Any) -> list[Any]:
    made, _ = plain(messages=list(given))
    return list(made["messages"])


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def called(*ids: str) -> dict[str, Any]:
    calls = [{"id": one, "type": "function", "function": {"name": "look", "arguments": "{}"}} for one in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def tool(name: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": content, **more}


def test_what_openai_knows_stays_as_it_is_unknown_fields_too() -> None:
    given = {"messages": [HI, called("a"), tool("a", "A")], "top_k": 3, "foo": {"cache_control": 1}, "user": "ann"}
    assert plain(**given) == (given, [])


@pytest.mark.parametrize(
    ("given", "kept", "lost"),
    [
        ({"thinking": {"type": "enabled"}}, {}, ["thinking"]),
        ({"thinking": None}, {}, []),
        ({"output_config": {"effort": "low"}, "reasoning_effort": "low"}, {"reasoning_effort": "low"}, []),
        (
            {"output_config": {"effort": "max"}, "reasoning_effort": "high"},
            {"reasoning_effort": "high"},
            ["output_config"],
        ),
        ({"output_config": {"effort": "low"}}, {}, ["output_config"]),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}, []),
        ({"service_tier": "flex"}, {"service_tier": "flex"}, []),
        ({"user": "a" * 64}, {"user": "a" * 64}, []),
        ({"user": "a" * 65}, {}, ["user"]),
    ],
)
def test_parameters(given: dict[str, Any], kept: dict[str, Any], lost: list[str]) -> None:
    assert plain(**given) == ({"messages": [HI], **kept}, lost)


def test_marks_and_proofs_are_left_out_and_told() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    signed = {"role": "assistant", "content": "A", "thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]}
    marked = {"role": "user", "content": [text("A", cache_control=MARK)]}
    made, lost = plain(messages=[marked, signed], tools=[tools[0] | {"cache_control": MARK}])
    bare = [{"role": "user", "content": [text("A")]}, {"role": "assistant", "content": "A"}]
    assert made == {"messages": bare, "tools": tools}
    assert lost == ["cache_control", "thinking_blocks"]


def test_what_tools_show_follows_when_all_have_answered() -> None:
    given = [called("a", "b"), tool("a", [text("see:"), PICTURE, text("there")]), tool("b", [PICTURE]), HI]
    assert messages(*given) == [
        called("a", "b"),
        tool("a", "see:\nthere"),
        tool("b", "(shown below)"),
        {"role": "user", "content": [PICTURE, PICTURE]},
        HI,
    ]
    assert messages(*given[:2])[-1] == {"role": "user", "content": [PICTURE]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no such thing", "The tool failed: no such thing"),
        ([text("a"), text("b")], "The tool failed: a\nb"),
        ("", "The tool failed: "),
        (None, "The tool failed: "),
    ],
)
def test_a_failed_tool_is_told_in_words(content: Any, told: str) -> None:
    assert messages(called("a"), tool("a", content, is_error=True))[1] == tool("a", told)
    assert messages(called("a"), tool("a", "fine", is_error=False))[1] == tool("a", "fine")


def test_an_answer_of_thoughts_alone_is_none() -> None:
    alone = {"role": "assistant", "content": "", "thinking_blocks": [{"type": "thinking", "signature": "x"}]}
    assert messages(HI, alone, HI) == [HI, HI]
    assert messages({"role": "assistant", "content": "", "reasoning_content": "Hm."}) != []


def test_a_document_of_text_is_told_as_text() -> None:
    data = "data:text/plain;base64," + base64.b64encode("Grüße".encode()).decode()
    files = [{"file_data": data}, {"file_data": data, "filename": "A letter"}]
    given = {"role": "user", "content": [{"type": "file", "file": file} for file in files]}
    assert messages(given)[0]["content"] == [text("Grüße"), text("A letter\n\nGrüße")]


def test_a_document_has_a_name_which_openai_demands() -> None:
    file = {"file_data": "data:application/pdf;base64,eA=="}
    made = messages(
        {"role": "user", "content": [{"type": "file", "file": file}, {"type": "file", "file": {"file_id": "f"}}]}
    )
    assert [part["file"] for part in made[0]["content"]] == [{"filename": "document", **file}, {"file_id": "f"}]


def test_a_tool_that_claude_was_taught_is_refused_another_deployment_may_have_it() -> None:
    with pytest.raises(InvalidRequest, match=r"tools\[0\]\.type: 'bash_20250124' is a tool of Anthropic's") as caught:
        plain(tools=[{"type": "bash_20250124", "name": "bash"}])
    assert caught.value.retry is Retry.NEXT
    others = [{"type": "bash_20250124"}, {"type": "web_search", "name": "bash"}, {"name": "bash"}]
    assert plain(tools=others)[0]["tools"] == others


def test_a_document_by_url_is_refused_another_deployment_may_take_it() -> None:
    part = {"type": "file", "file": {"file_url": "https://papers.test/a.pdf"}}
    with pytest.raises(
        InvalidRequest, match=r"messages\[0\]\.content\[0\]\.file\.file_url: documents by URL"
    ) as caught:
        messages({"role": "user", "content": [part]})
    assert caught.value.retry is Retry.NEXT
