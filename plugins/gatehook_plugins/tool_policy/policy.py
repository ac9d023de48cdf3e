"""The operator's policy on tools: which are shown, which calls go out, and which wait for somebody."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from gatehook import (
    Call,
    Catalog,
    Confirmer,
    PermissionDenied,
    Question,
    ToolCall,
    ToolPolicy,
    UpstreamError,
    Verdict,
)
from gatehook_plugins.tool_policy.desk import Desk
from gatehook_plugins.tool_policy.notes import Decided, Notes
from gatehook_plugins.tool_policy.offered import fault_of, name_of, schemas_of
from gatehook_plugins.tool_policy.standing import Standing

__all__ = ["Invalid", "OperatorPolicy"]

Invalid = Literal["refuse", "retry", "pass"]

_STATE: Final = "tool_policy"
"""Where a call keeps the schemas of the tools it was offered."""


class OperatorPolicy:
    """Implements `gatehook.ToolPolicy` and `gatehook.Confirmer`."""

    def __init__(
        self,
        standing: Standing,
        catalog: Catalog,
        desk: Desk | None,
        notes: Notes | None,
        *,
        invalid: Invalid,
        retries: int,
    ) -> None:
        """`desk` and `notes` are there where there is a database.

        Args:
            standing: the rules that hold.
            catalog: tells which model is behind an alias.
            desk: keeps calls that are to be confirmed; without one they are denied.
            notes: writes other decisions into the audit; without one nobody does.
            invalid: what becomes of calls that break the tool's schema.
            retries: how often a model is told that its calls are invalid.
        """
        self._standing = standing
        self._catalog = catalog
        self._desk = desk
        self._notes = notes
        self._invalid = invalid
        self._retries = retries

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The tools that are not denied.

        Raises:
            InvalidRequest: the schema of one of them is no valid JSON Schema.
        """
        shown = [tool for tool in tools if self._verdict(call, name_of(tool)).kind != "deny"]
        if self._invalid != "pass":
            call.state[_STATE] = {**schemas_of(shown), **call.state.get(_STATE, {})}
        return shown

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        """What the rules say. A call whose arguments are invalid is not put before anybody.

        Raises:
            UpstreamError: the call is invalid, and the model is not to be told so (any more).
            Unavailable: the decision cannot be written to the audit.
        """
        verdict = self._verdict(call, tool_call.name)
        if verdict.kind == "deny":
            await self._note(call, tool_call, "denied")
            return verdict
        fault = "" if self._invalid == "pass" else self._fault(call, tool_call)
        if not fault:
            if verdict.kind == "allow":
                await self._note(call, tool_call, "allowed")
            return verdict
        if self._invalid == "retry" and call.rounds < self._retries:
            await self._note(call, tool_call, "returned")
            return Verdict("retry", f"The call is invalid, and was not made: {fault}")
        await self._note(call, tool_call, "invalid")
        message = f"the model's call of tool {tool_call.name!r} is invalid: {fault}"
        raise UpstreamError(message, code="tool_call_invalid")

    async def ask(self, call: Call, question: Question) -> Mapping[str, Any]:
        """Keep the calls until somebody decides.

        Raises:
            PermissionDenied: there is no database to keep them in, or they are too large.
            RateLimited: too many of this user's wait already. Unavailable: the database is away.
        """
        if self._desk is None:
            raise PermissionDenied(
                f"the model's call of tool {question.pending[0].name!r} needs a confirmation, until which it would be "
                "kept in the database; enable [plugins.database]",
                code="tool_call_denied",
            )
        return await self._desk.keep(call, question)

    def _fault(self, call: Call, tool_call: ToolCall) -> str:
        return fault_of(call.state.get(_STATE, {}), tool_call.name, tool_call.arguments)

    async def _note(self, call: Call, tool_call: ToolCall, decided: Decided) -> None:
        if self._notes is not None:
            await self._notes.note(call, tool_call, decided)

    def _verdict(self, call: Call, tool: str) -> Verdict:
        # The model that was asked for, what that name is an alias of, and the fallback that answers.
        models = {call.model, self._catalog.canonical(call.model), call.public_name}
        return self._standing.verdict(tool, call.principal.id, models)


_implements: tuple[type[ToolPolicy], type[Confirmer]] = (OperatorPolicy, OperatorPolicy)
