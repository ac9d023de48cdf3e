"""Calls that break the tool's schema: told to the model, refused, or passed, before anybody is asked."""

from typing import Any

import pytest

from gatehook import LEDGER

House = Any
OpenHouse = Any
Vendor = Any

LEDGER_ON = '[plugins.ledger]\ndirectory = "{}"\nflush_interval = 0.01\n'


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_is_told_and_goes_on(bare_house: OpenHouse, vendor: Vendor, stream: bool) -> None:
    make = vendor.streamed if stream else vendor.plain
    wrong, good = vendor.call("get_weather", {"town": "Rome"}, id="a"), vendor.call("get_weather", id="b")
    replies = (make(wrong, text="Let me see. "), make(good, text="Again."))
    async with bare_house(*replies, policy="") as at:
        fields = {"stream_options": {"include_usage": True}} if stream else {}
        answer = await at.chat(stream=stream, **fields)
    assert answer.status == 200
    assert b"town" not in answer.body
    first, second = (one.json["messages"] for one in at.stub.requests)
    assert second[:-2] == first
    turn, told = second[-2:]
    assert (turn["content"], turn["tool_calls"]) == ("Let me see. ", [wrong])
    assert told == {
        "role": "tool",
        "tool_call_id": "a",
        "content": "The call is invalid, and was not made: the arguments: 'city' is a required property",
    }
    if not stream:
        assert answer.json["choices"][0]["message"]["tool_calls"] == [good]
        assert answer.json["usage"]["total_tokens"] == 30
        return
    chunks = answer.events[:-1]
    assert answer.text == "Let me see. Again."
    assert len({(one["id"], one["created"], one["model"]) for one in chunks}) == 1
    assert [choice["delta"]["role"] for one in chunks for choice in one["choices"] if "role" in choice["delta"]] == [
        "assistant"
    ]
    reasons = [choice["finish_reason"] for one in chunks for choice in one["choices"] if choice["finish_reason"]]
    assert reasons == ["tool_calls"]
    assert [one["usage"]["total_tokens"] for one in chunks if one.get("usage")] == [30]
    assert chunks[-1]["choices"] == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_does_not_learn_is_given_up(bare_house: OpenHouse, vendor: Vendor, stream: bool) -> None:
    make = vendor.streamed if stream else vendor.plain
    async with bare_house(make(vendor.call("get_weather", "{}")), policy="retries = 1") as at:
        answer = await at.chat(stream=stream)
    error = answer.events[-1]["error"] if stream else answer.error
    assert answer.status == (200 if stream else 502)
    assert (error["code"], len(at.stub.requests)) == ("tool_call_invalid", 2)
    assert error["message"].endswith("'get_weather' is invalid: the arguments: 'city' is a required property")


async def test_the_other_calls_of_the_turn_are_told_to_be_called_again(bare_house: OpenHouse, vendor: Vendor) -> None:
    calls = vendor.call("get_weather", id="a"), vendor.call("get_weather", "{", id="b")
    async with bare_house(vendor.plain(*calls), vendor.plain(text="well"), policy="") as at:
        assert (await at.chat()).status == 200
    *_, one, two = at.stub.requests[1].json["messages"]
    assert (one["tool_call_id"], two["tool_call_id"]) == ("a", "b")
    assert one["content"].startswith("Not run: another call of this turn was wrong")
    assert "not valid JSON" in two["content"]


async def test_nobody_is_asked_about_an_invalid_call(house: OpenHouse, vendor: Vendor) -> None:
    replies = vendor.plain(vendor.call("delete_city", "{}")), vendor.plain(vendor.call("delete_city"))
    async with house(*replies) as at:
        session = await at.asked()
        assert [one["session_id"] for one in await at.pending()] == [session]
        assert [action for _, action, _, _ in await at.audit()] == ["tool.return", "tool.ask"]
        answer = await at.confirm(session, "call_1")
    assert answer.json["choices"][0]["message"]["tool_calls"] == [vendor.call("delete_city")]
    assert len(at.stub.requests) == 2


@pytest.mark.parametrize(("invalid", "status"), [("refuse", 502), ("pass", 200)])
async def test_the_operator_may_refuse_or_pass_them(
    bare_house: OpenHouse, vendor: Vendor, invalid: str, status: int
) -> None:
    async with bare_house(vendor.plain(vendor.call("get_weather", "{}")), policy=f'invalid = "{invalid}"') as at:
        answer = await at.chat()
    assert (answer.status, len(at.stub.requests)) == (status, 1)
    if status == 502:
        assert answer.error["code"] == "tool_call_invalid"


