"""Rounds of plain answers: offered, run, told to the model, and asked again."""

import asyncio
import json
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from gatehook import Call, GatewayError, Outcome, RateLimited, ToolCall, Verdict, estimate
from gatehook.errors import StartupError
from gatehook.testing import built

CLIENT_TOOL = {"type": "function", "function": {"name": "mine", "parameters": {"type": "object"}}}


async def test_hook_register_tools_the_model_is_told_of_them_and_gets_what_came_of_its_call(kit: Any) -> None:
    tool = kit.Noting()
    async with kit.asking(kit.calls("search"), kit.answers("Here."), tools=[tool]) as ask:
        answer = await ask.chat()
    assert [dict(run) for run in tool.runs] == [{"q": "tea"}]
    (told,) = ask.sent(0)["tools"]
    assert told["function"] == {"name": "search", "description": "Searches.", "parameters": tool.parameters}
    user, assistant, result = ask.sent(1)["messages"]
    assert user["content"] == "hi"
    assert assistant["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"
    assert (result["role"], result["content"]) == ("tool", "found")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Here."}
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_hook_register_tools_a_name_taken_twice_is_a_start_up_error_naming_both_plugins(kit: Any) -> None:
    plugins = {name: kit.plugin(register_tools=[kit.Noting()]) for name in ("first", "second")}
    with pytest.raises(StartupError) as caught:
        built("[plugins.first]\n[plugins.second]\n", plugins=plugins)
    assert caught.value.faults == ["tool 'search' is provided by both 'first' and 'second'; rename or disable one"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("name", "no spaces", "a name has 1 to 64 letters"),
        ("name", "", "a name has 1 to 64 letters"),
        ("parameters", {"type": "string"}, "must be a JSON Schema of the type 'object'"),
        ("parameters", {"type": "object", "properties": {"q": {"type": "text"}}}, "$.properties.q.type: 'text' is not"),
        ("parameters", {"type": "object", "default": object()}, "parameters: cannot be written as JSON"),
        ("parameters", None, "must be a JSON Schema of the type 'object'"),
        ("parameters", "{}", "must be a JSON Schema of the type 'object'"),
        ("description", None, "description: must be a text"),
    ],
)
async def test_hook_register_tools_what_no_model_could_be_told_is_a_start_up_error(
    kit: Any, field: str, value: Any, says: str
) -> None:
    tool = kit.Noting(**{field: value})
    with pytest.raises(StartupError) as caught:
        built("[plugins.own]\n", plugins={"own": kit.plugin(register_tools=[tool])})
    (fault,) = caught.value.faults
    assert fault.startswith("plugin 'own': tool ")
    assert says in fault


async def test_a_source_s_tools_are_those_of_the_moment_and_a_run_outlives_its_tool(kit: Any) -> None:
    class Source:
        def __init__(self) -> None:
            self.now = [kit.Noting("one")]

        def tools(self, call: Call) -> list[Any]:
            return self.now

    source = Source()
    first = source.now[0]

    async def forgets(arguments: Any) -> str:
        source.now = [kit.Noting("two")]
        return "from the old one"

    first.does = forgets
    async with kit.asking(kit.calls("one", "one"), kit.answers("ok"), tools=[source]) as ask:
        await ask.chat()
        await ask.chat()
    assert [one["content"] for one in ask.sent(1)["messages"][2:]] == ["from the old one"] * 2
    assert [one["function"]["name"] for one in ask.sent(2)["tools"]] == ["two"]


async def test_a_selective_tool_is_told_only_where_it_suits(kit: Any) -> None:
    class Admins(kit.Noting):  # type: ignore[misc]
        def suits(self, call: Call) -> bool:
            return call.principal.admin

    async with kit.asking(kit.answers("ok"), tools=[Admins()]) as ask:
        await ask.chat()
    assert "tools" not in ask.sent(0)


def no_list(call: Call) -> Any:
    return None


def raises(call: Call) -> Any:
    raise ValueError("secret internals")


def no_name(call: Call) -> Any:
    return [object()]


