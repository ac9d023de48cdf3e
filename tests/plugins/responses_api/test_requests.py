"""What a request becomes: the chat that vendors get; and what is refused, by its path."""

import json
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given as thinking_up
from hypothesis import strategies as st

from gatehook import Call, InvalidRequest
from gatehook_plugins.openai_api.requests import ChatRequest
from gatehook_plugins.responses_api.requests import ResponseRequest
from gatehook_plugins.responses_api.sealing import sealed
from gatehook_plugins.responses_api.surface import ResponsesSurface

Object = dict[str, Any]
URL = "https://example.test/a.png"


def parsed(**body: Any) -> Call:
    call = Call("chat", "responses", {})
    raw = json.dumps({"model": "m", "input": "Hi", **body}).encode()
    ResponsesSurface().parse(call, make_mocked_request("POST", "/v1/responses"), raw)
    return call


def chat(**body: Any) -> Object:
    """The chat that a request becomes, without what is the same in all of them."""
    made = dict(parsed(**body).payload)
    assert made.pop("model") == "m"
    return made


def messages(*items: Any, **more: Any) -> Any:
    return chat(input=list(items), **more)["messages"]


def said(role: str, content: Any) -> Object:
    return {"role": role, "content": content}


def text(words: str) -> Object:
    return {"type": "input_text", "text": words}


def call(name: str, key: str, arguments: str = "{}") -> Object:
    return {"type": "function_call", "id": "fc_1", "call_id": key, "name": name, "arguments": arguments}