async def test_tools_that_are_not_there_are_told_without_naming_the_denied(
    bare_house: OpenHouse, vendor: Vendor
) -> None:
    rules = 'rules = [{ tool = "delete_*", verdict = "deny" }]'
    async with bare_house(vendor.plain(vendor.call("fly")), vendor.plain(text="well"), policy=rules) as at:
        assert (await at.chat()).status == 200
    told = at.stub.requests[1].json["messages"][-1]["content"]
    assert told.endswith("there is no tool 'fly'; there are: get_weather, rename_city")
    assert "delete_city" not in str(at.stub.requests[0].json["tools"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_out_of_the_blue_is_refused(bare_house: OpenHouse, vendor: Vendor, stream: bool) -> None:
    """No tools were offered, so there is no conversation about them to go on with."""
    make = vendor.streamed if stream else vendor.plain
    async with bare_house(make(vendor.call("get_weather")), policy="") as at:
        answer = await at.chat(tools=None, stream=stream)
    error = answer.events[-1]["error"] if stream else answer.error
    assert error["code"] == "tool_call_denied"
    assert len(at.stub.requests) == 1


async def test_custom_tools_take_any_text(bare_house: OpenHouse, vendor: Vendor) -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    tool = {"type": "custom", "custom": {"name": "shell"}}
    async with bare_house(vendor.plain(call), policy="") as at:
        answer = await at.chat(tools=[tool])
    assert answer.json["choices"][0]["message"]["tool_calls"] == [call]


@pytest.mark.parametrize("stream", [False, True])
async def test_all_rounds_are_in_one_row_of_the_ledger(
    sqlite_house: OpenHouse, vendor: Vendor, stream: bool, tmp_path: Any
) -> None:
    make = vendor.streamed if stream else vendor.plain
    replies = make(vendor.call("get_weather", "{}")), make(text="well")
    async with sqlite_house(*replies, more=LEDGER_ON.format(tmp_path / "journal")) as at:
        assert (await at.chat(stream=stream)).status == 200
        ledger = at.gateway.services[LEDGER]
        await ledger.flush()
        (row,) = await ledger.rows()
    assert (row.prompt_tokens, row.completion_tokens) == (20, 10)


async def test_a_failure_in_a_later_round_ends_the_stream_with_an_error(bare_house: OpenHouse, vendor: Vendor) -> None:
    from gatehook.testing import Reply

    wrong = vendor.streamed(vendor.call("get_weather", "{}"), text="Let me see.")
    async with bare_house(wrong, Reply.of_json({"error": {"message": "away"}}, status=501), policy="") as at:
        answer = await at.chat(stream=True)
    assert "[DONE]" not in answer.events
    assert answer.events[-1]["error"]["message"] == "openai: away"


CACHE = "[plugins.cache]\n"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_of_several_rounds_is_not_stored(bare_house: OpenHouse, vendor: Vendor, stream: bool) -> None:
    make = vendor.streamed if stream else vendor.plain
    replies = make(vendor.call("get_weather", "{}")), make(text="well"), make(text="anew")
    async with bare_house(*replies, policy="", more=CACHE) as at:
        await at.chat(stream=stream)
        assert (await at.chat(stream=stream)).headers["X-Cache"] == "miss"
        assert (await at.chat(stream=stream)).headers["X-Cache"] == "hit"
    assert len(at.stub.requests) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stored_call_is_asked_about_once_the_policy_says_so(
    sqlite_house: OpenHouse, vendor: Vendor, keys: Any, stream: bool
) -> None:
    make = vendor.streamed if stream else vendor.plain
    async with sqlite_house(make(vendor.call("rename_city"), text="So."), policy="", more=CACHE) as at:
        assert "status" not in (await at.chat(stream=stream)).body.decode()
        rules = {"rules": [{"tool": "rename_*", "verdict": "confirm"}]}
        assert (await at.request("PUT", "/admin/tools/policy", rules, key=keys.admin)).status == 200
        answer = await at.chat(stream=stream)
        assert (answer.headers["X-Cache"], len(at.stub.requests)) == ("hit", 1)
        shown = answer.events[-2] if stream else answer.json
        assert (await at.confirm(shown["session_id"], "call_1")).status == 200
        again = await at.chat(stream=stream)  # the question itself was not stored
        shown = again.events[-2] if stream else again.json
        assert (await at.confirm(shown["session_id"], "call_1")).status == 200
