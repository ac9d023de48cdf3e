"""Calls that wait for somebody: asked about, decided once, and what follows, plain and streamed."""

import asyncio
from typing import Any

import pytest

House = Any
OpenHouse = Any
Vendor = Any
Keys = Any


async def test_a_call_to_be_confirmed_is_shown_and_not_made(house: OpenHouse, vendor: Vendor) -> None:
    async with house(vendor.plain(vendor.call("delete_city"), text="I will delete it.")) as at:
        answer = await at.chat()
        (waiting,) = await at.pending()
    said = answer.json
    assert answer.status == 200
    assert said["status"] == "require_confirmation"
    assert said["session_id"].startswith("sess_")
    assert said["pending_tool_calls"] == [vendor.call("delete_city")]
    (choice,) = said["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {"role": "assistant", "content": "I will delete it."}
    assert said["usage"]["total_tokens"] == 15
    assert waiting["session_id"] == said["session_id"]
    assert (waiting["model"], waiting["pending_tool_calls"]) == ("m", said["pending_tool_calls"])
    assert waiting["expires_at"] == said["expires_at"] == waiting["created_at"] + 600


async def test_approved_calls_come_back_as_calls_to_make(house: OpenHouse, vendor: Vendor) -> None:
    async with house(vendor.plain(vendor.call("delete_city"), text="So be it.")) as at:
        session = await at.asked()
        answer = await at.confirm(session, "call_1")
        assert await at.pending() == []
    (choice,) = answer.json["choices"]
    assert (answer.status, choice["finish_reason"]) == (200, "tool_calls")
    assert choice["message"] == {
        "role": "assistant", "content": "So be it.", "tool_calls": [vendor.call("delete_city")],
    }  # fmt: skip
    assert answer.json["append_messages"] == [choice["message"]]
    assert (answer.json["model"], answer.json["usage"]["total_tokens"]) == ("m", 0)
    assert "status" not in answer.json
    assert len(at.stub.requests) == 1


async def test_calls_not_approved_are_told_as_refused_beside_those_that_are(house: OpenHouse, vendor: Vendor) -> None:
    calls = [vendor.call("delete_city", id="a"), vendor.call("delete_city", id="b"), vendor.call("get_weather", id="c")]
    async with house(vendor.plain(*calls)) as at:
        answer = await at.chat()
        assert [one["id"] for one in answer.json["pending_tool_calls"]] == ["a", "b"]
        answer = await at.confirm(answer.json["session_id"], "b", reason="not Rome again")
    said = answer.json
    assert [one["id"] for one in said["choices"][0]["message"]["tool_calls"]] == ["b", "c"]
    turn, told = said["append_messages"]
    assert [one["id"] for one in turn["tool_calls"]] == ["a", "b", "c"]
    assert (told["role"], told["tool_call_id"]) == ("tool", "a")
    assert told["content"].endswith("They said: not Rome again")


@pytest.mark.parametrize("stream", [False, True])
async def test_when_nothing_is_approved_the_model_hears_of_it_and_goes_on(
    house: OpenHouse, vendor: Vendor, stream: bool
) -> None:
    first = vendor.plain(vendor.call("delete_city"))
    then = vendor.streamed(text="Then |I leave it.") if stream else vendor.plain(text="Then I leave it.")
    choice = {"type": "function", "function": {"name": "delete_city"}}
    async with house(first, then) as at:
        session = await at.asked(tool_choice=choice, temperature=0.5)
        answer = await at.deny(session, reason="too dear", stream=stream)
    assert answer.status == 200
    assert (answer.text if stream else answer.json["choices"][0]["message"]["content"]) == "Then I leave it."
    sent = at.stub.requests[1].json
    assert [one["role"] for one in sent["messages"]] == ["user", "assistant", "tool"]
    assert sent["messages"][1]["tool_calls"] == [vendor.call("delete_city")]
    assert sent["messages"][2]["content"].endswith("They said: too dear")
    assert (sent.get("stream", False), sent["temperature"], "tool_choice" in sent) == (stream, 0.5, False)


async def test_a_conversation_of_another_dialect_goes_on_without_what_the_vendor_does_not_know(
    sqlite_house: OpenHouse, vendor: Vendor
) -> None:
    tools = [{"name": "delete_city", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}]
    thinking = {"type": "adaptive"}
    async with sqlite_house(vendor.plain(vendor.call("delete_city")), vendor.plain(text="well")) as at:
        asked = (await at.chat(path="/v1/messages", max_tokens=9, tools=tools, thinking=thinking)).json
        answer = await at.deny(asked["session_id"])
    assert answer.json["choices"][0]["message"]["content"] == "well"
    first, second = (one.json for one in at.stub.requests)
    assert second == first | {"messages": second["messages"]}


async def test_the_next_turn_may_have_to_be_confirmed_again(house: OpenHouse, vendor: Vendor) -> None:
    async with house(vendor.plain(vendor.call("delete_city")), vendor.plain(vendor.call("delete_city", id="x"))) as at:
        first = await at.asked()
        second = (await at.deny(first)).json
        assert second["status"] == "require_confirmation"
        answer = await at.confirm(second["session_id"], "x")
    assert len(answer.json["append_messages"][0]["tool_calls"]) == 1


async def test_a_stream_passes_its_words_and_ends_with_the_question(house: OpenHouse, vendor: Vendor) -> None:
    async with house(vendor.streamed(vendor.call("delete_city"), text="I will |delete it.")) as at:
        answer = await at.chat(stream=True, stream_options={"include_usage": True})
        *_, question, usage, done = answer.events
        kept = await at.confirm(question["session_id"], "call_1")
    assert answer.text == "I will delete it."
    assert b'"tool_calls"' not in answer.body
    assert question["status"] == "require_confirmation"
    assert question["pending_tool_calls"] == [vendor.call("delete_city")]
    assert [one["finish_reason"] for one in question["choices"]] == ["stop"]
    assert (usage["usage"]["total_tokens"], usage["choices"], done) == (15, [], "[DONE]")
    finished = [one for one in answer.events[:-1] for choice in one["choices"] if choice["finish_reason"]]
    assert finished == [question]
    assert kept.json["append_messages"][0]["content"] == "I will delete it."


async def test_an_approval_may_be_streamed(house: OpenHouse, vendor: Vendor) -> None:
    async with house(vendor.streamed(vendor.call("delete_city"), text="So.")) as at:
        question = (await at.chat(stream=True)).events[-2]
        answer = await at.confirm(question["session_id"], "call_1", stream=True)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    first, last, done = answer.events
    (called,) = first["choices"][0]["delta"]["tool_calls"]
    assert {**called, "index": 0} == {"index": 0, **vendor.call("delete_city")}
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["delta"] == {}
    assert (last["choices"][0]["finish_reason"], done) == ("tool_calls", "[DONE]")
    assert last["append_messages"][0]["content"] == "So."


async def test_edited_arguments_are_what_is_called_and_recorded_as_such(house: OpenHouse, vendor: Vendor) -> None:
    async with house(vendor.plain(vendor.call("delete_city"))) as at:
        session = await at.asked()
        wrong = await at.confirm(session, "call_1", arguments={"call_1": {"city": ""}})
        answer = await at.confirm(session, "call_1", arguments={"call_1": {"city": "Oslo"}})
        lines = await at.audit()
    assert (wrong.status, wrong.error["code"], wrong.error["param"]) == (400, "invalid_arguments", "arguments")
    (called,) = answer.json["choices"][0]["message"]["tool_calls"]
    assert called["function"]["arguments"] == '{"city":"Oslo"}'
    assert answer.json["append_messages"][0]["tool_calls"] == [called]
    actor, action, subject, detail = lines[-1]
    assert (action, subject) == ("tool.confirm", session)
    (told,) = detail["calls"]
    assert told["decision"] == "edited"
    assert told["edited"].startswith("sha256:")
    assert told["edited"] != told["arguments"]
    assert "Oslo" not in str(lines)
    assert actor == detail["user"]


async def test_every_decision_is_in_the_audit(house: OpenHouse, vendor: Vendor, keys: Keys) -> None:
    async with house(vendor.plain(vendor.call("delete_city")), vendor.plain(text="well")) as at:
        session = await at.asked()
        await at.deny(session, key=keys.admin, reason="no")
        asked, denied = [line for line in await at.audit() if line[2] == session]
    assert (asked[1], denied[1]) == ("tool.ask", "tool.deny")
    assert asked[0] != denied[0]
    assert denied[3]["user"] == asked[0]
    assert denied[3]["reason"] == "no"
    assert [one["decision"] for one in denied[3]["calls"]] == ["refused"]


async def test_of_two_answers_at_the_same_time_exactly_one_counts(house: OpenHouse, vendor: Vendor) -> None:
    async with house(vendor.plain(vendor.call("delete_city"))) as at:
        for _ in range(3):
            session = await at.asked()
            answers = await asyncio.gather(*(at.confirm(session, "call_1") for _ in range(4)))
            assert sorted(one.status for one in answers) == [200, 409, 409, 409]
            assert {one.error["code"] for one in answers if one.status == 409} == {"already_resolved"}
            lines = [line for line in await at.audit() if line[1:3] == ("tool.confirm", session)]
            assert len(lines) == 1


async def test_a_session_outlives_a_restart(house: OpenHouse, vendor: Vendor) -> None:
    async with house(vendor.plain(vendor.call("delete_city"))) as at:
        session = await at.asked()
    async with house(vendor.plain(text="unused")) as at:
        assert [one["session_id"] for one in await at.pending()] == [session]
        assert (await at.confirm(session, "call_1")).status == 200
    async with house(vendor.plain(text="unused")) as at:
        assert (await at.confirm(session, "call_1")).error["code"] == "already_resolved"


async def test_the_old_form_of_calls_is_asked_about_and_given_back_as_it_was(house: OpenHouse, vendor: Vendor) -> None:
    old = {"name": "delete_city", "arguments": '{"city": "Rome"}'}
    functions = [{"name": "delete_city", "parameters": {"type": "object"}}]
    first = vendor.plain(function_call=old)
    async with house(first, first, vendor.plain(text="well")) as at:
        asked = (await at.chat(tools=None, functions=functions)).json
        assert "function_call" not in asked["choices"][0]["message"]
        (waiting,) = asked["pending_tool_calls"]
        answer = (await at.confirm(asked["session_id"], waiting["id"])).json
        session = await at.asked(tools=None, functions=functions)
        await at.deny(session)
    assert answer["choices"][0]["message"]["function_call"] == old
    assert answer["choices"][0]["finish_reason"] == "function_call"
    assert at.stub.requests[2].json["messages"][-1]["role"] == "function"


async def test_calls_without_ids_get_some_to_be_named_by(house: OpenHouse, vendor: Vendor) -> None:
    twice = [vendor.call("delete_city", id="0"), vendor.call("delete_city", {"city": "Oslo"}, id="0")]
    async with house(vendor.plain(*twice)) as at:
        asked = (await at.chat()).json
        first, second = (one["id"] for one in asked["pending_tool_calls"])
        answer = (await at.confirm(asked["session_id"], second)).json
    assert (first, second[:5]) == ("0", "call_")
    (called,) = answer["choices"][0]["message"]["tool_calls"]
    assert called["function"]["arguments"] == '{"city": "Oslo"}'


@pytest.mark.parametrize("stream", [False, True])
async def test_the_official_sdk_reads_question_and_release(
    house: OpenHouse, vendor: Vendor, stream: bool, tools: Any
) -> None:
    reply = (vendor.streamed if stream else vendor.plain)(vendor.call("delete_city"), text="So.")
    async with house(reply) as at, at.sdk() as sdk:
        messages: Any = [{"role": "user", "content": "hi"}]
        if stream:
            chunks = [one async for one in await sdk.chat.completions.create(
                model="m", messages=messages, tools=tools, stream=True)]  # fmt: skip
            asked = next(one for one in chunks if one.model_extra and "session_id" in one.model_extra)
            assert "".join(choice.delta.content or "" for one in chunks for choice in one.choices) == "So."
            assert not any(choice.delta.tool_calls for one in chunks for choice in one.choices)
        else:
            asked = await sdk.chat.completions.create(model="m", messages=messages, tools=tools)
            assert asked.choices[0].message.tool_calls is None
        told: Any = asked.model_extra
        assert (told["status"], asked.choices[0].finish_reason) == ("require_confirmation", "stop")
        body = {"session_id": told["session_id"], "approved_ids": [told["pending_tool_calls"][0]["id"]]}
        from openai.types.chat import ChatCompletion

        released = await sdk.post("/tools/confirm", cast_to=ChatCompletion, body=body)
    assert released.choices[0].finish_reason == "tool_calls"
    (called,) = released.choices[0].message.tool_calls or []
    assert (called.id, called.type) == ("call_1", "function")


async def test_other_surfaces_show_the_question_too(sqlite_house: OpenHouse, vendor: Vendor, tools: Any) -> None:
    reply, stream = vendor.plain(vendor.call("delete_city"), text="So."), vendor.streamed(vendor.call("delete_city"))
    async with sqlite_house(reply) as at:
        generate = {"prompt": "hi", "tools": tools, "model": "m"}
        shown = [
            (await at.chat(path="/api/llm/generate")).json,
            (await at.request("POST", "/api/v1/generate", generate)).json,
            (await at.request("POST", "/api/v1/batch/generate", {"requests": [generate]})).json["results"][0],
        ]
        at.stub.script(stream)
        for path, body in (("/api/llm/generate/stream", None), ("/api/v1/generate/stream", generate)):
            answer = await (at.request("POST", path, body) if body else at.chat(path=path))
            shown += [one for one in answer.events if isinstance(one, dict) and "session_id" in one]
        assert len(shown) == 5
        for one in shown:
            assert one["status"] == "require_confirmation"
            assert one["pending_tool_calls"] == [vendor.call("delete_city")]
            assert (await at.confirm(one["session_id"], "call_1")).status == 200
