"""Reading OpenAI's messages into turns: nothing is lost, reordered or made up; what cannot be read is refused."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from gatehook.dialect.conversation import (
    Conversation,
    Media,
    Part,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Turn,
    read_conversation,
)
from gatehook.dialect.media import Blob
from gatehook.errors import InvalidRequest, Retry

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PDF = base64.b64encode(b"%PDF-1.7").decode()
MARK = {"type": "ephemeral"}

Message = dict[str, Any]


def system(content: Any, **rest: Any) -> Message:
    return {"role": "system", "content": content, **rest}


def user(content: Any, **rest: Any) -> Message:
    return {"role": "user", "content": content, **rest}


def assistant(content: Any = None, *calls: Message, **rest: Any) -> Message:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **rest}


def call(id: str, name: str = "look", arguments: str = "{}", **rest: Any) -> Message:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **rest}


def tool(id: str, content: Any = "done", **rest: Any) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": content, **rest}


def text(words: str, **rest: Any) -> Message:
    return {"type": "text", "text": words, **rest}


def read(*messages: Mapping[str, Any], **rest: Any) -> tuple[Conversation, list[str]]:
    dropped: list[str] = []
    return read_conversation(messages, dropped.append, **rest), dropped


def turns(*messages: Mapping[str, Any]) -> list[Turn]:
    return read(*messages)[0].turns


def only(message: Mapping[str, Any]) -> Part:
    [turn] = turns(message)
    [part] = turn.parts
    return part


def refusal(*messages: Mapping[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(*messages)
    error = caught.value
    assert error.status == 400
    assert error.param is not None
    assert error.message.startswith(error.param)
    return error


class TestSystem:
    def test_texts_are_taken_out_in_order_and_stay_apart_with_their_marks(self) -> None:
        conversation, dropped = read(
            system("one"),
            {"role": "developer", "content": [text("two", cache_control=MARK), text("three")]},
            user("hi"),
        )
        assert conversation.system == [Text("one"), Text("two", MARK), Text("three")]
        assert [turn.role for turn in conversation.turns] == ["user"]
        assert dropped == []

    def test_one_in_the_middle_moves_and_its_move_is_told(self) -> None:
        conversation, dropped = read(user("a"), system("late"), user("b"), {"role": "developer", "content": "later"})
        assert conversation.system == [Text("late"), Text("later")]
        assert conversation.turns == [Turn("user", [Text("a"), Text("b")])]
        assert dropped == ["messages[1].position", "messages[3].position"]

    def test_an_empty_one_is_no_block(self) -> None:
        assert read(system(""), system([]), system([text("")]), user("hi"))[0].system == []

    def test_one_between_a_call_and_its_result_parts_nothing(self) -> None:
        conversation, _ = read(user("q"), assistant(None, call("a")), system("s"), tool("a"))
        assert [turn.role for turn in conversation.turns] == ["user", "assistant", "user"]

    def test_one_with_an_image_is_refused(self) -> None:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        error = refusal(system([picture]))
        assert "text only" in error.message

    def test_those_of_the_beginning_are_taken_out_wherever_later_ones_may_stand(self) -> None:
        for place in ("first", "in_place", "after_user"):
            conversation, dropped = read(system("one"), system("two"), user("hi"), system=place)
            assert conversation.system == [Text("one"), Text("two")]
            assert conversation.turns == [Turn("user", [Text("hi")])]
            assert dropped == []

    def test_one_in_the_middle_stays_where_vendors_take_it_anywhere(self) -> None:
        conversation, dropped = read(
            user("a"), system("s"), {"role": "developer", "content": [text("t", cache_control=MARK)]}, user("b"),
            assistant("c"), system("u"), user("d"), system(" \n"), system("end"), system="in_place",
        )  # fmt: skip
        assert conversation.system == []
        assert conversation.turns == [
            Turn("user", [Text("a")]), Turn("system", [Text("s"), Text("t", MARK)]), Turn("user", [Text("b")]),
            Turn("assistant", [Text("c")]), Turn("system", [Text("u")]), Turn("user", [Text("d")]),
            Turn("system", [Text("end")]),
        ]  # fmt: skip
        assert dropped == []

    def test_one_in_the_middle_waits_for_the_end_of_the_users_turn_where_it_must(self) -> None:
        conversation, dropped = read(
            user("a"), assistant("b"), system("moved"), user("c"), system("kept"), assistant("d"), system("end"),
            system="after_user",
        )  # fmt: skip
        assert conversation.turns == [
            Turn("user", [Text("a")]), Turn("assistant", [Text("b")]), Turn("user", [Text("c")]),
            Turn("system", [Text("moved"), Text("kept")]), Turn("assistant", [Text("d")]),
            Turn("system", [Text("end")]),
        ]  # fmt: skip
        assert dropped == ["messages[2].position"]

    @pytest.mark.parametrize("place", ["in_place", "after_user"])
    def test_one_that_stays_does_not_part_a_call_from_its_results(self, place: str) -> None:
        conversation, dropped = read(
            user("q"), assistant(None, call("a"), call("b")), system("s"), tool("a"), tool("b"), system("t"),
            system=place,
        )  # fmt: skip
        assert [turn.role for turn in conversation.turns] == ["user", "assistant", "user", "system"]
        assert conversation.turns[-1].parts == [Text("s"), Text("t")]
        assert dropped == ["messages[2].position"]


class TestTurns:
    def test_messages_of_one_side_become_one_turn(self) -> None:
        assert turns(user("a"), user([text("b"), text("c")]), assistant("d"), assistant("e"), user("f")) == [
            Turn("user", [Text("a"), Text("b"), Text("c")]),
            Turn("assistant", [Text("d"), Text("e")]),
            Turn("user", [Text("f")]),
        ]

    def test_an_answer_may_come_first_and_stays_first(self) -> None:
        assert [turn.role for turn in turns(assistant("a"), user("b"))] == ["assistant", "user"]

    @pytest.mark.parametrize("content", [None, "", [], [text("")], [text(""), text("")]])
    def test_a_message_without_content_is_no_turn_and_its_neighbours_meet(self, content: Any) -> None:
        assert turns(user("a"), assistant(content), user("b")) == [Turn("user", [Text("a"), Text("b")])]
        assert turns(assistant("a"), user(content), assistant("b")) == [Turn("assistant", [Text("a"), Text("b")])]

    def test_missing_content_beside_calls_gives_no_empty_text(self) -> None:
        for message in (assistant(None, call("a")), assistant("", call("a")), assistant([text("")], call("a"))):
            assert [type(part) for part in turns(message, tool("a"))[0].parts] == [ToolUse]
            del message["content"]
            assert [type(part) for part in turns(message, tool("a"))[0].parts] == [ToolUse]

    def test_white_space_is_text_and_kept_to_the_letter(self) -> None:
        assert only(user(" \n")) == Text(" \n")
        assert only(assistant("end \n")) == Text("end \n")

    def test_a_lone_surrogate_passes(self) -> None:
        assert only(user("half \ud83d")) == Text("half \ud83d")

    def test_cache_marks_survive_merging(self) -> None:
        [turn] = turns(user([text("a", cache_control=MARK)]), user([text("b"), text("c", cache_control=MARK)]))
        assert [part.cache for part in turn.parts if isinstance(part, Text)] == [MARK, None, MARK]

    def test_a_refusal_is_what_the_model_said(self) -> None:
        assert only(assistant(None, refusal="I will not")) == Text("I will not")
        assert only(assistant([{"type": "refusal", "refusal": "No"}])) == Text("No")

    def test_a_name_is_told_as_dropped(self) -> None:
        messages = (system("s", name="a"), user("u", name="b"), assistant("c", name="d"), user("e", name=None))
        assert read(*messages)[1] == ["messages[0].name", "messages[1].name", "messages[2].name"]

    def test_what_the_official_client_adds_to_an_answer_it_has_parsed_is_nothing_new(self) -> None:
        parsed = call("a")
        parsed["function"]["parsed_arguments"] = {"x": 1}
        assert read(user("u"), assistant('{"a": 1}', parsed, parsed={"a": 1}), tool("a"))[1] == []

    def test_a_field_nobody_knows_is_told_as_dropped(self) -> None:
        assert read(user("u", weight=2), assistant("a", audio={"id": "x"}, annotations=[]))[1] == [
            "messages[0].weight",
            "messages[1].audio",
        ]

    def test_an_unknown_role_is_refused(self) -> None:
        assert refusal({"role": "robot", "content": "x"}).param == "messages[0].role"

    def test_an_empty_conversation_is_one(self) -> None:
        assert read() == (Conversation([], []), [])


class TestTools:
    def test_parallel_results_stand_in_one_turn_before_the_users_words(self) -> None:
        asked, called, answered = turns(
            user("q"),
            assistant("let me see", call("a", "look"), call("b", "find")),
            tool("b", "B"),
            tool("a", [text("A"), text("more")]),
            user("and?"),
        )
        assert asked == Turn("user", [Text("q")])
        assert called.parts == [
            Text("let me see"),
            ToolUse("a", "look", {}, "messages[1].tool_calls[0]"),
            ToolUse("b", "find", {}, "messages[1].tool_calls[1]"),
        ]
        assert answered.parts == [
            ToolResult("b", "find", [Text("B")], "messages[2]"),
            ToolResult("a", "look", [Text("A"), Text("more")], "messages[3]"),
            Text("and?"),
        ]

    @pytest.mark.parametrize("content", ["", [], [text("")], None])
    def test_an_empty_result_is_still_a_result(self, content: Any) -> None:
        [_, answered] = turns(assistant(None, call("a")), tool("a", content))
        assert answered.parts == [ToolResult("a", "look", [], "messages[1]")]

    def test_a_result_keeps_its_images_and_marks(self) -> None:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}, "cache_control": MARK}
        [_, answered] = turns(assistant(None, call("a")), tool("a", [text("see", cache_control=MARK), picture]))
        [result] = answered.parts
        assert isinstance(result, ToolResult)
        words, image = result.parts
        assert words == Text("see", MARK)
        assert isinstance(image, Media)
        assert (image.blob, image.cache) == (Blob("image/png", PNG), MARK)
        assert image.path.startswith("messages[1].content[1]")

    def test_a_failed_tool_is_told_as_such_or_in_words(self) -> None:
        messages = [assistant(None, call("a")), {**tool("a", "no such thing"), "is_error": True}]
        for tells, said in ((True, []), (False, [Text("The tool failed: ")])):
            lost: list[str] = []
            [_, answered] = read_conversation(messages, lost.append, tells_failures=tells).turns
            result = ToolResult("a", "look", [*said, Text("no such thing")], "messages[1]", failed=True)
            assert (answered.parts, lost) == ([result], [])

    def test_an_error_word_in_a_result_means_nothing(self) -> None:
        [_, answered] = turns(assistant(None, call("a")), tool("a", '{"error": "not really"}'))
        assert answered.parts == [ToolResult("a", "look", [Text('{"error": "not really"}')], "messages[1]")]

    @pytest.mark.parametrize("arguments", ["", "{}", None, " { } "])
    def test_no_arguments_are_an_empty_object(self, arguments: Any) -> None:
        part = turns(assistant(None, call("a", arguments=arguments)), tool("a"))[0].parts[0]
        assert isinstance(part, ToolUse)
        assert part.arguments == {}

    def test_missing_arguments_are_an_empty_object(self) -> None:
        message = assistant(None, {"id": "a", "type": "function", "function": {"name": "look"}})
        assert turns(message, tool("a"))[0].parts == [ToolUse("a", "look", {}, "messages[0].tool_calls[0]")]

    def test_arguments_may_hold_a_bare_lone_surrogate(self) -> None:
        part = turns(assistant(None, call("a", arguments='{"s":"\ud83d"}')), tool("a"))[0].parts[0]
        assert isinstance(part, ToolUse)
        assert part.arguments == {"s": "\ud83d"}
        assert "'a'" in refusal(assistant(None, call("a", arguments="\ud83d"))).message

    def test_arguments_keep_large_integers_and_lone_surrogates(self) -> None:
        message = assistant(None, call("a", arguments='{"n":123456789012345678901234567890,"s":"\\ud83d"}'))
        part = turns(message, tool("a"))[0].parts[0]
        assert isinstance(part, ToolUse)
        assert part.arguments == {"n": 123456789012345678901234567890, "s": "\ud83d"}

    @pytest.mark.parametrize(
        "arguments", ["{", '{"a":}', "nonsense", '{"a":NaN}', "{}{}", "[1]", '"x"', "1", "null", "true"]
    )
    def test_arguments_that_are_no_json_object_are_refused_with_the_calls_id(self, arguments: str) -> None:
        error = refusal(user("q"), assistant(None, call("ok"), call("call_7", arguments=arguments)))
        assert error.param == "messages[1].tool_calls[1].function.arguments"
        assert "'call_7'" in error.message
        assert error.retry is Retry.NEXT  # a deployment that takes the text as it is may answer

    def test_a_calls_other_fields_are_kept(self) -> None:
        message = assistant(None, call("a", index=0, cache_control=MARK, extra_content={"google": {"x": 1}}))
        part = turns(message, tool("a"))[0].parts[0]
        assert isinstance(part, ToolUse)
        assert part.extra == {"cache_control": MARK, "extra_content": {"google": {"x": 1}}}

    def test_calls_that_are_no_functions_are_refused(self) -> None:
        error = refusal(assistant(None, {"id": "a", "type": "custom", "custom": {"name": "x", "input": "y"}}))
        assert error.param == "messages[0].tool_calls[0].type"
        assert "'custom'" in error.message

    def test_the_deprecated_forms_are_refused_with_the_way_out(self) -> None:
        assert "tool_calls" in refusal(assistant(None, function_call={"name": "f", "arguments": "{}"})).message
        assert "'tool'" in refusal(user("q"), {"role": "function", "name": "f", "content": "x"}).message


class TestOrphans:
    def test_a_result_without_a_call_is_refused_with_its_id(self) -> None:
        for before in ((), (user("q"),), (user("q"), assistant("no call"))):
            error = refusal(*before, tool("call_9"))
            assert error.param == f"messages[{len(before)}].tool_call_id"
            assert "'call_9'" in error.message
            assert error.retry is Retry.NEXT

    def test_a_second_result_for_one_call_is_refused(self) -> None:
        assert refusal(assistant(None, call("a")), tool("a"), tool("a")).param == "messages[2].tool_call_id"

    def test_a_result_may_not_come_before_its_call(self) -> None:
        assert refusal(user("q"), tool("a"), assistant(None, call("a"))).param == "messages[1].tool_call_id"

    def test_a_result_may_not_come_a_turn_late(self) -> None:
        answered = (assistant(None, call("a")), tool("a"), assistant("so"))
        assert refusal(*answered, tool("a")).param == "messages[3].tool_call_id"

    @pytest.mark.parametrize(
        "after", [(), (user("go on"),), (assistant("go on"),), (assistant(None, call("c")), tool("c"))]
    )
    def test_calls_without_results_are_refused_with_all_their_ids(self, after: tuple[Message, ...]) -> None:
        error = refusal(user("q"), assistant(None, call("a"), call("b"), call("d")), tool("b"), *after)
        assert "'a', 'd'" in error.message
        assert error.retry is Retry.NEXT

    def test_words_between_a_call_and_its_result_are_refused_not_moved(self) -> None:
        assert "'a'" in refusal(assistant(None, call("a")), user("wait"), tool("a")).message

    @pytest.mark.parametrize("nothing", ["", [], [text("")]])
    def test_an_empty_message_between_a_call_and_its_result_is_nothing(self, nothing: Any) -> None:
        assert len(turns(assistant(None, call("a")), user(nothing), tool("a"))) == 2


class TestIds:
    @staticmethod
    def ids(*messages: Message) -> tuple[list[str], list[str]]:
        parts = [part for turn in turns(*messages) for part in turn.parts]
        called = [part.id for part in parts if isinstance(part, ToolUse)]
        return called, [part.id for part in parts if isinstance(part, ToolResult)]

    def test_ids_that_repeat_over_turns_become_unique_and_results_follow(self) -> None:
        one = (assistant(None, call("a")), tool("a"))
        called, answered = self.ids(*one, *one, *one)
        assert called == answered
        assert len(set(called)) == 3
        assert called[0] == "a"  # the first keeps its own

    def test_an_id_made_unique_never_meets_one_that_a_client_gave(self) -> None:
        rounds = [(assistant(None, call(given)), tool(given)) for given in ("a", "a_2", "a", "a_2", "a_2_2", "a")]
        called, answered = self.ids(*(message for one in rounds for message in one))
        assert called == answered
        assert len(set(called)) == len(rounds)

    def test_a_made_up_id_is_not_the_clients_to_use(self) -> None:
        one = (assistant(None, call("a")), tool("a"))
        assert "'a_2'" in refusal(*one, assistant(None, call("a")), tool("a_2")).message

    def test_messages_name_ids_as_the_client_gave_them(self) -> None:
        one = (assistant(None, call("a")), tool("a"))
        assert "'a'" in refusal(*one, assistant(None, call("a")), user("go on")).message

    def test_an_id_twice_in_one_answer_is_two_calls_whose_results_come_in_order(self) -> None:
        [called, answered] = turns(
            assistant(None, call("a", "look"), call("a", "find")), tool("a", "looked"), tool("a", "found")
        )
        first, second = called.parts
        assert isinstance(first, ToolUse)
        assert isinstance(second, ToolUse)
        assert first.id != second.id
        assert answered.parts == [
            ToolResult(first.id, "look", [Text("looked")], "messages[1]"),
            ToolResult(second.id, "find", [Text("found")], "messages[2]"),
        ]

    def test_renaming_is_the_same_every_time(self) -> None:
        messages = [assistant(None, call("a")), tool("a"), assistant(None, call("a")), tool("a")]
        assert self.ids(*messages) == self.ids(*messages)


class TestThinking:
    def test_signed_blocks_come_first_and_verbatim(self) -> None:
        blocks = [
            {"type": "thinking", "thinking": "hm", "signature": "sig=="},
            {"type": "redacted_thinking", "data": "sealed", "index": 1},  # as streams number them
        ]
        [turn, _] = turns(assistant("so", call("a"), thinking_blocks=blocks), tool("a"))
        assert turn.parts[:3] == [Thinking("hm", "sig=="), Thinking(redacted="sealed"), Text("so")]
        assert isinstance(turn.parts[3], ToolUse)

    def test_an_empty_text_keeps_its_signature(self) -> None:
        for block in ({"thinking": "", "signature": "s"}, {"thinking": None, "signature": "s"}, {"signature": "s"}):
            part = only(assistant(None, thinking_blocks=[{"type": "thinking", **block}]))
            assert part == Thinking("", "s")

    def test_reasoning_without_a_signature_is_told_as_dropped(self) -> None:
        conversation, dropped = read(assistant("so", reasoning_content="hm"))
        assert conversation.turns == [Turn("assistant", [Text("so")])]
        assert dropped == ["messages[0].reasoning_content"]

    def test_reasoning_told_twice_is_kept_once(self) -> None:
        block = {"type": "thinking", "thinking": "hm", "signature": "s"}
        conversation, dropped = read(assistant("so", reasoning_content="hm", thinking_blocks=[block]))
        assert conversation.turns[0].parts == [Thinking("hm", "s"), Text("so")]
        assert dropped == []

    @pytest.mark.parametrize(
        "block",
        [
            {"type": "thinking", "thinking": "hm"},
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "redacted_thinking"},
            {"type": "redacted_thinking", "data": None},
        ],
    )
    def test_a_block_without_its_proof_is_told_as_dropped(self, block: Message) -> None:
        conversation, dropped = read(assistant("so", thinking_blocks=[block]))
        assert conversation.turns[0].parts == [Text("so")]
        assert dropped == ["messages[0].thinking_blocks[0]"]


class TestMedia:
    def test_an_image_by_data_uri(self) -> None:
        for image in (
            {"url": f"data:image/jpeg;base64,{PNG}", "detail": "low"},
            {"url": f"DATA:;base64,{PNG}", "detail": "low"},
        ):
            part = only(user([{"type": "image_url", "image_url": image, "cache_control": MARK}]))
            assert isinstance(part, Media)
            assert (part.kind, part.blob, part.url, part.detail, part.cache) == (
                "image",
                Blob("image/png", PNG),
                "",
                "low",
                MARK,
            )
            assert part.path.startswith("messages[0].content[0]")

    @pytest.mark.parametrize("detail", [{}, {"detail": None}, {"detail": "auto"}])
    def test_automatic_detail_is_no_wish(self, detail: Message) -> None:
        part = only(user([{"type": "image_url", "image_url": {"url": "https://example.com/a.png?x=1", **detail}}]))
        assert isinstance(part, Media)
        assert (part.url, part.detail, part.blob) == ("https://example.com/a.png?x=1", "", None)

    def test_an_image_may_be_a_bare_url(self) -> None:
        part = only(user([{"type": "image_url", "image_url": "HTTP://example.com/a"}]))
        assert isinstance(part, Media)
        assert part.url == "HTTP://example.com/a"

    @pytest.mark.parametrize(
        "url", ["file:///etc/passwd", "ftp://example.com/a", "gs://bucket/a", "a.png", "//host/a", "javascript:1"]
    )
    def test_other_schemes_are_refused(self, url: str) -> None:
        error = refusal(user([text("see"), {"type": "image_url", "image_url": {"url": url}}]))
        assert error.param == "messages[0].content[1].image_url.url"

    def test_a_broken_data_uri_is_refused_naming_its_field(self) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!!"}}
        assert refusal(user("a"), user([image])).param == "messages[1].content[0].image_url.url"

    @pytest.mark.parametrize(("given", "mime"), [("wav", "audio/wav"), ("mp3", "audio/mpeg"), ("flac", "audio/flac")])
    def test_sound(self, given: str, mime: str) -> None:
        data = base64.b64encode(b"\0\0\0\0").decode()
        part = only(user([{"type": "input_audio", "input_audio": {"data": data, "format": given}}]))
        assert isinstance(part, Media)
        assert (part.kind, part.blob) == ("audio", Blob(mime, data))

    def test_a_document_by_its_bytes_or_by_its_id(self) -> None:
        bare = {"file_data": PDF, "filename": "a.pdf"}
        as_uri = {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf", "file_id": None}
        for file in (bare, as_uri, as_uri | {"file_data": f"Data:;base64,{PDF}"}):
            part = only(user([{"type": "file", "file": file}]))
            assert isinstance(part, Media)
            assert (part.kind, part.blob, part.filename) == ("file", Blob("application/pdf", PDF), "a.pdf")
        part = only(user([{"type": "file", "file": {"file_id": "file_1"}}]))
        assert isinstance(part, Media)
        assert (part.file_id, part.blob) == ("file_1", None)

    def test_a_document_by_its_url(self) -> None:
        part = only(user([{"type": "file", "file": {"file_url": "https://papers.test/a.pdf", "filename": "A"}}]))
        assert part == Media("file", "messages[0].content[0].file", url="https://papers.test/a.pdf", filename="A")
        wrong = refusal(user([{"type": "file", "file": {"file_url": "file:///etc/passwd"}}]))
        assert wrong.param == "messages[0].content[0].file.file_url"

    @pytest.mark.parametrize("file", [{}, {"filename": "a.pdf"}, {"file_data": None, "file_id": None}])
    def test_a_document_that_is_nowhere_is_refused(self, file: Message) -> None:
        assert refusal(user([{"type": "file", "file": file}])).param == "messages[0].content[0].file"

    def test_an_unknown_part_is_refused_and_not_left_out(self) -> None:
        error = refusal(user([text("a"), {"type": "hologram"}]))
        assert (error.param, error.retry) == ("messages[0].content[1].type", Retry.NEXT)
