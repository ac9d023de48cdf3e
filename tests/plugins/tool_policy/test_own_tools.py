"""The gateway's own tools under the policy: asked about, run once approved, and the model goes on with the result."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from gatehook import Call, Section, Tool, hookimpl

House = Any
Vendor = Any
Keys = Any

RULES = 'rules = [{ tool = "launch", verdict = "confirm" }]'


class Launch:
    """Notes what it was run with."""

    name = "launch"
    description = "Launches something."
    parameters: Mapping[str, Any] = {
        "type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"],
    }  # fmt: skip

    def __init__(self, runs: list[tuple[str, Mapping[str, Any]]]) -> None:
        self._runs = runs

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        self._runs.append((call.principal.id, arguments))
        return f"launched {arguments['what']}"


@pytest.fixture
def runs() -> list[tuple[str, Mapping[str, Any]]]:
    return []


@pytest.fixture
def launcher(runs: Any, tmp_path: Any, opened_house: Any) -> Callable[..., Any]:
    """Opens a gateway that has the tool."""

    class Plugin:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_tools(self) -> Iterable[Tool]:
            return [Launch(runs)]

    def enter(*replies: Any, policy: str = RULES, more: str = "") -> Any:
        database = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
        more += "[plugins.launcher]\n"
        return opened_house(*replies, policy=policy, database=database, more=more, plugins={"launcher": Plugin})

    return enter


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tools", [None, "the client's"])
async def test_an_approved_call_is_run_and_the_model_goes_on(
    launcher: Any, vendor: Vendor, runs: Any, tools: Any, stream: bool
) -> None:
    make = vendor.streamed if stream else vendor.plain
    own = vendor.call("launch", {"what": "the boat"})
    fields = {"tools": None} if tools is None else {}
    async with launcher(make(own, text="Shall I? "), make(text="It is launched.")) as at:
        answer = await at.chat(stream=stream, **fields)
        shown = answer.events[-2] if stream else answer.json
        assert shown["pending_tool_calls"] == [own]
        assert (runs, len(at.stub.requests)) == ([], 1)
        final = await at.confirm(shown["session_id"], "call_1", stream=stream)
    assert (final.text if stream else final.json["choices"][0]["message"]["content"]) == "It is launched."
    assert [arguments for _, arguments in runs] == [{"what": "the boat"}]
    first, second = (one.json for one in at.stub.requests)
    turn, told = second["messages"][-2:]
    assert (turn["content"], turn["tool_calls"]) == ("Shall I? ", [own])
    assert told == {"role": "tool", "tool_call_id": "call_1", "content": "launched the boat"}
    assert second["tools"] == first["tools"]
    assert [one["function"]["name"] for one in first["tools"]].count("launch") == 1


async def test_a_refused_call_is_not_run(launcher: Any, vendor: Vendor, runs: Any) -> None:
    own = vendor.call("launch", {"what": "the boat"})
    async with launcher(vendor.plain(own), vendor.plain(text="Then not.")) as at:
        answer = await at.deny(await at.asked(), reason="storm")
    assert answer.json["choices"][0]["message"]["content"] == "Then not."
    assert runs == []
    assert at.stub.requests[1].json["messages"][-1]["content"].endswith("They said: storm")


async def test_edited_arguments_are_what_it_is_run_with_for_the_user_who_asked(
    launcher: Any, vendor: Vendor, runs: Any, keys: Keys
) -> None:
    calls = vendor.call("launch", {"what": "the boat"}, id="a"), vendor.call("launch", {"what": "a rocket"}, id="b")
    async with launcher(vendor.plain(*calls), vendor.plain(text="well")) as at:
        session = await at.asked()
        wrong = await at.confirm(session, "a", arguments={"a": {"what": 7}}, key=keys.admin)
        answer = await at.confirm(session, "a", arguments={"a": {"what": "a kite"}}, key=keys.admin)
        asked = (await at.audit())[0]
    assert (wrong.status, answer.status) == (400, 200)
    assert runs == [(asked[0], {"what": "a kite"})]
    first, second = at.stub.requests[1].json["messages"][-2:]
    assert (first["tool_call_id"], first["content"]) == ("a", "launched a kite")
    assert (second["tool_call_id"], "did not allow" in second["content"]) == ("b", True)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_is_allowed_runs_without_a_question(
    launcher: Any, vendor: Vendor, runs: Any, stream: bool
) -> None:
    make = vendor.streamed if stream else vendor.plain
    replies = make(vendor.call("launch", {"what": "it"})), make(text="Done.")
    async with launcher(*replies, policy="") as at:
        answer = await at.chat(stream=stream)
        assert await at.pending() == []
    assert (answer.text if stream else answer.json["choices"][0]["message"]["content"]) == "Done."
    assert len(runs) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_its_invalid_calls_are_told_and_then_asked_about(
    launcher: Any, vendor: Vendor, runs: Any, stream: bool
) -> None:
    make = vendor.streamed if stream else vendor.plain
    own = vendor.call("launch", {"what": "the boat"}, id="b")
    async with launcher(make(vendor.call("launch", "{}"), text="Hm. "), make(own), make(text="Done.")) as at:
        answer = await at.chat(stream=stream)
        shown = answer.events[-2] if stream else answer.json
        assert shown["pending_tool_calls"] == [own]
        assert (await at.confirm(shown["session_id"], "b", stream=stream)).status == 200
    assert len(runs) == 1
    assert [one["role"] for one in at.stub.requests[2].json["messages"]] == [
        "user", "assistant", "tool", "assistant", "tool",
    ]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_the_question_after_a_round_holds_the_words_of_its_own_turn_only(
    launcher: Any, vendor: Vendor, runs: Any, stream: bool
) -> None:
    """What was said before stands in the conversation already."""
    rules = 'rules = [{ tool = "delete_*", verdict = "confirm" }]'
    make = vendor.streamed if stream else vendor.plain
    thought = {} if stream else {"reasoning_content": "Hm."}
    first = make(vendor.call("launch", {"what": "it"}), text="One.", **thought)
    replies = first, make(vendor.call("delete_city"), text="Two.", **thought)
    async with launcher(*replies, make(text="Three."), policy=rules) as at:
        answer = await at.chat(stream=stream)
        assert (answer.text if stream else answer.json["choices"][0]["message"]["content"]) == "One.\n\nTwo."
        shown = answer.events[-2] if stream else answer.json
        await at.deny(shown["session_id"], stream=stream)
    assert len(runs) == 1
    turns = [one for one in at.stub.requests[2].json["messages"] if one["role"] == "assistant"]
    assert [one["content"] for one in turns] == ["One.", "Two."]
    assert [one.get("reasoning_content") for one in turns] == [None if stream else "Hm."] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_is_denied_is_not_shown_and_not_run(
    launcher: Any, vendor: Vendor, runs: Any, stream: bool
) -> None:
    make = vendor.streamed if stream else vendor.plain
    rules = 'rules = [{ tool = "launch", verdict = "deny" }]'
    async with launcher(make(vendor.call("launch", {"what": "it"})), policy=rules) as at:
        answer = await at.chat(stream=stream, tools=None)
        assert "tools" not in at.stub.requests[0].json
    error = answer.events[-1]["error"] if stream else answer.error
    assert error["code"] == "tool_call_denied"
    assert runs == []
