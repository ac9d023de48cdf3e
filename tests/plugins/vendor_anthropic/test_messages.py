import base64
from typing import Any

import pytest
from anthropic.types import ContentBlockParam, TextBlockParam
from pydantic import TypeAdapter

from gatehook import InvalidRequest, Retry

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 16).decode()
PDF = base64.b64encode(b"%PDF-1.7\n").decode()
MARK = {"type": "ephemeral"}


def call(id: str = "call_1", name: str = "look", arguments: str = "{}", **rest: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **rest}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": parts[0] if isinstance(parts[0], str) else list(parts)}


def text(words: str, **rest: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **rest}


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


async def test_system_and_developer_messages_anywhere_become_system_blocks_in_order_and_a_move_is_told(
    ask: Any,
) -> None:
    run = await ask(
        {
            "messages": [
                {"role": "system", "content": "one"},
                {"role": "developer", "content": [text("two", cache_control=MARK), text("three")]},
                user("hi"),
                {"role": "system", "content": "four"},
            ]
        }
    )
    assert run.body["system"] == [
        text("one"),
        text("two", cache_control=MARK),
        text("three"),
        text("four"),
    ]
    assert run.body["messages"] == [{"role": "user", "content": [text("hi")]}]
    assert run.dropped == ["messages[3].position"]


async def test_messages_of_one_side_become_one_turn(ask: Any) -> None:
    run = await ask({"messages": [user("a"), user("b"), {"role": "assistant", "content": "c"}, user("d")]})
    assert [(turn["role"], len(turn["content"])) for turn in run.body["messages"]] == [
        ("user", 2),
        ("assistant", 1),
        ("user", 1),
    ]


@pytest.mark.parametrize(
    "messages", [[{"role": "assistant", "content": "hi"}], [{"role": "system", "content": "x"}], [user("")]]
)
async def test_a_conversation_in_which_the_user_says_nothing_is_refused(ask: Any, messages: Any) -> None:
    with pytest.raises(InvalidRequest, match="needs a user message that is not empty") as caught:
        await ask({"messages": messages})
    assert (caught.value.param, caught.value.retry) == ("messages", Retry.NEXT)


async def test_a_conversation_may_begin_with_a_greeting(ask: Any) -> None:
    run = await ask({"messages": [{"role": "assistant", "content": "What can I do?"}, user("yo")]})
    assert run.body["messages"] == [
        {"role": "assistant", "content": [text("What can I do?")]},
        {"role": "user", "content": [text("yo")]},
    ]


async def test_parallel_results_stand_in_one_user_turn_before_the_words_that_follow(ask: Any) -> None:
    run = await ask(
        {
            "tools": TOOLS,
            "messages": [
                user("go"),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [call("a", arguments='{"x":9007199254740993}'), call("b")],
                },
                {"role": "tool", "tool_call_id": "b", "content": "B"},
                {"role": "tool", "tool_call_id": "a", "content": [text("A")]},
                user("thanks"),
            ],
        }
    )
    assert run.body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "a", "name": "look", "input": {"x": 9007199254740993}},
                {"type": "tool_use", "id": "b", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "b", "content": [text("B")]},
                {"type": "tool_result", "tool_use_id": "a", "content": [text("A")]},
                text("thanks"),
            ],
        },
    ]


@pytest.mark.parametrize("content", [None, "", []])
async def test_an_empty_assistant_content_beside_tool_calls_makes_no_text_block(ask: Any, content: Any) -> None:
    messages = [
        user("go"),
        {"role": "assistant", "content": content, "tool_calls": [call(arguments="")]},
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
    ]
    run = await ask({"tools": TOOLS, "messages": messages})
    assert [block["type"] for block in run.body["messages"][1]["content"]] == ["tool_use"]
    assert run.body["messages"][1]["content"][0]["input"] == {}
    assert run.body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "call_1"}]


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"', "3"])
async def test_arguments_in_history_that_are_no_object_are_refused_naming_the_call(ask: Any, arguments: str) -> None:
    messages = [
        user("go"),
        {"role": "assistant", "tool_calls": [call(arguments=arguments)]},
        {"role": "tool", "tool_call_id": "call_1", "content": "x"},
    ]
    with pytest.raises(InvalidRequest, match="call_1"):
        await ask({"messages": messages, "tools": TOOLS})


@pytest.mark.parametrize(
    ("messages", "names"),
    [
        ([user("go"), {"role": "assistant", "tool_calls": [call("c9")]}, user("so?")], "c9"),
        ([user("go"), {"role": "tool", "tool_call_id": "c7", "content": "x"}], "c7"),
    ],
    ids=["call without result", "result without call"],
)
async def test_orphans_are_refused_with_their_ids(ask: Any, messages: Any, names: str) -> None:
    with pytest.raises(InvalidRequest, match=names):
        await ask({"messages": messages, "tools": TOOLS})