def made(name: str, key: str, arguments: str = "{}") -> Object:
    return {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(key: str, output: Any) -> Object:
    return {"type": "function_call_output", "call_id": key, "output": output}


def answered(words: str) -> Object:
    part = {"type": "output_text", "text": words, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


def thought(words: str = "", **more: Any) -> Object:
    summary = [{"type": "summary_text", "text": words}] if words else []
    return {"type": "reasoning", "id": "rs_1", "summary": summary, **more}


# --- messages ------------------------------------------------------------------------------------------------------


def test_a_text_is_what_the_user_says() -> None:
    assert chat() == {"messages": [said("user", "Hi")]}
    assert chat(instructions="Be brief.")["messages"] == [said("system", "Be brief."), said("user", "Hi")]


@pytest.mark.parametrize("role", ["user", "system", "developer"])
@pytest.mark.parametrize("kind", [{}, {"type": "message"}])
def test_a_role_stays_as_it_is(role: str, kind: Object) -> None:
    assert messages({**kind, "role": role, "content": "x"}) == [said(role, "x")]
    assert messages({**kind, "role": role, "content": [text("x")]}) == [said(role, "x")]


def test_parts_become_those_of_chats() -> None:
    sound = {"data": "AAAA", "format": "wav"}
    content = [
        text("See:"),
        {"type": "input_image", "image_url": URL, "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_audio", "input_audio": sound},
    ]
    (message,) = messages({"role": "user", "content": content})
    assert message["content"] == [
        {"type": "text", "text": "See:"},
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": sound},
    ]


def test_items_of_one_turn_become_one_message() -> None:
    turn = [thought("Hm."), answered("Let me see."), call("look", "c1", '{"a":1}'), call("now", "c2")]
    assert messages(said("user", "Q"), *turn, result("c1", "one"), result("c2", [text("two")]), said("user", "R")) == [
        said("user", "Q"),
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "content": "Let me see.",
            "tool_calls": [made("look", "c1", '{"a":1}'), made("now", "c2")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        said("user", "R"),
    ]


def test_a_call_with_any_text_and_its_result_go_back() -> None:
    called = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "patch", "input": "*** Begin"}
    assert messages(called, {"type": "custom_tool_call_output", "call_id": "c", "output": "done"}) == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]


def test_turns_are_parted_by_what_others_say() -> None:
    made_of = messages(call("a", "c1"), result("c1", ""), thought("Now b."), call("b", "c2"), result("c2", ""))
    assert [message["role"] for message in made_of] == ["assistant", "tool", "assistant", "tool"]
    assert "reasoning_content" not in made_of[0]
    assert made_of[2] | {"reasoning_content": "Now b."} == made_of[2]
    assert (made_of[0]["content"], made_of[2]["content"]) == (None, None)


def test_several_texts_of_one_turn_stay_apart() -> None:
    (message,) = messages(answered("One."), answered("Two."), said("assistant", "Three."))
    assert message == said("assistant", [{"type": "text", "text": one} for one in ("One.", "Two.", "Three.")])


def test_a_refusal_goes_back_as_one() -> None:
    refused = {"type": "refusal", "refusal": "I will not."}
    item = {"type": "message", "role": "assistant", "content": [refused]}
    assert messages(item) == [{"role": "assistant", "refusal": "I will not.", "content": ""}]


def test_a_result_may_have_pictures() -> None:
    shown = [text("Here:"), {"type": "input_image", "image_url": URL}]
    message = messages(call("look", "c"), result("c", shown))[1]
    assert message["content"] == [
        {"type": "text", "text": "Here:"},
        {"type": "image_url", "image_url": {"url": URL}},
    ]


# --- reasoning -----------------------------------------------------------------------------------------------------

BLOCKS = [{"type": "thinking", "thinking": "Hm.", "signature": "sig"}, {"type": "redacted_thinking", "data": "xx"}]


def test_signed_reasoning_comes_back_as_it_was() -> None:
    (message,) = messages(thought("Hm.", encrypted_content=sealed(BLOCKS)), answered("So."))
    assert message == {
        "role": "assistant",
        "reasoning_content": "Hm.",
        "thinking_blocks": BLOCKS,
        "content": "So.",
    }


def test_a_proof_comes_back_from_any_item() -> None:
    proof: Object = {"extra_content": {"google": {"thought_signature": "x"}}}
    for item in (thought(**proof), {**answered("x"), **proof}):
        assert messages(item)[0]["extra_content"] == proof["extra_content"]
    assert messages({**call("f", "c"), **proof})[0]["tool_calls"] == [{**made("f", "c"), **proof}]


def test_reasoning_alone_is_a_message_without_words() -> None:
    assert messages(thought("Hm."), said("user", "Q")) == [
        {"role": "assistant", "reasoning_content": "Hm.", "content": ""},
        said("user", "Q"),
    ]
    raw = [{"type": "reasoning_text", "text": "Raw."}]
    assert messages(thought(content=raw), answered("x"))[0]["reasoning_content"] == "Raw."


@pytest.mark.parametrize(
    "foreign",
    [
        "gAAAAABo",
        "gatehook1.",
        "gatehook1.%%%",
        "gatehook1.AAAA",
        "gatehook1.e30=",
        "gatehook1.Ww==",
        sealed([{"a": 1}]),
        sealed(BLOCKS)[:-8],
        sealed([{"type": "thinking", "signature": 5}]),
        "gatehook1." + "W1tb" * 100_000,
    ],
)
def test_what_another_has_sealed_is_left_out_and_told(foreign: str) -> None:
    made_of = parsed(input=[thought("Hm.", encrypted_content=foreign), answered("x")])
    assert "thinking_blocks" not in made_of.payload["messages"][0]
    assert made_of.lost == ("input[0].encrypted_content",)
    assert not made_of.extended


# --- parameters ----------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FUNCTION = {"type": "function", "name": "look", "parameters": SCHEMA}
LOOK = {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_output_tokens": 9}, {"max_completion_tokens": 9}),
        ({"temperature": 0, "top_p": 0}, {"temperature": 0, "top_p": 0}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {}}, {}),
        ({"reasoning": {"effort": "none"}}, {"reasoning_effort": "none"}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"top_logprobs": 0}, {}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"include": ["reasoning.encrypted_content"]}, {}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        (
            {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex"},
            {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex"},
        ),
        ({"metadata": {"a": "b"}, "store": False, "truncation": "disabled", "background": False}, {}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            {"stream_options": {"include_usage": True}},
        ),
        ({"stop": ["x"], "seed": 0, "thinking": {"type": "disabled"}}, {"stop": ["x"], "seed": 0}),
        ({"tools": []}, {}),
        (
            {"tools": [{**FUNCTION, "description": "d", "strict": True}]},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "look", "description": "d", "parameters": SCHEMA, "strict": True},
                    }
                ]
            },
        ),
        ({"tools": [{"type": "function", "name": "look", "parameters": None, "strict": None}]}, {"tools": [LOOK]}),
        (
            {
                "tools": [
                    {"type": "custom", "name": "patch", "description": "d"},
                    {"type": "custom", "name": "any", "format": {"type": "text"}},
                    {
                        "type": "custom",
                        "name": "sum",
                        "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
                    },
                ],
                "tool_choice": {"type": "custom", "name": "sum"},
            },
            {
                "tools": [
                    {"type": "custom", "custom": {"name": "patch", "description": "d"}},
                    {"type": "custom", "custom": {"name": "any", "format": {"type": "text"}}},
                    {
                        "type": "custom",
                        "custom": {
                            "name": "sum",
                            "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}},
                        },
                    },
                ],
                "tool_choice": {"type": "custom", "custom": {"name": "sum"}},
            },
        ),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        ({"tool_choice": {"type": "function", "name": "look"}}, {"tool_choice": LOOK}),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "look"}],
                }
            },
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [LOOK]}}},
        ),
    ],
)
def test_a_parameter_becomes_that_of_chats(given: Object, sent: Object) -> None:
    chatted = chat(**given)
    del chatted["messages"]
    assert chatted == chatted | sent
    assert set(chatted) - set(sent) <= {"stream", "thinking"}


