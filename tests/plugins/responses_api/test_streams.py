"""Whatever deltas a vendor sends: the stream is well formed, and comes to what the plain answer is."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given
from hypothesis import strategies as st

from gatehook import Call, Chunk, Completion, Section, Tool, Usage, hookimpl
from gatehook_plugins.responses_api.sealing import sealed
from gatehook_plugins.responses_api.surface import ResponsesSurface

Object = dict[str, Any]
SURFACE = ResponsesSurface()
USAGE = Usage(3, 2)


def a_call(**more: Any) -> Call:
    call = Call("chat", "responses", {})
    raw = json.dumps({"model": "m", "input": "Hi", **more}).encode()
    SURFACE.parse(call, make_mocked_request("POST", "/v1/responses"), raw)
    return call


def streamed(deltas: Iterable[Object], reason: str = "stop", **more: Any) -> bytes:
    """The events that a stream of these deltas becomes; `logprobs` in one are its choice's."""
    call = a_call(stream=True, **more)
    out = bytearray()
    for one in deltas:
        delta = dict(one)
        logprobs = delta.pop("logprobs", None)
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        out += SURFACE.event(call, Chunk({"choices": [choice]}, content=True))
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    out += SURFACE.event(call, Chunk(end, finished=True))
    out += SURFACE.event(call, Chunk({"choices": [], "usage": USAGE.as_openai()}, usage=USAGE, usage_only=True))
    return bytes(out + SURFACE.end(call, None))


def plain(message: Object, reason: str = "stop", logprobs: Any = None) -> Object:
    """The response that an answer with this message becomes."""
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": logprobs}
    answer: Object = json.loads(SURFACE.answer(a_call(), Completion({"choices": [choice]}, usage=USAGE)))
    return answer


# --- any chunking --------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.text("abc_", min_size=1, max_size=6)
CALLS = st.lists(st.tuples(NAMES, WORDS), max_size=3)