async def test_tool_call_ids_are_brought_into_anthropics_alphabet_without_two_becoming_one(ask: Any) -> None:
    ids = ["call_1", "functions.look:0", "functions_look_0", "", "b64-w7w", "ü", "functions.look:1"]
    messages: list[Any] = [user("go"), {"role": "assistant", "tool_calls": [call(one) for one in ids]}]
    messages += [{"role": "tool", "tool_call_id": one, "content": f"of {one}"} for one in ids]
    run = await ask({"messages": messages, "tools": TOOLS})
    sent = [block["id"] for block in run.body["messages"][1]["content"]]
    results = [block["tool_use_id"] for block in run.body["messages"][2]["content"]]
    assert sent == results
    assert len(set(sent)) == len(ids)
    assert sent[0] == "call_1"
    assert all(
        one and set(one) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for one in sent
    )
    encoded = sent[1].removeprefix("b64-")
    assert base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode() == "functions.look:0"


async def test_ids_that_repeat_over_turns_are_made_unique(ask: Any) -> None:
    turn = [{"role": "assistant", "tool_calls": [call("x")]}, {"role": "tool", "tool_call_id": "x", "content": "r"}]
    run = await ask({"messages": [user("go"), *turn, *turn], "tools": TOOLS})
    uses = [b["id"] for m in run.body["messages"] for b in m["content"] if b["type"] == "tool_use"]
    results = [b["tool_use_id"] for m in run.body["messages"] for b in m["content"] if b["type"] == "tool_result"]
    assert uses == results
    assert len(set(uses)) == 2


async def test_the_last_assistant_turn_loses_trailing_white_space_and_nothing_else_does(ask: Any) -> None:
    messages = [
        user("a \n"),
        {"role": "assistant", "content": "b "},
        user("c"),
        {"role": "assistant", "content": "d \n\t"},
    ]
    run = await ask({"messages": messages})
    assert [turn["content"][0]["text"] for turn in run.body["messages"]] == ["a \n", "b ", "c", "d"]


async def test_a_last_user_turn_keeps_its_white_space(ask: Any) -> None:
    assert (await ask({"messages": [user("a \n")]})).body["messages"][0]["content"] == [text("a \n")]


async def test_a_last_assistant_turn_of_white_space_alone_is_left_out(ask: Any) -> None:
    run = await ask({"messages": [user("a"), {"role": "assistant", "content": " \n"}]})
    assert [turn["role"] for turn in run.body["messages"]] == ["user"]


