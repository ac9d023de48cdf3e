"""Checks what somebody decides about the calls of a session, before it counts."""

from typing import Any

from gatehook import Catalog, InvalidRequest, PermissionDenied, encode
from gatehook_plugins.tool_policy.offered import Offered, fault_of, schemas_of
from gatehook_plugins.tool_policy.requests import Confirm
from gatehook_plugins.tool_policy.sessions import Decision, Kept, Session
from gatehook_plugins.tool_policy.standing import Standing

__all__ = ["decided", "require_allowed"]


def decided(asked: Confirm, session: Session, kept: Kept) -> Decision:
    """The decision that a request makes.

    Raises:
        InvalidRequest: an id that does not wait in the session, or is named twice; or arguments for a call that is not
            approved, or that break the tool's schema.
    """
    waiting = {one.id: one for one in session.calls}
    for place, one in enumerate(asked.approved_ids):
        path = f"approved_ids[{place}]"
        if one not in waiting:
            raise _wrong(path, f"no call {one[:80]!r} waits in this session; there are: {', '.join(waiting)}")
        if one in asked.approved_ids[:place]:
            raise _wrong(path, f"the call {one[:80]!r} is named twice")
    for one in asked.arguments:
        if one not in asked.approved_ids:
            raise _wrong("arguments", f"the call {one[:80]!r} is not among approved_ids")
    offered = _offered(kept) if asked.arguments else {}
    approved = {one: waiting[one].arguments for one in asked.approved_ids}
    for one, arguments in asked.arguments.items():
        approved[one] = _edited(arguments, offered, waiting[one].name, f"arguments.{one[:80]}")
    return Decision(approved, asked.reason)


def require_allowed(decision: Decision, session: Session, standing: Standing, catalog: Catalog) -> None:
    """See that the approved calls may still be made.

    Raises:
        PermissionDenied: by now a rule denies one of them; they still wait.
    """
    models = {session.model, catalog.canonical(session.model)}
    for one in session.calls:
        if (
            one.id in decision.approved
            and (verdict := standing.verdict(one.name, session.user_id, models)).kind == "deny"
        ):
            reason = f": {verdict.reason}" if verdict.reason else ""
            raise PermissionDenied(f"the tool {one.name!r} is denied by now{reason}", code="tool_call_denied")


def _offered(kept: Kept) -> Offered:
    old, tools = kept.body.get("functions"), kept.body.get("tools")
    listed = [{"function": one} for one in old] if isinstance(old, list) else []
    return schemas_of([*(tools if isinstance(tools, list) else []), *listed, *kept.own])


def _edited(arguments: dict[str, Any] | str, offered: Offered, name: str, path: str) -> str:
    text = arguments if isinstance(arguments, str) else encode(arguments).decode()
    if fault := fault_of(offered, name, text):
        raise InvalidRequest(f"{path}: {fault}", param="arguments", code="invalid_arguments")
    return text


def _wrong(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {what}", param=path.partition("[")[0], code="invalid_value")