def test_what_limits_go_by_is_told_to_the_gateway() -> None:
    call = parsed(max_output_tokens=7, stream=True)
    assert (call.max_tokens, call.choices, call.stream, call.include_usage) == (7, 1, True, True)
    call = parsed()
    assert (call.max_tokens, call.choices, call.stream, call.include_usage) == (None, 1, False, False)


def test_null_is_the_same_as_nothing() -> None:
    names = ("instructions", "tools", "tool_choice", "text", "reasoning", "temperature", "include", "metadata",
             "store", "previous_response_id", "conversation", "prompt", "background", "truncation", "stream", "user",
             "stream_options", "max_output_tokens", "context_management", "moderation", "max_tool_calls",
             "something")  # fmt: skip
    assert chat(**dict.fromkeys(names)) == chat()
    assert parsed(**dict.fromkeys(names)).lost == ()


def test_what_means_nothing_to_a_vendor_is_told_as_dropped() -> None:
    tool = {**FUNCTION, "defer_loading": True, "output_schema": None}
    call = parsed(store=True, tools=[tool], client_metadata={"a": 1}, **{"ä\n": 1})
    assert call.lost == ("tools[0].defer_loading", "store", "client_metadata", "ä\n")
    assert set(call.payload) == {"model", "messages", "tools"}


def test_functions_in_a_namespace_have_joined_names() -> None:
    space = {"type": "namespace", "name": "files", "description": "d", "tools": [FUNCTION]}
    asked = parsed(tools=[FUNCTION, space], input=[{**call("look", "c"), "namespace": "files"}])
    assert [tool["function"]["name"] for tool in asked.payload["tools"]] == ["look", "files__look"]
    assert asked.payload["messages"][0]["tool_calls"] == [made("files__look", "c")]
    assert asked.lost == ("tools[1].description",)


def test_a_turn_may_have_very_many_items() -> None:
    block = sealed([{"type": "redacted_thinking", "data": "x"}])
    turn = [thought("x", encrypted_content=block), {"role": "assistant", "content": "x"}, call("f", "c")] * 5_000
    (message,) = messages(*turn)
    assert message["reasoning_content"] == "x" * 5_000
    assert [len(message[name]) for name in ("thinking_blocks", "content", "tool_calls")] == [5_000] * 3


# --- what is refused -----------------------------------------------------------------------------------------------