@st.composite
def pieces(draw: Any, text: str) -> list[str]:
    """A text, cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def cited(url: str, **more: Any) -> Object:
    """A page, as chats name it."""
    page = {"url": url, "title": "t", "start_index": 0, "end_index": 1}
    return {"type": "url_citation", "url_citation": page | more}


@st.composite
def answers(draw: Any) -> tuple[Object, list[Object]]:
    """A message, and deltas that come to it: in the usual order, those of several calls mingled."""
    thought, text, refusal, calls = draw(WORDS), draw(WORDS), draw(WORDS), draw(CALLS)
    blocks = [{"type": "thinking", "thinking": thought, "signature": "s"}] if draw(st.booleans()) else []
    pages = [cited(url) for url in draw(st.lists(NAMES, max_size=2))] if text else []
    deltas: list[Object] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in draw(pieces(thought))]
    deltas += [{"thinking_blocks": [{**block, "index": number}]} for number, block in enumerate(blocks)]
    deltas += [{"content": piece} for piece in draw(pieces(text))]
    deltas += [{"annotations": [page]} for page in pages]
    deltas += [{"refusal": piece} for piece in draw(pieces(refusal))]
    rows = []
    for index, (name, arguments) in enumerate(calls):
        begun = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [begun]})
        rows.append([{"index": index, "function": {"arguments": piece}} for piece in draw(pieces(arguments))])
    waiting = [row for row in rows if row]
    while waiting:
        row = draw(st.sampled_from(waiting))
        deltas.append({"tool_calls": [row.pop(0)]})
        waiting = [row for row in waiting if row]
    message: Object = {"role": "assistant", "content": text or None}
    message |= {"reasoning_content": thought} if thought else {}
    message |= {"thinking_blocks": blocks} if blocks else {}
    message |= {"refusal": refusal} if refusal else {}
    message |= {"annotations": pages} if pages else {}
    message["tool_calls"] = [
        {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
    return message, deltas


@given(answers(), st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
def test_any_chunking_comes_to_the_plain_answer(
    read_events: Any, followed: Any, bare: Any, answer: tuple[Object, list[Object]], reason: str
) -> None:
    message, deltas = answer
    response = followed(read_events(streamed(deltas, reason)))
    assert bare(response) == bare(plain(message, reason))
    calls = [item["call_id"] for item in response["output"] if item["type"] == "function_call"]
    assert calls == [call["id"] for call in message["tool_calls"]]


DELTAS = st.lists(
    st.one_of(
        st.builds(lambda text: {"content": text}, WORDS),
        st.builds(lambda text: {"reasoning_content": text}, WORDS),
        st.builds(lambda text: {"refusal": text}, WORDS),
        st.builds(lambda place, name: {"tool_calls": [{"index": place, "function": {"name": name}}]},
                  st.integers(0, 2), NAMES),
        st.builds(lambda place, text: {"tool_calls": [{"index": place, "function": {"arguments": text}}]},
                  st.integers(0, 2), WORDS),
        st.just({"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}, "junk"]}),
        st.just({"extra_content": {"google": {"thought_signature": "x"}}}),
    ),
    max_size=12,
)  # fmt: skip


@given(DELTAS)
@example([{"tool_calls": [{"index": 1, "function": {"arguments": "{"}}]}, {"content": "x"}, {"reasoning_content": "y"}])
def test_any_order_is_a_well_formed_stream_that_loses_nothing(
    read_events: Any, followed: Any, deltas: Sequence[Object]
) -> None:
    output = followed(read_events(streamed(deltas, "length")))["output"]
    parts = [part for item in output if item["type"] == "message" for part in item["content"]]
    thoughts = [part for item in output if item["type"] == "reasoning" for part in item["summary"]]
    for name, found in (
        ("content", [part["text"] for part in parts if part["type"] == "output_text"]),
        ("refusal", [part["refusal"] for part in parts if part["type"] == "refusal"]),
        ("reasoning_content", [part["text"] for part in thoughts]),
    ):
        assert "".join(found) == "".join(delta.get(name) or "" for delta in deltas if name in delta)
    said: dict[int, str] = {}
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", ())):
        said[piece["index"]] = said.get(piece["index"], "") + piece["function"].get("arguments", "")
    called = [item["arguments"] for item in output if item["type"] == "function_call"]
    assert [one if one != "{}" else "" for one in called] == [one if one != "{}" else "" for one in said.values()]


# --- single cases --------------------------------------------------------------------------------------------------


def test_nothing_goes_out_twice_or_late(read_events: Any) -> None:
    call = a_call(stream=True)

    def events(delta: Object) -> list[str]:
        framed = SURFACE.event(call, Chunk({"choices": [{"index": 0, "delta": delta}]}))
        return [block.split("\n")[0].removeprefix("event: response.") for block in framed.decode().split("\n\n")[:-1]]

    assert events({"role": "assistant", "content": ""}) == ["created", "in_progress"]
    assert events({"content": "a"}) == ["output_item.added", "content_part.added", "output_text.delta"]
    assert events({"content": "b"}) == ["output_text.delta"]
    first = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}
    assert events({"tool_calls": [first]}) == ["output_text.done", "content_part.done", "output_item.done"]
    more = {"index": 0, "function": {"arguments": "{"}}
    assert events({"tool_calls": [more]}) == ["output_item.added", "function_call_arguments.delta"]
    assert events({"tool_calls": [more]}) == ["function_call_arguments.delta"]


def test_a_name_in_pieces_is_told_whole(read_events: Any, followed: Any) -> None:
    names = [{"index": 0, "id": "c", "function": {"name": "get_"}}, {"index": 0, "function": {"name": "weather"}}]
    events = read_events(streamed([{"tool_calls": [one]} for one in names], "tool_calls"))
    assert [one["item"]["name"] for one in events if "item" in one] == ["get_weather"] * 2
    assert followed(events)["output"][0]["arguments"] == "{}"


def test_a_call_with_any_text_is_an_item_of_its_own_kind(bare: Any, read_events: Any, followed: Any) -> None:
    first = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "patch", "input": ""}}
    more = [{"index": 0, "custom": {"input": piece}} for piece in ("*** Be", "gin")]
    response = followed(read_events(streamed([{"tool_calls": [one]} for one in (first, *more)], "tool_calls")))
    (item,) = response["output"]
    assert (item["type"], item["call_id"], item["name"]) == ("custom_tool_call", "c", "patch")
    assert (item["input"], item["status"]) == ("*** Begin", "completed")
    whole = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    assert bare(plain({"content": None, "tool_calls": [whole]}, "tool_calls")) == bare(response)


def test_calls_that_are_not_numbered_are_told_apart_by_their_ids(read_events: Any, followed: Any) -> None:
    deltas = [{"tool_calls": [{"id": key, "function": {"name": "f", "arguments": key}}]} for key in ("c1", "c2")]
    output = followed(read_events(streamed(deltas, "tool_calls")))["output"]
    assert [(item["call_id"], item["arguments"]) for item in output] == [("c1", "c1"), ("c2", "c2")]
    message = {"tool_calls": [{"id": "", "function": {"name": "f", "arguments": {"a": 1}}}] * 2}
    first, second = plain(message, "tool_calls")["output"]
    assert first["arguments"] == second["arguments"] == '{"a":1}'
    assert first["call_id"] != second["call_id"]
    assert first["call_id"].startswith("call_")


def test_both_names_of_reasoning_are_known_and_mistrals_parts(bare: Any, read_events: Any, followed: Any) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    parts = [thinking, {"type": "text", "text": "So."}]
    one = plain({"content": "So.", "reasoning": "Hm."})
    two = plain({"content": parts})
    three = followed(read_events(streamed([{"content": [part]} for part in parts])))
    assert bare(one) == bare(two) == bare(three)
    assert [item["type"] for item in one["output"]] == ["reasoning", "message"]


def test_half_an_emoji_in_each_of_two_events_comes_whole_at_the_end() -> None:
    body = streamed([{"content": "\ud83d"}, {"content": "\ude00"}])
    events = [json.loads(block.partition(b"data: ")[2]) for block in body.split(b"\n\n") if block]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "😀"


def test_log_probabilities_are_told_with_the_text(bare: Any, read_events: Any, followed: Any) -> None:
    top = [{"token": "H", "logprob": -0.5, "bytes": [72]}, {"token": "x", "logprob": -2.0, "bytes": None}]
    first = {"content": [{"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": top}], "refusal": None}
    second = {"content": [{"token": "i", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}
    events = read_events(streamed([{"content": "H", "logprobs": first}, {"content": "i", "logprobs": second}]))
    response = followed(events)
    (part,) = response["output"][0]["content"]
    assert part["text"] == "Hi"
    assert part["logprobs"] == [
        {"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": [top[0], {**top[1], "bytes": []}]},
        {"token": "i", "logprob": -1.0, "bytes": [], "top_logprobs": []},
    ]
    both = {"content": [*first["content"], *second["content"]]}  # type: ignore[misc]
    assert bare(plain({"content": "Hi"}, logprobs=both)) == bare(response)
    told = [one["logprobs"] for one in events if one["type"] == "response.output_text.delta"]
    assert told == [part["logprobs"][:1], part["logprobs"][1:]]


def test_pages_that_an_answer_cites_are_told_with_its_text(bare: Any, read_events: Any, followed: Any) -> None:
    pages = [cited("https://a.example"), {"url_citation": {"url": "https://b.example", "content": "of it"}}]
    deltas: list[Object] = [{"content": "Hi"}, {"content": ".", "annotations": pages[:1]}, {"annotations": pages[1:]}]
    events = read_events(streamed(deltas))
    response = followed(events)
    (part,) = response["output"][0]["content"]
    assert part["annotations"] == [
        {"type": "url_citation", "url": "https://a.example", "title": "t", "start_index": 0, "end_index": 1},
        {"type": "url_citation", "url": "https://b.example", "title": "", "start_index": 0, "end_index": 0},
    ]
    told = [event["annotation"] for event in events if event["type"] == "response.output_text.annotation.added"]
    assert told == part["annotations"]
    assert bare(plain({"content": "Hi.", "annotations": pages})) == bare(response)
    first = followed(read_events(streamed([{"refusal": "No."}, {"annotations": pages[:1]}])))["output"][0]["content"]
    assert [(part["type"], len(part.get("annotations", ()))) for part in first] == [("refusal", 0), ("output_text", 1)]


@pytest.mark.parametrize("odd", ["x", [None], [{"type": "file", "file": {}}], [{"url_citation": {"url": 5}}], {}, 5])
def test_what_are_no_pages_is_left_out(odd: Any, bare: Any, read_events: Any, followed: Any) -> None:
    response = followed(read_events(streamed([{"content": "a", "annotations": odd}])))
    assert response["output"][0]["content"][0]["annotations"] == []
    assert bare(plain({"content": "a", "annotations": odd})) == bare(response)


@pytest.mark.parametrize("odd", [{"content": [None]}, {"content": [{"token": "x"}]}, [], {"content": "x"}, 5])
def test_what_are_no_log_probabilities_are_left_out(odd: Any, bare: Any, read_events: Any, followed: Any) -> None:
    response = followed(read_events(streamed([{"content": "a", "logprobs": odd}])))
    assert response["output"][0]["content"][0]["logprobs"] == []
    assert bare(plain({"content": "a"}, logprobs=odd)) == bare(response)


def test_log_probabilities_may_come_behind_their_text(read_events: Any, followed: Any) -> None:
    late = {"content": [{"token": "H", "logprob": -0.5, "top_logprobs": []}]}
    (item,) = followed(read_events(streamed([{"content": "H"}, {"content": "", "logprobs": late}])))["output"]
    assert (item["content"][0]["text"], len(item["content"][0]["logprobs"])) == ("H", 1)


def test_a_proof_without_words_is_no_empty_message(bare: Any, read_events: Any, followed: Any) -> None:
    proof = {"google": {"thought_signature": "x"}}
    first = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    deltas: list[Object] = [{"content": "", "extra_content": proof}, {"tool_calls": [first]}]
    thought, called = followed(read_events(streamed(deltas, "tool_calls")))["output"]
    assert (thought["type"], thought["summary"], thought["extra_content"]) == ("reasoning", [], proof)
    assert called["type"] == "function_call"
    (said,) = plain({"content": "Hi", "extra_content": proof})["output"]
    assert (said["type"], said["extra_content"]) == ("message", proof)


def test_a_signature_without_words_is_an_item_too(read_events: Any, followed: Any) -> None:
    block = {"type": "redacted_thinking", "data": "x"}
    thought, said = followed(read_events(streamed([{"thinking_blocks": [block]}, {"content": "Hi"}])))["output"]
    assert (thought["summary"], thought["encrypted_content"]) == ([], sealed([block]))
    assert said["content"][0]["text"] == "Hi"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_decision_about_calls_is_asked_for_beside_the_other_fields(
    api: Any, mock: Any, tmp_path: Any, stream: bool
) -> None:
    settings = f"""
    [database]
    url = "sqlite:///{tmp_path}/a.db"
    secret = "a secret of more than thirty-two letters, for tests"
    [plugins.database]
    [plugins.tool_policy]
    rules = [{{ tool = "delete_*", verdict = "confirm" }}]
    {mock('text = "Shall I?", tool_calls = [{ name = "delete_all", id = "call_1" }]')}
    """
    tools = [{"type": "function", "name": "delete_all", "parameters": {"type": "object", "properties": {}}}]
    async with api(settings) as it:
        response = (await it.ask(stream=stream, tools=tools)).response
        assert (response["status"], [item["type"] for item in response["output"]]) == ("completed", ["message"])
        assert [one["id"] for one in response["pending_tool_calls"]] == ["call_1"]
        body = {"session_id": response["session_id"], "approved_ids": ["call_1"]}
        async with it.http.post(f"{it.url}/v1/tools/confirm", json=body) as answer:
            assert answer.status == 200


class Clock:
    """A tool of the gateway's own."""

    name = "clock"
    description = "Tells the time."
    parameters: ClassVar[Object] = {"type": "object", "properties": {}}

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        return "noon"


class Clocks:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        return [Clock()]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_that_the_gateway_runs_are_not_seen(api: Any, mock: Any, stream: bool) -> None:
    calling = 'reasoning = "First.", text = "Let me see.", tool_calls = [{ name = "clock", id = "c" }]'
    script = f'script = [{{ {calling} }}, {{ reasoning = "Then.", text = "It is noon." }}]'
    async with api(f"[plugins.clocks]\n{mock(script)}", plugins={"clocks": Clocks}) as it:
        response = (await it.ask(stream=stream)).response
    parts = [part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]]
    assert "\n\n".join(part.strip("\n") for part in parts) == "Let me see.\n\nIt is noon."
    assert not [item for item in response["output"] if item["type"] == "function_call"]
    assert response["usage"]["output_tokens"] > 4
