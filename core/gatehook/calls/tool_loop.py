"""Rounds: a model calls tools of the gateway's own, they are run, and it is called again with their results.

Another round follows only if the model calls nothing but own tools. If it calls the client's as well, the client gets
its calls, and the own ones are dropped without being run: the client's next request does not mention them, and the
model calls them again if it still wants to. So nothing is run twice, and the conversation that the client keeps is
always complete.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gatehook.calls.attempts import Stream
from gatehook.calls.failover import Failover
from gatehook.calls.record import Record
from gatehook.calls.stages import Concerns, Permits, admit_round, routed
from gatehook.calls.transforms import heard
from gatehook.errors import Retry, UpstreamError
from gatehook.jsonio import encode
from gatehook.model import Call, Completion, Target, ToolCall
from gatehook.tools.calls import GAP, identified
from gatehook.tools.own import read_arguments, tool_names

__all__ = ["ToolLoop", "after_said"]

log = logging.getLogger("gatehook.tools")

_MOST_CALLS = 64
"""Tool calls that are run in one round; a model that makes more has lost its way, and the rest is left out."""

_CUT = ("length", "content_filter")
"""Finish reasons of answers whose tool calls may be incomplete."""


class ToolLoop:
    """The rounds of one call to whose model own tools are offered."""

    def __init__(self, call: Call, concerns: Concerns, failover: Failover, permits: Permits, record: Record) -> None:
        """`record` is told what each round uses, `permits` when one is over."""
        self._call = call
        self._concerns = concerns
        self._failover = failover
        self._permits = permits
        self.record = record
        self._own = call.own_tools.keys() & set(tool_names(call.payload.get("tools") or ()))
        """The names of those that the tool policies let the model see."""
        call.said = ""

    async def complete(self) -> Completion:
        """A whole answer: the last round's, with the usage of all; what was said before it is in `call.said`.

        Raises:
            GatewayError: a round gets no answer, calls a tool that a policy denies, or is one too many.
        """
        while True:
            completion = await self._failover.complete(self._call, await self._targets(), self._permits)
            self.record.spent(completion)
            choices = completion.data.get("choices") or []
            choice = choices[0] if len(choices) == 1 else {}
            message = choice.get("message") or {}
            calls = message.get("tool_calls") or ()
            if not self.goes_on(calls, choice.get("finish_reason")):
                return self._shown(completion, message, self.of_client(calls))
            if not await self.went_on(message):
                return self._shown(completion, message, calls)

    async def stream(self) -> Stream:
        """The next round's stream, whose first content has arrived.

        Raises:
            GatewayError: there is none.
        """
        return await self._failover.stream(self._call, await self._targets(), self._permits)

    def goes_on(self, calls: Sequence[Mapping[str, Any]], finish_reason: Any) -> bool:
        """Whether an answer with these tool calls (in OpenAI's shape) is to be followed by another round."""
        return bool(calls) and finish_reason not in _CUT and not self.of_client(calls)

    def of_client(self, calls: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The tool calls that the client has to run."""
        return [one for one in calls if (one.get("function") or {}).get("name") not in self._own]

    async def went_on(self, message: Mapping[str, Any]) -> bool:
        """Run the tools that the model has called, if policies allow that, and make `call.body` the next request.

        Args:
            message: the model's; all its tool calls are of own tools.

        Returns:
            Whether they were run. If not, a policy does not simply allow them: they are judged like a client's calls.

        Raises:
            GatewayError: a policy denies a call (see `ToolPolicies.judge`), or a transform refuses the next request.
            RateLimited: a limiter has no room for another round.
            UpstreamError: there were `tools.max_rounds` rounds already.
        """
        message = identified(heard(self._call, message))
        calls = message.get("tool_calls") or ()
        if not calls or not await self._may_run(message):
            return False
        await self._run(message, calls)
        return True

    async def _may_run(self, message: Mapping[str, Any]) -> bool:
        tools = self._concerns.tools
        return not tools.policies or (await tools.ruling(self._call, [message])).kind == "allow"

    async def _run(self, message: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> None:
        call, own = self._call, self._concerns.own_tools
        assert own is not None, "own tools are called where there are some"  # noqa: S101
        if call.tool_rounds >= own.max_rounds:
            raise UpstreamError(
                f"the model still calls tools after {call.tool_rounds} rounds (tools.max_rounds)",
                code="too_many_tool_rounds",
                retry=Retry.NEVER,
            )
        wanted = [_with_text(one) for one in calls[:_MOST_CALLS]]
        named = [ToolCall(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in wanted]
        await self._permits.round_over(self.record.outcome_of_round(over=True))
        self.record.next_round()
        call.tool_rounds += 1
        log.debug("%s runs %s", call.id, ", ".join(one.name for one in named))
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(own.execute(call, one)) for one in named]
        results = {one.id: run.result() for one, run in zip(named, runs, strict=True)}
        if isinstance(text := message.get("content"), str) and text:
            call.said = GAP.join(filter(None, [call.said, text]))
        said = {name: value for name, value in message.items() if value is not None}
        whole = {"content": None, **said, "tool_calls": _readable(wanted)}
        await self._concerns.transforms.follow_up(call, whole, results)
        await admit_round(self._concerns.limiters, call)

    async def _targets(self) -> Sequence[Target]:
        return await routed(self._concerns.routers, self._call)

    def _shown(
        self, completion: Completion, message: Mapping[str, Any], left: Sequence[Mapping[str, Any]]
    ) -> Completion:
        """The last answer as it goes out: with only the calls that are `left`, and the usage of all rounds."""
        calls = message.get("tool_calls") or []
        if not self._call.tool_rounds and len(left) == len(calls):
            return completion
        message = dict(message)
        if len(left) < len(calls):
            message["tool_calls"] = left
            if not left:
                del message["tool_calls"]
        data = dict(completion.data)
        if message:
            data["choices"] = [{**data["choices"][0], "message": message}]
        usage = self.record.streamed()
        if usage is not None and data.get("usage"):
            data["usage"] = usage.as_openai()
        return Completion(data, usage=usage)


def after_said(said: str, completion: Completion) -> Completion:
    """The last answer with all that was `said` in earlier rounds before it, as the client gets it."""
    choices = completion.data.get("choices")
    choice: dict[str, Any] = choices[0] if choices else {"index": 0, "finish_reason": "stop"}
    message = choice.get("message") or {"role": "assistant"}
    content = GAP.join(filter(None, [said, message.get("content")]))
    data = {**completion.data, "choices": [{**choice, "message": {**message, "content": content}}]}
    return Completion(data, usage=completion.usage)


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments are JSON text: some servers give an object instead."""
    arguments = call["function"].get("arguments") or ""
    text = arguments if isinstance(arguments, str) else encode(arguments).decode()
    return {**call, "type": "function", "function": {**call["function"], "arguments": text}}


def _readable(calls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The tool calls with arguments that every vendor accepts: some parse them, and refuse what is not an object."""
    return [
        call
        if read_arguments(call["function"]["arguments"]) is not None and call["function"]["arguments"].strip()
        else {**call, "function": {**call["function"], "arguments": "{}"}}
        for call in calls
    ]