MESSAGE = said("user", "x")


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation as `input`"),
        ({"conversation": "conv_1"}, "conversation", "whole conversation as `input`"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "whole conversation as `input`"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "`instructions` and `input`"),
        ({"background": True}, "background", "stream"),
        ({"truncation": "auto"}, "truncation", "leave it out"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "leave it out"),
        ({"moderation": {"model": "x"}}, "moderation", "leave it out"),
        ({"stream_options": {}}, "stream_options", "stream is true"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "required"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "required"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema"),
        ({"model": ""}, "model", ""),
        ({"input": []}, "input", ""),
        ({"input": 5}, "input", ""),
        ({"input": ["x"]}, "input[0]", ""),
        ({"top_logprobs": 21}, "top_logprobs", ""),
        ({"max_output_tokens": 0}, "max_output_tokens", ""),
        ({"temperature": "hot"}, "temperature", ""),
        ({"metadata": {"a": 1}}, "metadata[...]", ""),
        ({"stream": "yes"}, "stream", ""),
        *(
            ({"tools": [FUNCTION, {"type": kind}]}, "tools[1].type", repr(kind))
            for kind in ("web_search", "file_search", "code_interpreter", "computer_use_preview", "mcp",
                         "image_generation", "local_shell", "shell", "apply_patch", "web_search_preview")
        ),
        ({"tools": [{"name": "x"}]}, "tools[0].type", "null"),
        ({"tools": [{"type": "namespace", "name": "x"}]}, "tools[0].tools", "required"),
        ({"tools": [{"type": "namespace", "name": "x", "tools": [FUNCTION, {"type": "mcp"}]}]},
         "tools[0].tools[1].type", "'mcp'"),
        ({"tools": [{"type": "namespace", "name": "x", "tools": [{"type": "function"}]}]},
         "tools[0].tools[0].name", "required"),
        ({"tools": [{**FUNCTION, "name": "x__look"}, {"type": "namespace", "name": "x", "tools": [FUNCTION]}]},
         "tools[1].tools[0].name", "'x__look'"),
        ({"tools": [{"type": ["x"], "name": "x"}]}, "tools[0].type", "other than text"),
        ({"tools": [{"type": "function", "name": []}]}, "tools[0].name", "expected"),
        ({"tool_choice": {"type": {}}}, "tool_choice.type", "other than text"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "required"),
        ({"tools": [{"type": "function", "name": "a", "parameters": 5}]}, "tools[0].parameters", "expected"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type", "web_search_preview"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name", "name"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools", "array"),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools[0].type",
            "'mcp'",
        ),
        *(
            ({"input": [MESSAGE, {"type": kind, "id": "x"}]}, "input[1].type", repr(kind))
            for kind in ("web_search_call", "file_search_call", "computer_call", "computer_call_output", "mcp_call",
                         "mcp_approval_request", "mcp_approval_response", "mcp_list_tools", "image_generation_call",
                         "code_interpreter_call", "local_shell_call", "compaction", "program")
        ),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "send the item itself"),
        ({"input": [{"id": "msg_1"}]}, "input[0].type", "required"),
        ({"input": [{"type": 5}]}, "input[0].type", "of this type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "'robot'"),
        ({"input": [{"role": "user"}]}, "input[0].content", "required"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "expected"),
        ({"input": [said("user", [{"type": "smell"}])]}, "input[0].content[0].type", "'smell'"),
        ({"input": [said("user", [text("x"), {"type": "input_text"}])]}, "input[0].content[1].text", "required"),
        ({"input": [said("user", [{"type": "input_image", "image_url": {"url": URL}}])]},
         "input[0].content[0].image_url", "expected str"),
        ({"input": [said("user", [{"type": "input_image"}])]}, "input[0].content[0].image_url", "required"),
        ({"input": [said("user", [{"type": "input_image", "file_id": "f"}])]},
         "input[0].content[0].file_id", "image_url"),
        ({"input": [said("user", [{"type": "input_file", "file_url": URL}])]},
         "input[0].content[0].file_url", "file_data"),
        ({"input": [said("user", [{"type": "input_file", "filename": "a"}])]}, "input[0].content[0]", "file_data"),
        ({"input": [call("", "c")]}, "input[0].name", ""),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id", "required"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id", "required"),
        ({"input": [result("c", {"a": 1})]}, "input[0].output", "expected"),
        ({"input": [thought(encrypted_content=5)]}, "input[0].encrypted_content", "expected"),
        ({"input": [thought(content=["x"])]}, "input[0].content[0]", "expected"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_path(given: Object, param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parsed(**given)
    assert raised.value.param == param
    assert raised.value.message.startswith(f"{param}: ")
    assert words in raised.value.message


WORDS = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "custom_tool_call", "item_reference", "function",
     "custom", "namespace", "allowed_tools", "json_schema", "input_text", "input_image", "output_text", "refusal",
     "user", "assistant", "developer", "auto", "grammar", "x", ""]
)  # fmt: skip
FIELDS = st.sampled_from(
    ["type", "role", "content", "text", "call_id", "name", "arguments", "output", "summary", "encrypted_content",
     "input", "tools", "format", "schema", "mode", "namespace", "refusal", "image_url", "file_id", "extra_content"]
)  # fmt: skip
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), WORDS),
    lambda some: st.one_of(st.lists(some, max_size=3), st.dictionaries(FIELDS, some, max_size=5)),
    max_leaves=12,
)
SOUND: list[Object] = [
    said("user", [text("x"), {"type": "input_image", "image_url": URL}]),
    thought("Hm.", encrypted_content=sealed(BLOCKS)),
    answered("So."),
    {**call("f", "c"), "namespace": "n"},
    result("c", [text("x")]),
    {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"},
    FUNCTION,
    {"type": "custom", "name": "f", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
    {"type": "namespace", "name": "n", "tools": [FUNCTION]},
]
ITEM = st.builds(lambda sound, other: {**sound, **other}, st.sampled_from(SOUND),
                 st.dictionaries(FIELDS, ANYTHING, max_size=2))  # fmt: skip
ITEMS = st.lists(ITEM, min_size=1, max_size=4)
NAMED = st.sampled_from(sorted(ResponseRequest.__struct_fields__))


@thinking_up(ITEMS, ITEMS, st.dictionaries(NAMED, ANYTHING, max_size=3))
def test_anything_is_a_chat_or_a_refusal_that_names_a_field(items: Any, tools: Any, more: Object) -> None:
    wrong: InvalidRequest | None = None
    try:
        msgspec.convert(parsed(**{"input": items, "tools": tools, **more}).payload, ChatRequest)
    except InvalidRequest as error:
        wrong = error
    assert wrong is None or (wrong.param and wrong.message.startswith(wrong.param))
