"""The suite for tool policies: they judge every call, whatever it holds, and change nothing that they are shown."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

from gatehook.app import Gateway
from gatehook.jsonio import Document
from gatehook.model import Call, Principal, ToolCall, Verdict
from gatehook.protocols import ToolPolicy
from gatehook.testing.conformance.suite import Suite, check, expect, not_offered

__all__ = ["ToolPolicyConformance"]

ODD = ("", "{", "null", "[]", '"text"', '{"a": NaN}', "{}" * 3, '{"a": "\ud800"}', "x" * 100_000)
"""Arguments that models write at times."""


class ToolPolicyConformance(Suite):
    """Subclass it, and say which tools are allowed, denied, or to be confirmed with `settings`."""

    kind: ClassVar[str] = "tool policy"
    allowed: Sequence[str] = ()
    denied: Sequence[str] = ()
    confirmed: Sequence[str] = ()

    def policy(self, gateway: Gateway) -> ToolPolicy:
        """The policy in question."""
        return self.own(gateway.pipeline.concerns.tools.policies, "tool policy")

    def tools(self) -> list[dict[str, Any]]:
        """All these tools, as a request offers them."""
        parameters = {"type": "object", "properties": {"what": {"type": "string"}}}
        return [
            {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": parameters}}
            for name in (*self.denied, *self.allowed, *self.confirmed)
        ]

    def call(self) -> Call:
        """A call that offers them."""
        call = Call("chat", "openai", {}, principal=Principal("ann"), model="m")
        call.body = Document({"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": self.tools()})
        return call

    @check("tools offered")
    async def test_a_model_sees_a_part_of_the_tools_in_their_order(self) -> None:
        async with self.running() as gateway:
            policy, tools = self.policy(gateway), self.tools()
            left = list(await policy.offer(self.call(), tools))
            strange = [tool for tool in left if tool not in tools]
            expect(not strange, f"tools that the client did not send, or not so: {strange}")
            places = [tools.index(dict(tool)) for tool in left]
            expect(places == sorted(set(places)), "the tools come in another order, or twice")
            expect(list(await policy.offer(self.call(), [])) == [], "of no tools at all, some are left")
            names = [tool["function"]["name"] for tool in left]
            hidden = [name for name in (*self.allowed, *self.confirmed) if name not in names]
            expect(not hidden, f"tools that may be called are kept from the model: {hidden}")

    @check("denied tools")
    async def test_what_is_denied_is_neither_shown_nor_called(self) -> None:
        if not self.denied:
            not_offered("the suite names no denied tools")
        async with self.running() as gateway:
            policy = self.policy(gateway)
            names = [tool["function"]["name"] for tool in await policy.offer(self.call(), self.tools())]
            shown = [name for name in self.denied if name in names]
            expect(not shown, f"the model is shown denied tools: {shown}")
            await self._judged(policy, self.denied, "deny")

    @check("verdicts")
    async def test_each_call_gets_its_verdict(self) -> None:
        async with self.running() as gateway:
            policy = self.policy(gateway)
            await self._judged(policy, self.allowed, "allow")
            await self._judged(policy, self.confirmed, "confirm")

    async def _judged(self, policy: ToolPolicy, names: Sequence[str], wanted: str) -> None:
        for name in names:
            verdict = await policy.judge(self.call(), ToolCall("call_1", name, '{"what": "it"}'))
            expect(isinstance(verdict, Verdict), f"judge() gives {verdict!r}, which is no Verdict")
            expect(verdict.kind == wanted, f"a call of {name!r} gets {verdict.kind!r}, not {wanted!r}")

    @check("odd calls")
    async def test_a_call_is_judged_whatever_the_model_wrote(self) -> None:
        async with self.running() as gateway:
            policy = self.policy(gateway)
            for name in (*self.denied, *self.allowed, *self.confirmed, "", "nobody_offered_this", "ü" * 300):
                for arguments in ODD:
                    call = ToolCall("", name, arguments)
                    try:
                        verdict = await policy.judge(self.call(), call)
                    except Exception as error:  # noqa: BLE001  # whatever it is
                        expect(False, f"judging {name[:40]!r} with arguments {arguments[:40]!r} raises {error!r}")
                    expect(isinstance(verdict, Verdict), f"judge() gives {verdict!r}, which is no Verdict")
                    expect(verdict.kind == "deny" or name not in self.denied, f"odd arguments let {name!r} pass")

    @check("nothing is changed")
    async def test_the_same_question_has_the_same_answer_and_nothing_is_changed(self) -> None:
        async with self.running() as gateway:
            policy, tools, call = self.policy(gateway), self.tools(), self.call()
            kept = deepcopy((tools, call.payload))
            first, again = [list(await policy.offer(call, tools)) for _ in range(2)]
            expect(first == again, "offer() gives another answer the second time")
            for name in (*self.denied, *self.allowed, *self.confirmed):
                tool_call = ToolCall("call_1", name, "{}")
                verdicts = [await policy.judge(call, tool_call) for _ in range(2)]
                expect(verdicts[0] == verdicts[1], f"a call of {name!r} is judged otherwise the second time")
            expect((tools, call.payload) == kept, "the tools or the call it was shown are changed")
