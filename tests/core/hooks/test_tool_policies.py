"""Which tools: what `register_tool_policies` promises, end to end."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from gatehook import Call, Chunk, StreamBuilder, ToolCall, Usage

Part = Callable[[StreamBuilder], Chunk] | list[Callable[[StreamBuilder], Chunk]]


def say(text: str) -> Part:
    return lambda answer: answer.text(text)


def finish(reason: str = "stop", index: int = 0) -> Part:
    return lambda answer: answer.finish(reason, index)


def tool(name: str, arguments: str = "{}", id: str = "call_1", index: int = 0) -> Part:
    return lambda answer: answer.tool_call(id, name, arguments, index)


def more(arguments: str, index: int = 0) -> Part:
    return lambda answer: answer.tool_arguments(arguments, index)


def raw(chunk: dict[str, Any], **flags: Any) -> Part:
    """A chunk as a vendor of the same dialect passes it on."""
    return lambda answer: Chunk({"id": "x", "object": "chat.completion.chunk", **chunk}, **flags)


def offered(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}} for name in names]


def called(name: str, arguments: str = "{}") -> Mapping[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


async def test_hook_register_tool_policies_offer_narrows_what_the_model_sees(kit: Any) -> None:
    vendor = kit.Vendor()
    async with kit.client(vendor, **kit.policies(kit.Policy(hides=["rm"]), kit.Policy(hides=["dd"]))) as ask:
        assert (await ask.chat(tools=offered("ls", "rm", "dd"), tool_choice="auto")).status == 200
        assert (await ask.chat(tools=offered("rm", "dd"), tool_choice="auto", parallel_tool_calls=True)).status == 200
        assert (await ask.chat(tools=offered("ls"))).status == 200
    one, two, three = (attempt.payload for attempt in vendor.attempts)
    assert (one["tools"], one["tool_choice"]) == (offered("ls"), "auto")
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(two)
    assert three["tools"] == offered("ls")


@pytest.mark.parametrize(
    ("hides", "choice"),
    [
        (["rm"], {"type": "function", "function": {"name": "rm"}}),
        (["rm", "ls"], "required"),
    ],
    ids=["by name", "none left"],
)
async def test_hook_register_tool_policies_a_choice_that_cannot_be_made_is_refused(
    kit: Any, hides: list[str], choice: Any
) -> None:
    vendor = kit.Vendor()
    async with kit.client(vendor, **kit.policies(kit.Policy(hides=hides))) as ask:
        answer = await ask.chat(tools=offered("rm", "ls"), tool_choice=choice)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (403, "tool_not_allowed", "tool_choice")
    assert vendor.attempts == []


@pytest.mark.parametrize("choice", [7, {"function": 7}, {"function": None}, {"name": ["rm"]}, [], "rm"])
async def test_hook_register_tool_policies_a_choice_of_no_known_form_is_the_vendor_s_to_refuse(
    kit: Any, choice: Any
) -> None:
    functions = [one["function"] for one in offered("rm", "ls")]
    async with kit.client(**kit.policies(kit.Policy(hides=["rm"]))) as ask:
        answer = await ask.chat(functions=functions, function_call=choice)
    assert answer.status in (200, 403)


async def test_hook_register_tool_policies_offer_may_change_a_tool_s_words(kit: Any) -> None:
    class Wording(kit.Policy):  # type: ignore[misc]
        async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
            return [{**one, "function": {**one["function"], "description": "ask first"}} for one in tools]

    vendor = kit.Vendor()
    async with kit.client(vendor, **kit.policies(Wording())) as ask:
        await ask.chat(tools=offered("ls"))
    assert vendor.attempts[0].payload["tools"][0]["function"]["description"] == "ask first"


async def test_hook_register_tool_policies_the_old_functions_are_tools_too(kit: Any) -> None:
    vendor = kit.Vendor(
        message={"role": "assistant", "content": None, "function_call": {"name": "rm", "arguments": "{}"}}
    )
    async with kit.client(vendor, **kit.policies(kit.Policy(hides=["dd"], rm="deny"))) as ask:
        answer = await ask.chat(functions=[{"name": "ls"}, {"name": "dd"}])
    assert vendor.attempts[0].payload["functions"] == [{"name": "ls"}]
    assert (answer.status, answer.error["code"]) == (403, "tool_call_denied")


@pytest.mark.parametrize("kind", ["deny", "confirm"])
async def test_hook_register_tool_policies_a_plain_answer_s_call_is_denied(kit: Any, kind: str) -> None:
    vendor, watch = kit.Vendor(message=called("rm", '{"path": "/"}')), kit.Watching()
    memory, policy = kit.Memory(), kit.Policy(rm=kind)
    plugins = kit.policies(kit.Policy(), policy) | {
        "w": kit.specimen(register_observers=[watch]),
        "c": kit.specimen(register_caches=[memory]),
    }
    async with kit.client(vendor, **plugins) as ask:
        answer = await ask.chat(tools=offered("rm"))
    assert answer.status == 403
    assert (answer.error["type"], answer.error["code"]) == ("permission_error", "tool_call_denied")
    assert answer.error["message"].endswith(": because of rm")
    assert ("is denied" in answer.error["message"]) == (kind == "deny")
    assert policy.judged == [ToolCall("call_1", "rm", '{"path": "/"}')]
    assert memory.entries == {}
    assert (watch.outcomes[0].status, watch.outcomes[0].http_status) == ("failed", 403)
    assert watch.outcomes[0].usage == Usage(3, 2)  # the vendor was paid, whatever became of its answer


async def test_hook_register_tool_policies_the_strictest_verdict_wins(kit: Any) -> None:
    vendor = kit.Vendor(message=called("rm"))
    async with kit.client(
        vendor, **kit.policies(kit.Policy(rm="deny"), kit.Policy(rm="confirm"), kit.Policy(rm="allow"))
    ) as ask:
        assert "is denied" in (await ask.chat()).error["message"]


async def test_hook_register_tool_policies_allowed_calls_and_answers_without_calls_pass(kit: Any) -> None:
    async with kit.client(kit.Vendor(message=called("ls")), **kit.policies(kit.Policy(rm="deny"))) as ask:
        answer = await ask.chat()
    assert answer.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "ls"
    odd = kit.Vendor(message={"role": "assistant", "content": None, "tool_calls": None})
    async with kit.client(odd, **kit.policies(kit.Policy(rm="deny"))) as ask:
        assert (await ask.chat()).status == 200


async def test_hook_register_tool_policies_a_custom_tool_s_call_is_judged_by_its_name_and_input(kit: Any) -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "rm -rf"}}
    vendor, policy = (
        kit.Vendor(message={"role": "assistant", "content": None, "tool_calls": [call]}),
        kit.Policy(rm="deny"),
    )
    async with kit.client(vendor, **kit.policies(policy)) as ask:
        assert (await ask.chat()).status == 403
    assert policy.judged == [ToolCall("c", "shell", "rm -rf")]


def fragment(name: str, id: str, reason: str | None = None) -> Part:
    """A whole call in one event, without an index, as some servers send it."""
    delta = {"tool_calls": [{"id": id, "function": {"name": name, "arguments": "{}"}}]}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return raw({"choices": [choice]}, content=True, finished=reason is not None)


OLD = {"index": 0, "delta": {"function_call": {"name": "rm", "arguments": "{}"}}}
LET: Part = say("let me ")
CALLS = finish("tool_calls")
STREAMS: dict[str, tuple[Part, ...]] = {
    "in pieces": (LET, tool("rm", '{"pa'), more('th": "/"}'), CALLS),
    "whole": (LET, tool("rm", '{"path": "/"}'), CALLS),
    "with its end in one batch": (LET, [tool("rm"), CALLS]),  # type: ignore[list-item]
    "with its end in one event": (LET, fragment("rm", "call_1", "tool_calls")),
    "as the old function_call": (LET, raw({"choices": [OLD]}, content=True), finish("function_call")),
    "beside a harmless one": (LET, tool("ls"), tool("rm", id="call_2"), CALLS),
    "without an index beside a harmless one": (LET, fragment("ls", "a"), fragment("rm", "b"), CALLS),
    "in a second choice": (LET, tool("ls"), tool("rm", index=1), CALLS, finish("tool_calls", 1)),
    "in a choice that never ends": (LET, tool("rm", index=1), CALLS),
}


@pytest.mark.parametrize("kind", ["deny", "confirm"])
@pytest.mark.parametrize("script", STREAMS.values(), ids=STREAMS)
async def test_hook_register_tool_policies_a_streamed_call_never_leaves(
    kit: Any, script: tuple[Part, ...], kind: str
) -> None:
    memory, watch = kit.Memory(), kit.Watching()
    plugins = kit.policies(kit.Policy(rm=kind)) | {
        "c": kit.specimen(register_caches=[memory]),
        "w": kit.specimen(register_observers=[watch]),
    }
    async with kit.client(kit.Vendor(*script), **plugins) as ask:
        answer = await ask.chat(stream=True)
        await watch.over.wait()
    *before, last = answer.events
    assert answer.status == 200
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in before) == "let me "
    assert last["error"]["code"] == "tool_call_denied"
    assert b"tool_calls" not in answer.body.replace(b"tool_call_denied", b"")
    assert b'"rm"' not in answer.body
    assert memory.entries == {}
    assert watch.moments[-1] == "finished partial 200 tool_call_denied"


@pytest.mark.parametrize("script", STREAMS.values(), ids=STREAMS)
async def test_hook_register_tool_policies_a_streamed_call_that_is_allowed_arrives_whole(
    kit: Any,
    script: tuple[Part, ...],
) -> None:
    async def through(**plugins: type) -> list[Any]:
        async with kit.client(kit.Vendor(*script), **plugins) as ask:
            events = (await ask.chat(stream=True)).events
        return [event if event == "[DONE]" else event["choices"] for event in events]

    policy = kit.Policy(dd="deny")
    assert await through(**kit.policies(policy)) == await through()
    assert policy.judged[-1].name == "rm"
    assert all(call.arguments.count("{") == call.arguments.count("}") == 1 for call in policy.judged)
    assert len(policy.judged) == len({call.id + call.name for call in policy.judged})


async def test_hook_register_tool_policies_text_passes_at_once(kit: Any) -> None:
    later = asyncio.Event()
    vendor = kit.Vendor(say("at once"), later, tool("ls"), finish("tool_calls"))
    async with kit.client(vendor, **kit.policies(kit.Policy(rm="deny"))) as ask:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with ask.session.post(f"{ask.url}/v1/chat/completions", json=body) as response:
            assert b"at once" in await response.content.readuntil(b"\n\n")
            later.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


async def test_hook_register_tool_policies_a_call_of_one_choice_waits_for_that_choice_to_end(kit: Any) -> None:
    """The first choice's end must not let the half of the second's call out, nor have it judged by half."""
    policy = kit.Policy(secret="deny")
    script = (
        say("x"), tool("ls"), tool("ls", '{"a": "', index=1), finish("tool_calls"), more('secret"}', index=1),
        finish("tool_calls", 1),
    )  # fmt: skip
    async with kit.client(kit.Vendor(*script), **kit.policies(policy)) as ask:
        answer = await ask.chat(stream=True, n=2)
    assert answer.events[-1]["error"]["code"] == "tool_call_denied"
    assert [call.arguments for call in policy.judged] == ["{}", '{"a": "secret"}']
    assert b"tool_calls" not in answer.body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("broken", [RuntimeError("secret"), ConnectionError("secret")])
async def test_hook_register_tool_policies_one_that_breaks_lets_no_call_out(
    kit: Any, stream: bool, broken: Exception
) -> None:
    policy, watch = kit.Policy(), kit.Watching()
    policy.broken = broken
    vendor = kit.Vendor(say("let me "), tool("rm"), finish("tool_calls"), message=called("rm"))
    async with kit.client(vendor, **kit.policies(policy), w=kit.specimen(register_observers=[watch])) as ask:
        answer = await ask.chat(stream=stream)
        await watch.over.wait()
    assert b"secret" not in answer.body
    assert b'"rm"' not in answer.body
    assert b"[DONE]" not in answer.body
    assert watch.outcomes[0].status == ("partial" if stream else "failed")
    assert answer.status == (200 if stream else 500)
    assert watch.outcomes[0].code == "server_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_tool_policies_judge_cached_answers_too(kit: Any, stream: bool) -> None:
    policy = kit.Policy()
    vendor = kit.Vendor(say("let me "), tool("rm"), finish("tool_calls"), message=called("rm"))
    memory = kit.Memory()
    async with kit.client(vendor, **kit.policies(policy), c=kit.specimen(register_caches=[memory])) as ask:
        assert (await ask.chat(stream=stream)).status == 200
        await memory.stored.wait()
        policy.verdicts["rm"] = "deny"
        answer = await ask.chat(stream=stream)
    assert answer.status == 403
    assert b'"rm"' not in answer.body