@pytest.mark.parametrize("tools", [no_list, raises, no_name])
async def test_a_source_that_fails_has_no_tools_and_costs_nobody_an_answer(kit: Any, tools: Any) -> None:
    source = SimpleNamespace(tools=tools)
    async with kit.asking(kit.calls("search"), kit.answers("ok"), tools=[source, kit.Noting()]) as ask:
        answer = await ask.chat()
    assert answer["choices"][0]["message"]["content"] == "ok"
    assert [tool["function"]["name"] for tool in ask.sent(0)["tools"]] == ["search"]


async def test_a_tool_that_cannot_tell_whether_it_suits_does_not(kit: Any) -> None:
    class Unsure(kit.Noting):  # type: ignore[misc]
        def suits(self, call: Call) -> bool:
            return bool(raises(call))

    tools = [Unsure(name="unsure"), kit.Noting()]
    async with kit.asking(kit.calls("search"), kit.answers("ok"), tools=tools) as ask:
        await ask.chat()
    assert [tool["function"]["name"] for tool in ask.sent(0)["tools"]] == ["search"]


async def test_a_schema_may_be_any_mapping(kit: Any) -> None:
    tool = kit.Noting(parameters=MappingProxyType({"type": "object"}))
    async with kit.asking(kit.calls("search"), kit.answers("ok"), tools=[tool]) as ask:
        await ask.chat()
    assert len(tool.runs) == 1


async def test_tools_of_one_round_run_at_the_same_time(kit: Any) -> None:
    both = asyncio.Barrier(2)

    async def meets(arguments: Any) -> str:
        await both.wait()
        return "met"

    tools = [kit.Noting(name, meets) for name in "ab"]
    async with kit.asking(kit.calls("a", "b"), kit.answers("ok"), tools=tools) as ask:
        await ask.chat()
    assert [one["content"] for one in ask.sent(1)["messages"][2:]] == ["met", "met"]


async def test_usage_is_the_sum_of_all_rounds_and_there_is_one_outcome_with_one_cost(kit: Any) -> None:
    price = "pricing = { input_per_1k_tokens = 1, output_per_1k_tokens = 2 }"
    replies = [kit.calls("search"), kit.calls("search"), kit.answers("ok", spent=(40, 2))]
    async with kit.asking(*replies, tools=[kit.Noting()], options=price) as ask:
        answer = await ask.chat()
        await ask.watching.over.wait()
    assert answer["usage"]["prompt_tokens"] == 60
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["total_tokens"] == 72
    (outcome,) = ask.watching.outcomes
    assert (outcome.status, outcome.usage.total_tokens) == ("complete", 72)
    assert outcome.cost.total == 84_000_000


async def test_what_is_reserved_for_an_attempt_is_settled_with_its_own_round(kit: Any) -> None:
    settled: list[tuple[str, Outcome]] = []

    class Permit:
        def __init__(self, of: str) -> None:
            self._of = of

        async def settle(self, outcome: Outcome) -> None:
            settled.append((self._of, outcome))

    class Limiter:
        async def admit(self, call: Call) -> Permit:
            return Permit("call")

        async def admit_attempt(self, call: Call, target: Any) -> Permit:
            return Permit("attempt")

    limiter = kit.plugin(register_limiters=[Limiter()])
    replies = [kit.calls("search"), kit.answers("ok", spent=(40, 2))]
    async with kit.asking(*replies, tools=[kit.Noting()], limiter=limiter) as ask:
        await ask.chat()
    told = [(of, one.status, one.usage.total_tokens if one.usage else 0) for of, one in settled]
    assert told == [("attempt", "complete", 15), ("attempt", "complete", 42), ("call", "complete", 57)]