async def test_blank_text_beside_other_blocks_is_left_out(ask: Any) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    run = await ask({"messages": [{"role": "system", "content": " "}, user(text(" "), picture, text("\n"))]})
    assert "system" not in run.body
    assert [block["type"] for block in run.body["messages"][0]["content"]] == ["image"]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png?b=1"}},
            {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png?b=1"}},
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                "title": "a.pdf",
            },
        ),
        (
            {
                "type": "file",
                "file": {"file_data": "data:text/markdown;base64," + base64.b64encode("# é".encode()).decode()},
            },
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "# é"}},
        ),
        (
            {"type": "file", "file": {"filename": "a.png", "file_data": PNG}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
    ],
    ids=["image by its bytes", "image by URL", "pdf", "text file", "image as file"],
)
async def test_media_become_blocks(ask: Any, part: Any, block: Any) -> None:
    marked = part | {"cache_control": MARK}
    run = await ask({"messages": [user(text("see"), part, marked)]})
    assert run.body["messages"][0]["content"] == [text("see"), block, block | {"cache_control": MARK}]
    assert TypeAdapter(ContentBlockParam).validate_python(block)
    assert run.dropped == []


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "image_url", "image_url": {"url": "http://x.test/a.png"}}, "https URLs only"),
        ({"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}, "not image/tiff"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file_id belongs to the vendor"),
        ({"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}}, "not application/zip"),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,//8="}}, "not UTF-8"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "no audio"),
        ({"type": "video_url", "video_url": {"url": "https://x.test"}}, "video_url"),
    ],
)
async def test_media_that_anthropic_does_not_take_are_refused_naming_the_part(ask: Any, part: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        await ask({"messages": [user(text("see"), part)]})
    assert str(caught.value.param).startswith("messages[0].content[1]")


async def test_an_image_in_an_assistant_message_is_refused(ask: Any) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
    with pytest.raises(InvalidRequest, match="text only"):
        await ask({"messages": [user("a"), {"role": "assistant", "content": [picture]}, user("b")]})


async def test_the_detail_of_an_image_is_dropped_with_a_signal(ask: Any) -> None:
    pictures = [
        {"type": "image_url", "image_url": {"url": "https://x.test/a", "detail": one}} for one in ("low", "auto")
    ]
    run = await ask({"messages": [user(*pictures)]})
    assert run.dropped == ["messages[0].content[0].image_url.detail"]


async def test_images_and_documents_in_tool_results_stay_there(ask: Any) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://x.test/a"}}
    messages = [
        user("go"),
        {"role": "assistant", "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": "call_1", "content": [text("see", cache_control=MARK), picture]},
    ]
    run = await ask({"messages": messages, "tools": TOOLS})
    result = run.body["messages"][2]["content"][0]
    assert result == {
        "type": "tool_result",
        "tool_use_id": "call_1",
        "content": [text("see"), {"type": "image", "source": {"type": "url", "url": "https://x.test/a"}}],
        "cache_control": MARK,
    }


async def test_cache_marks_survive_merging_and_the_last_four_stay(ask: Any) -> None:
    messages = [
        {"role": "system", "content": [text("s", cache_control=MARK)]},
        user(text("a", cache_control=MARK)),
        user(text("b", cache_control=MARK)),
        {"role": "assistant", "tool_calls": [call(cache_control=MARK)]},
        {"role": "tool", "tool_call_id": "call_1", "content": "r"},
        user(text("c", cache_control={"type": "ephemeral", "ttl": "1h"})),
    ]
    run = await ask({"messages": messages, "tools": [TOOLS[0] | {"cache_control": MARK}]})
    blocks = [*run.body["tools"], *run.body["system"], *(b for m in run.body["messages"] for b in m["content"])]
    assert ["cache_control" in block for block in blocks] == [False, False, True, True, True, False, True]
    assert blocks[-1]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert run.dropped == ["cache_control"]


async def test_thinking_goes_back_signed_and_before_the_tool_call(ask: Any) -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "sealed"},
        {"type": "thinking", "thinking": "unsigned"},
    ]
    messages = [
        user("go"),
        {
            "role": "assistant",
            "content": "ok",
            "reasoning_content": "hm",
            "thinking_blocks": blocks,
            "tool_calls": [call()],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "r"},
    ]
    run = await ask({"messages": messages, "tools": TOOLS})
    assert run.body["messages"][1]["content"][:3] == [*blocks[:2], text("ok")]
    assert run.body["messages"][1]["content"][3]["type"] == "tool_use"


async def test_a_name_on_a_message_is_dropped_with_a_signal_and_refused_where_nothing_may_be_lost(ask: Any) -> None:
    payload = {"messages": [user("hi") | {"name": "ann"}]}
    assert (await ask(payload)).dropped == ["messages[0].name"]
    with pytest.raises(InvalidRequest) as caught:
        await ask(payload, strict=True)
    assert (caught.value.param, caught.value.retry) == ("messages[0].name", Retry.NEXT)


async def test_what_is_sent_agrees_with_the_sdks_types(ask: Any) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    run = await ask(
        {
            "tools": TOOLS,
            "messages": [
                {"role": "system", "content": "s"},
                user(text("go"), picture),
                {"role": "assistant", "content": "ok", "tool_calls": [call()]},
                {"role": "tool", "tool_call_id": "call_1", "content": "r"},
            ],
        }
    )
    for message in run.body["messages"]:
        for block in message["content"]:
            TypeAdapter(ContentBlockParam).validate_python(block)
    for block in run.body["system"]:
        TypeAdapter(TextBlockParam).validate_python(block)


@pytest.mark.parametrize(
    ("model", "options", "stays"),
    [
        ("claude-opus-4-8", {}, True),
        ("claude-opus-5", {}, True),
        ("claude-fable-5", {}, True),
        ("claude-opus-4-7", {}, False),
        ("claude-sonnet-5", {}, False),
        ("alias", {}, False),
        ("alias", {"inline_system": True}, True),
        ("claude-opus-5", {"inline_system": False}, False),
    ],
)
async def test_instructions_in_the_middle_stay_there_at_models_that_heed_them(
    ask: Any, model: str, options: Any, stays: bool
) -> None:
    """Claude Sonnet 5 takes them, and does as if it had not."""
    said = [
        ("system", "first"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("system", "now"),
        ("assistant", "d"),
    ]
    history = [{"role": role, "content": words} for role, words in [*said, ("user", "e")]]
    run = await ask({"messages": history}, model=model, options=options)
    roles = [message["role"] for message in run.body["messages"]]
    if stays:
        assert run.body["system"] == [{"type": "text", "text": "first"}]
        assert roles == ["user", "assistant", "user", "system", "assistant", "user"]
        assert run.body["messages"][3]["content"] == [{"type": "text", "text": "now"}]
        assert run.dropped == []
    else:
        assert [text["text"] for text in run.body["system"]] == ["first", "now"]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        assert run.dropped == ["messages[4].position"]
