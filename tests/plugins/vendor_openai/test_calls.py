"""Tool calls of servers that number, name or identify them in their own way: clients can put each of them together."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gatehook.testing import splits

Ask = Callable[..., Any]
Make = Callable[..., Any]

ARGUMENTS = '{"city": "Köln"}'
HALVES = (ARGUMENTS[:7], ARGUMENTS[7:])


def piece(arguments: Any = None, name: str = "", **fields: Any) -> dict[str, Any]:
    """A fragment of a call, with those fields that are given."""
    function = {**({"name": name} if name else {}), **({} if arguments is None else {"arguments": arguments})}
    return {**fields, "function": function}


def pieces(call_id: str, name: str, ids: Sequence[str] = (), **fields: Any) -> list[dict[str, Any]]:
    """A call in three fragments; `ids` are those that the last two have."""
    first = piece("", name, id=call_id, type="function", **fields)
    later = [{"id": one} for one in ids] or [{}, {}]
    return [first, *(piece(half, **also, **fields) for half, also in zip(HALVES, later, strict=True))]


ONE = [("call_1", "f", ARGUMENTS)]
TWO = [*ONE, ("call_2", "f", ARGUMENTS)]
STREAMS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str, str]]]] = {
    "as OpenAI writes them": ([*pieces("call_1", "f", index=0), *pieces("call_2", "f", index=1)], TWO),
    "all with the index 0": ([*pieces("call_1", "f", index=0), *pieces("call_2", "f", index=0)], TWO),
    "whole, all with the index 0": (
        [piece(ARGUMENTS, "f", id=one, type="function", index=0) for one in ("call_1", "call_2")], TWO),
    "counted from 1": ([*pieces("call_1", "f", index=1), *pieces("call_2", "f", index=2)], TWO),
    "counted with gaps": ([*pieces("call_1", "f", index=1), *pieces("call_2", "f", index=7)], TWO),
    "counted from -1": (pieces("call_1", "f", index=-1), ONE),
    "without an index": ([*pieces("call_1", "f"), *pieces("call_2", "f")], TWO),
    "with null for an index": ([*pieces("call_1", "f", index=None), *pieces("call_2", "f", index=None)], TWO),
    "its id in every fragment": (pieces("call_1", "f", ("call_1", "call_1"), index=0), ONE),
    "another id in every fragment": (pieces("call_1", "f", ("r2", "r3"), index=0), ONE),
    "an empty id in every fragment": (pieces("call_1", "f", ("", ""), index=0), ONE),
    "the id after the name": (
        [piece("", "f", index=0), piece(ARGUMENTS, index=0, id="call_1")], ONE),
    "a number for an id": ([piece(ARGUMENTS, "f", id=0, index=0)], [("0", "f", ARGUMENTS)]),
    "arguments as an object": ([piece({"city": "Köln"}, "f", id="call_1", index=0)], ONE),
}  # fmt: skip


def told(chunks: Sequence[Any]) -> list[tuple[str, str, Any]]:
    """The calls as the official SDKs put them together: in their order, texts joined, without gaps."""
    calls: list[dict[str, str]] = []
    for chunk in chunks:
        for choice in json.loads(chunk.raw)["choices"]:
            for one in choice["delta"].get("tool_calls") or ():
                assert 0 <= one["index"] <= len(calls)
                if one["index"] == len(calls):
                    calls.append({"id": "", "name": "", "arguments": ""})
                fields = {"id": one.get("id"), **one["function"]}
                for name, text in fields.items():
                    calls[one["index"]][name] += text or ""
    return [(call["id"], call["name"], json.loads(call["arguments"])) for call in calls]


@pytest.mark.parametrize("name", STREAMS)
async def test_calls_are_put_together_however_a_server_numbers_them(
    stream: Ask, event: Make, sse: Make, name: str
) -> None:
    fragments, expected = STREAMS[name]
    deltas = [event({"tool_calls": [one]}) for one in fragments]
    body = sse(event({"role": "assistant", "content": None}), *deltas, event({}, "stop"))
    whole = [(call_id, called, json.loads(arguments)) for call_id, called, arguments in expected]
    for cut in [[body], *splits(body)][::5]:
        run = await stream(cut)
        assert run.error is None
        assert told(run.chunks) == whole
        assert run.chunks[-1].data["choices"][0]["finish_reason"] == "tool_calls"


async def test_calls_without_number_and_id_are_each_their_own(stream: Ask, event: Make, sse: Make) -> None:
    """Servers that do so send each call at once."""
    calls = [event({"tool_calls": [piece("{}", name)]}) for name in ("f", "g", "f")]
    run = await stream(sse(event({"role": "assistant"}), *calls, event({}, "tool_calls")))
    assert [name for _, name, _ in told(run.chunks)] == ["f", "g", "f"]
    assert len({call_id for call_id, _, _ in told(run.chunks)} - {""}) == 3


@pytest.mark.parametrize("together", [False, True])
async def test_names_in_pieces_of_several_choices(stream: Ask, event: Make, sse: Make, together: bool) -> None:
    def both(*deltas: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        made = [event({"tool_calls": [one]} if one else {}, finish, index=index) for index, one in enumerate(deltas)]
        return [{**made[0], "choices": [one["choices"][0] for one in made]}] if together else made

    def first(call_id: str, name: str) -> dict[str, Any]:
        return piece("", name, index=0, id=call_id, type="function")

    body = sse(
        *both(first("a", "get_"), first("b", "lo")),
        *both(piece(None, "wea", index=0), piece(None, "ok", index=0)),
        event({"tool_calls": [piece(None, "ther", index=0)]}),
        *both(piece(ARGUMENTS, index=0), piece("{}", index=0)),
        *both({}, {}, finish="tool_calls"),
    )
    for cut in splits(body):
        run = await stream(cut)
        calls = {index: choice["tools"] for index, choice in run.answer["choices"].items()}
        assert calls == {
            0: {0: {"id": "a", "name": "get_weather", "arguments": ARGUMENTS}},
            1: {0: {"id": "b", "name": "look", "arguments": "{}"}},
        }
        assert run.answer["content"] == (3 if together else 4)


@pytest.mark.parametrize(
    ("arguments", "text"), [({"a": 1}, '{"a":1}'), ([], "[]"), (None, "{}"), ("", "{}"), ('{"a": 1}', '{"a": 1}')]
)
@pytest.mark.parametrize("call_id", ["call_1", "", 0, None])
async def test_a_whole_call_has_an_id_and_its_arguments_as_text(
    ask: Ask, arguments: Any, text: str, call_id: Any
) -> None:
    call = piece(arguments, "f", type="function", **({} if call_id is None else {"id": call_id}))
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    run = await ask(answer={"id": "x", "model": "upstream-model", "choices": [choice]})
    (made,) = run.data["choices"][0]["message"]["tool_calls"]
    assert made["function"] == {"name": "f", "arguments": text}
    assert made["id"] == str(call_id) if call_id not in ("", None) else made["id"].startswith("call_")


async def test_a_call_without_a_type_is_one_of_a_function(stream: Ask, ask: Ask, event: Make, sse: Make) -> None:
    """Mistral leaves it out."""
    call = piece("{}", "f", id="c")
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
    (whole,) = (await ask(answer={"choices": [choice]})).data["choices"][0]["message"]["tool_calls"]
    run = await stream(sse(event({"role": "assistant", "tool_calls": [{**call, "index": 0}]}, "tool_calls")))
    (streamed,) = run.chunks[0].data["choices"][0]["delta"]["tool_calls"]
    assert whole == {**call, "type": "function"}
    assert streamed == {**call, "index": 0, "type": "function"}


async def test_a_type_that_is_null_in_later_fragments_is_not_told(stream: Ask, event: Make, sse: Make) -> None:
    """The official SDK takes the last type that it is told, and fails."""
    first = piece("", "f", index=0, id="c", type="function")
    later = [{**piece(half, index=0), "id": None, "type": None} for half in HALVES]
    body = sse(*(event({"role": None, "tool_calls": [one]}) for one in (first, *later)), event({}, "tool_calls"))
    for cut in splits(body):
        deltas = [chunk.data["choices"][0]["delta"] for chunk in (await stream(cut)).chunks]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert [call.get("type", "none") for call in calls] == ["function", "none", "none"]
        assert "".join(call["function"]["arguments"] for call in calls) == ARGUMENTS


@pytest.mark.parametrize("begun", ["", None])
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
async def test_calls_without_arguments_have_empty_ones_in_the_end(
    stream: Ask, event: Make, sse: Make, begun: str | None, finish: str
) -> None:
    said = [
        piece(begun, "now", index=0, id="a", type="function"),
        piece(begun, "look", index=1, id="b", type="function"),
        piece(ARGUMENTS, index=1),
        piece(begun, "here", index=2, id="c", type="function"),
        {"index": 3, "id": "d", "type": "custom", "custom": {"name": "say", "input": ""}},
    ]
    body = sse(*(event({"role": "assistant", "tool_calls": [one]}) for one in said), event({}, finish))
    for cut in splits(body):
        run = await stream(cut)
        calls = run.answer["choices"][0]["tools"]
        assert [call["arguments"] for call in calls.values()] == ["{}", ARGUMENTS, "{}", ""]
        assert run.answer["choices"][0]["finish"] == "tool_calls"


async def test_a_call_that_is_cut_before_its_arguments_has_none(stream: Ask, event: Make, sse: Make) -> None:
    begun = event({"role": "assistant", "tool_calls": [piece("", "f", index=0, id="c", type="function")]})
    run = await stream(sse(begun, event({}, "length")))
    assert run.answer["choices"][0]["tools"][0]["arguments"] == ""


@pytest.mark.parametrize(
    "said",
    [
        {"tool_calls": "f"},
        {"tool_calls": {"f": {}}},
        {"tool_calls": [None]},
        {"tool_calls": [{"id": "c", "function": "f"}]},
        {"tool_calls": [{"id": "c", "function": {"name": 7, "arguments": "{}"}}]},
        {"tool_calls": [{"id": ["c"], "function": {"name": "f", "arguments": "{}"}}]},
        {"function_call": "f"},
    ],
)
async def test_calls_that_are_none_are_an_upstream_failure(
    ask: Ask, stream: Ask, event: Make, sse: Make, said: dict[str, Any]
) -> None:
    """What looks into calls, a tool policy or a tool of the gateway's own, would fail on them."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **said}, "finish_reason": "tool_calls"}
    whole = await ask(answer={"id": "x", "model": "upstream-model", "choices": [choice]})
    run = await stream(sse(event({"role": "assistant", "content": "A"}), event(said), event({}, "tool_calls")))
    assert [one.error.code for one in (whole, run)] == ["upstream_malformed"] * 2
    assert [chunk.data["choices"][0]["delta"]["content"] for chunk in run.chunks] == ["A"]


async def test_calls_in_order_keep_their_bytes(stream: Ask, ask: Ask, event: Make, sse: Make) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    custom = {"index": 1, "id": "d", "type": "custom", "custom": {"name": "g", "input": "x"}}
    odd = json.dumps(event({"role": "assistant", "tool_calls": [call, custom]}), indent=None, separators=(", ", ":"))
    run = await stream(sse(odd, event({}, "tool_calls")))
    assert run.chunks[0].raw == odd.replace("upstream-model", "public").encode()
    message = {"role": "assistant", "tool_calls": [call, custom]}
    whole = json.dumps(
        {"id": "x", "model": "public", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    )
    assert (await ask(answer=whole.encode())).completion.raw == whole.encode()