async def test_a_limiter_may_end_a_call_between_two_rounds(kit: Any) -> None:
    class Limiter:
        def __init__(self) -> None:
            self.seen: list[int] = []

        async def admit(self, call: Call) -> None: ...

        async def admit_round(self, call: Call) -> None:
            self.seen.append(len(call.payload["messages"]))
            if len(self.seen) == 2:
                raise RateLimited("no more tokens today", retry_after=60)

    limiter = Limiter()
    plugin = kit.plugin(register_limiters=[limiter])
    async with kit.asking(kit.calls("search"), tools=[kit.Noting()], limiter=plugin) as ask:
        error = (await ask.chat(status=429))["error"]
        await ask.watching.over.wait()
    assert (error["message"], limiter.seen) == ("no more tokens today", [3, 5])
    assert ask.watching.outcomes[0].usage.total_tokens == 30


async def test_what_a_round_will_use_is_estimated_of_the_request_as_it_has_become(kit: Any) -> None:
    class Limiter:
        def __init__(self) -> None:
            self.expected: list[int] = []

        async def admit(self, call: Call) -> None:
            self.expected.append(estimate(call, ()).prompt)

        async def admit_round(self, call: Call) -> None:
            await self.admit(call)

    limiter = Limiter()
    plugin = kit.plugin(register_limiters=[limiter])
    replies = [kit.calls("search"), kit.answers("ok")]
    async with kit.asking(*replies, tools=[kit.Noting(does="x" * 4_000)], limiter=plugin) as ask:
        await ask.chat()
    first, second = limiter.expected
    assert second > first + 1_000


async def test_a_loop_that_never_ends_is_ended(kit: Any) -> None:
    tool = kit.Noting()
    async with kit.asking(kit.calls("search"), tools=[tool], settings="[tools]\nmax_rounds = 3\n") as ask:
        error = (await ask.chat(status=502))["error"]
        await ask.watching.over.wait()
    assert error["code"] == "too_many_tool_rounds"
    assert error["message"] == "the model still calls tools after 3 rounds (tools.max_rounds)"
    assert (len(tool.runs), len(ask.stub.requests)) == (3, 4)
    assert ask.watching.outcomes[0].usage.total_tokens == 60


async def gives_no_text(arguments: Any) -> Any:
    return {"found": 3}


@pytest.mark.parametrize(
    ("does", "told"),
    [
        (GatewayError("the index is away"), "error: the index is away"),
        (ValueError("secret internals"), "error: search failed"),
        (SystemExit(3), "error: search failed"),
        (TimeoutError(), "error: search took too long"),
        (asyncio.CancelledError(), "error: search was broken off"),
        ("x" * 5000, "x" * 1024 + "\n[cut: 1024 of 5000 bytes]"),
        ("ä" * 5000, "ä" * 512 + "\n[cut: 1024 of 10000 bytes]"),
        (gives_no_text, "error: search failed"),
    ],
)
async def test_the_model_is_told_how_a_tool_failed_and_no_more_than_fits(kit: Any, does: Any, told: str) -> None:
    settings = '[tools]\nmax_result = "1KB"\n'
    async with kit.asking(
        kit.calls("search"), kit.answers("ok"), tools=[kit.Noting(does=does)], settings=settings
    ) as ask:
        await ask.chat()
    assert ask.sent(1)["messages"][2]["content"] == told


