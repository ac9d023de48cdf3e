"""Own tools behind transforms: they get what a client's tools would, and the vendor gets what it may."""

from typing import Any

from gatehook import Call, Chunk, Completion, Document, InvalidRequest, Rewriter


def replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {name: replaced(one, old, new) for name, one in value.items()}
    if isinstance(value, list):
        return [replaced(one, old, new) for one in value]
    return value.replace(old, new) if isinstance(value, str) else value


class Hiding:
    """Vendors see "xx" for "secret"; says so in a message of its own. Its streams come at their end only."""

    async def transform(self, call: Call) -> Rewriter | None:
        if "forbidden" in str(call.payload["messages"]):
            raise InvalidRequest("that is forbidden")
        given = call.payload["messages"]
        hidden = replaced(given, "secret", "xx")
        call.body = Document({**call.payload, "messages": [{"role": "system", "content": "xx is hidden"}, *hidden]})
        return None if hidden == given else Showing()


class Showing:
    def __init__(self) -> None:
        self._held: list[Chunk] = []

    def completion(self, completion: Completion) -> Completion:
        return Completion(replaced(completion.data, "xx", "secret"), usage=completion.usage)

    def chunks(self, batch: Any) -> Any:
        self._held += (Chunk(replaced(one.data, "xx", "secret"), content=one.content) for one in batch)
        return []

    def rest(self) -> Any:
        held, self._held = self._held, []
        return held


def contents(sent: Any) -> list[Any]:
    return [one["content"] for one in sent["messages"]]


async def test_own_tools_get_what_clients_get_and_the_vendor_what_transforms_leave(kit: Any) -> None:
    tool = kit.Noting(does="the secret is out")
    replies = kit.calls("search", q="xx", text="looking for xx"), kit.answers("xx!")
    hide = kit.plugin(register_transforms=[Hiding()])
    async with kit.asking(*replies, tools=[tool], hide=hide) as ask:
        answer = await ask.chat(messages=[{"role": "user", "content": "a secret"}])
        first, second = ask.sent(0), ask.sent(1)
    assert [dict(run) for run in tool.runs] == [{"q": "secret"}]
    assert contents(first) == ["xx is hidden", "a xx"]
    assert contents(second) == ["xx is hidden", "a xx", "looking for xx", "the xx is out"]
    assert second["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"q": "xx"}'
    assert second["tools"] == first["tools"]
    assert answer["choices"][0]["message"]["content"] == "looking for secret\n\nsecret!"


async def test_the_same_in_a_stream_and_nothing_held_back_is_lost_between_the_rounds(kit: Any) -> None:
    tool = kit.Noting(does="the secret is out")
    begins = kit.begins("search", arguments='{"q": "xx"}')
    replies = kit.streams("looking for xx", begins, reason="tool_calls"), kit.streams("xx", "!")
    hide = kit.plugin(register_transforms=[Hiding()])
    async with kit.asking(*replies, tools=[tool], hide=hide) as ask:
        events = await ask.stream(messages=[{"role": "user", "content": "a secret"}])
        second = ask.sent(1)
    assert [dict(run) for run in tool.runs] == [{"q": "secret"}]
    assert contents(second) == ["xx is hidden", "a xx", "looking for xx", "the xx is out"]
    deltas = [choice["delta"] for one in events[:-1] for choice in one["choices"]]
    assert "".join(one.get("content") or "" for one in deltas) == "looking for secret\n\nsecret!"


async def test_a_stream_is_rewritten_from_where_a_tool_s_result_asks_for_it(kit: Any) -> None:
    tool = kit.Noting(does="the secret is out")
    replies = kit.streams("well", kit.begins("search", arguments='{"q": "a"}'), reason="tool_calls"), kit.streams("xx!")
    hide = kit.plugin(register_transforms=[Hiding()])
    async with kit.asking(*replies, tools=[tool], hide=hide) as ask:
        events = await ask.stream()
    deltas = [choice["delta"] for one in events[:-1] for choice in one["choices"]]
    assert "".join(one.get("content") or "" for one in deltas) == "well\n\nsecret!"


async def test_a_transform_may_refuse_what_came_of_a_tool(kit: Any) -> None:
    tool = kit.Noting(does="forbidden")
    hide = kit.plugin(register_transforms=[Hiding()])
    async with kit.asking(kit.calls("search"), tools=[tool], hide=hide) as ask:
        answer = await ask.chat(400)
        assert len(ask.stub.requests) == 1
    assert answer["error"]["message"] == "that is forbidden"