async def test_a_tool_that_takes_too_long_is_stopped(kit: Any) -> None:
    async def waits(arguments: Any) -> str:
        await asyncio.Event().wait()
        return ""

    tool = kit.Noting(does=waits)
    async with kit.asking(
        kit.calls("search"), kit.answers("ok"), tools=[tool], settings="[tools]\ntimeout = 0.05\n"
    ) as ask:
        await ask.chat()
    assert tool.cancelled.is_set()
    assert ask.sent(1)["messages"][2]["content"] == "error: search took too long"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"q": 1}', "the call is invalid: q: 1 is not of type 'string'"),
        ("{}", "the call is invalid: the arguments: 'q' is a required property"),
        ('{"q": "NO"}', "the call is invalid: q: 'NO' does not match"),
        ("[1]", "the arguments are not a JSON object"),
        ('{"q": ', "the arguments are not a JSON object"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_to_the_model_and_nothing_is_run(
    kit: Any, arguments: str, says: str
) -> None:
    tool = kit.Noting()
    call = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": arguments}}
    wrong = kit.answers({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")
    async with kit.asking(wrong, kit.answers("ok"), tools=[tool]) as ask:
        await ask.chat()
    assert tool.runs == []
    _, assistant, result = ask.sent(1)["messages"]
    assert result["content"].startswith(f"error: {says}")
    assert isinstance(json.loads(assistant["tool_calls"][0]["function"]["arguments"]), dict), "a vendor may read it"


async def test_calls_without_ids_or_with_the_same_one_are_told_apart(kit: Any) -> None:
    function = {"name": "search", "arguments": {"q": "tea"}}
    wanted = [{"type": "function", "function": function, **named} for named in ({}, {"id": "a"}, {"id": "a"})]
    message = {"role": "assistant", "content": None, "tool_calls": wanted}
    async with kit.asking(kit.answers(message, "stop"), kit.answers("ok"), tools=[tool := kit.Noting()]) as ask:
        await ask.chat()
    _, assistant, *results = ask.sent(1)["messages"]
    ids = [one["id"] for one in assistant["tool_calls"]]
    assert [one["tool_call_id"] for one in results] == ids
    assert len(set(ids)) == 3
    assert all(ids)
    assert len(tool.runs) == 3


# --- beside the client's own -----------------------------------------------------------------------------------------


async def test_the_client_s_tool_of_the_same_name_stays_the_client_s(kit: Any) -> None:
    tool = kit.Noting("mine")
    async with kit.asking(kit.calls("mine"), tools=[tool]) as ask:
        answer = await ask.chat(tools=[CLIENT_TOOL])
    assert ask.sent(0)["tools"] == [CLIENT_TOOL]
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "mine"
    assert tool.runs == []


async def test_of_a_mixed_answer_the_client_gets_its_calls_and_nothing_is_run(kit: Any) -> None:
    tool = kit.Noting()
    async with kit.asking(kit.calls("search", "mine", "search", text="Both."), tools=[tool]) as ask:
        answer = await ask.chat(tools=[CLIENT_TOOL])
    choice = answer["choices"][0]
    assert [one["id"] for one in choice["message"]["tool_calls"]] == ["call_2"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Both.", "tool_calls")
    assert (tool.runs, len(ask.stub.requests)) == ([], 1)


async def test_what_is_said_before_a_call_is_a_part_of_the_answer(kit: Any) -> None:
    replies = [kit.calls("search", text="Let me see."), kit.answers("Here.")]
    async with kit.asking(*replies, tools=[kit.Noting()]) as ask:
        answer = await ask.chat()
    assert answer["choices"][0]["message"]["content"] == "Let me see.\n\nHere."


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_call_that_was_cut_is_not_run(kit: Any, reason: str) -> None:
    tool = kit.Noting()
    async with kit.asking(kit.calls("search", text="Let", reason=reason), tools=[tool]) as ask:
        choice = (await ask.chat())["choices"][0]
    assert tool.runs == []
    assert choice["finish_reason"] == reason
    assert choice["message"] == {"role": "assistant", "content": "Let"}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"tool_choice": "none", "tools": [CLIENT_TOOL]},
        {"functions": [{"name": "old", "parameters": {"type": "object"}}]},
    ],
)
async def test_nothing_is_added_where_rounds_make_no_sense(kit: Any, fields: dict[str, Any]) -> None:
    async with kit.asking(kit.answers("ok"), tools=[kit.Noting()]) as ask:
        await ask.chat(**fields)
    assert ask.sent(0).get("tools") == fields.get("tools")


async def test_nothing_is_added_for_a_model_that_has_no_tools(kit: Any) -> None:
    async with kit.asking(kit.answers("ok"), tools=[kit.Noting()], options='capabilities = ["conversation"]') as ask:
        await ask.chat()
    assert "tools" not in ask.sent(0)


@pytest.mark.parametrize(
    ("choice", "then"),
    [
        ("required", "auto"),
        ("auto", "auto"),
        ({"type": "function", "function": {"name": "search"}}, "auto"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        ),
    ],
)
async def test_a_choice_that_insists_on_a_call_is_content_with_one(kit: Any, choice: Any, then: Any) -> None:
    async with kit.asking(kit.calls("search"), kit.answers("ok"), tools=[kit.Noting()]) as ask:
        await ask.chat(tool_choice=choice)
    assert (ask.sent(0)["tool_choice"], ask.sent(1)["tool_choice"]) == (choice, then)


# --- policies, caches, failover --------------------------------------------------------------------------------------


class Policy:
    """Hides and judges by name."""

    def __init__(self, *, hidden: str = "", **verdicts: Any) -> None:
        self._hidden = hidden
        self._verdicts = verdicts
        self.judged: list[ToolCall] = []

    async def offer(self, call: Call, tools: Any) -> Any:
        return [one for one in tools if one["function"]["name"] != self._hidden]

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        self.judged.append(tool_call)
        return Verdict(self._verdicts.get(tool_call.name, "allow"), "house rule")


@pytest.mark.parametrize("verdict", ["deny", "confirm"])
async def test_policies_judge_own_tools_before_any_of_the_round_is_run(kit: Any, verdict: str) -> None:
    policy, tools = Policy(b=verdict), [kit.Noting("a"), kit.Noting("b")]
    plugin = kit.plugin(register_tool_policies=[policy])
    async with kit.asking(kit.calls("a", "b"), tools=tools, policy=plugin) as ask:
        error = (await ask.chat(status=403))["error"]
    assert error["code"] == "tool_call_denied"
    assert policy.judged[1] == ToolCall("call_2", "b", '{"q": "tea"}')
    assert tools[0].runs == tools[1].runs == []


async def test_policies_say_which_own_tools_are_told_and_one_that_is_not_cannot_be_run(kit: Any) -> None:
    tools = [kit.Noting("a"), kit.Noting("b")]
    plugin = kit.plugin(register_tool_policies=[Policy(hidden="b")])
    async with kit.asking(kit.calls("b"), tools=tools, policy=plugin) as ask:
        await ask.chat()
    assert [one["function"]["name"] for one in ask.sent(0)["tools"]] == ["a"]
    assert tools[1].runs == []


async def test_an_answer_that_tools_were_run_for_is_not_stored_and_any_other_is(kit: Any) -> None:
    replies = [kit.calls("search"), kit.answers("one"), kit.answers("two")]
    async with kit.asking(*replies, tools=[kit.Noting()], settings="[plugins.cache]\n") as ask:
        said = [(await ask.chat())["choices"][0]["message"]["content"] for _ in range(3)]
    assert said == ["one", "two", "two"]
    assert len(ask.stub.requests) == 3


async def test_each_round_has_its_own_failover(kit: Any) -> None:
    down = kit.answers("down")
    replies = [kit.calls("search"), type(down)(b"{}", status=503), kit.answers("after all")]
    settings = "[failover]\nretries = 1\n"
    async with kit.asking(*replies, tools=[kit.Noting()], settings=settings) as ask:
        answer = await ask.chat()
    assert answer["choices"][0]["message"]["content"] == "after all"
    assert ask.sent(1) == ask.sent(2)


async def test_a_second_round_that_fails_is_an_error_and_the_first_is_paid_for(kit: Any) -> None:
    down = type(kit.answers("x"))(b"{}", status=500)
    async with kit.asking(kit.calls("search"), down, tools=[kit.Noting()]) as ask:
        await ask.chat(status=502)
        await ask.watching.over.wait()
    (outcome,) = ask.watching.outcomes
    assert (outcome.status, outcome.usage.total_tokens) == ("failed", 15)


async def test_one_call_can_be_executed_by_whoever_has_it_approved(kit: Any) -> None:
    async with kit.asking(kit.answers("ok"), tools=[tool := kit.Noting()]) as ask:
        own = ask.served.gateway.pipeline.concerns.own_tools
        call = Call("chat", "test", {}, model="m")
        assert await own.execute(call, ToolCall("call_1", "search", '{"q": "tea"}')) == "found"
        assert await own.execute(call, ToolCall("call_2", "gone", "{}")) == "error: there is no tool 'gone' any more"
    assert len(tool.runs) == 1
