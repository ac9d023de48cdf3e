"""Decides which tools models may call, checks what they call them with, and asks people where the operator wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gatehook import CATALOG, DATABASE, DIRECTORY, ByteSize, Route, Section, ServiceKey, ToolPolicy, hookimpl
from gatehook_plugins.tool_policy.admin import PolicyRoutes
from gatehook_plugins.tool_policy.desk import Desk
from gatehook_plugins.tool_policy.notes import Notes, OnFailure
from gatehook_plugins.tool_policy.policy import Invalid, OperatorPolicy
from gatehook_plugins.tool_policy.routes import ToolRoutes
from gatehook_plugins.tool_policy.rules import Kind, Rule
from gatehook_plugins.tool_policy.standing import Standing

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["ToolPolicyPlugin"]


class ToolPolicyPlugin:
    """Rules on tools. Where calls have to be confirmed, they wait in the database."""

    class Settings(Section):
        """[plugins.tool_policy]."""

        default: Kind = Field(default="allow", description="what holds for tools that no rule fits")
        rules: list[Rule] = Field(
            default=[],
            description="verdicts by patterns of tool, user and model; the strictest of those that fit holds",
        )
        invalid: Invalid = Field(
            default="retry", description="what becomes of calls that break the tool's schema: refuse, retry, or pass"
        )
        retries: int = Field(default=2, ge=0, le=8, description="how often a model is told that its calls are invalid")
        expires_after: float = Field(
            default=600.0, gt=0, le=2_592_000, description="seconds until what nobody has confirmed is denied"
        )
        max_pending: int = Field(default=100, ge=1, le=10_000, description="sessions of a user that may wait at a time")
        max_conversation: ByteSize = Field(
            default=4 << 20, description="largest conversation that is kept until somebody confirms"
        )
        retention: float = Field(
            default=86_400.0, ge=0, le=31_536_000, description="seconds for which decided sessions are remembered"
        )

        on_failure: OnFailure = Field(
            default="closed",
            description="while decisions cannot be written to the audit: 'closed', tool calls are refused with 503; "
            "'open', they go out, and the log tells what was decided",
        )

        @property
        def asks(self) -> bool:
            """Whether these rules can want a confirmation."""
            return self.default == "confirm" or any(rule.verdict == "confirm" for rule in self.rules)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._standing = Standing(settings.rules, settings.default)
        self._desk: Desk | None = None
        self._notes: Notes | None = None
        # Without a rule that asks, the database is only where an administrator could set one.
        self.requires: tuple[ServiceKey[Any], ...] = (CATALOG, *((DATABASE, DIRECTORY) if settings.asks else ()))

    @hookimpl
    def register_tool_policies(self, gateway: Gateway) -> Iterable[ToolPolicy]:
        """One policy."""
        settings, services = self._settings, gateway.services
        database, directory = services.get(DATABASE), services.get(DIRECTORY)
        if database is not None and directory is not None:
            self._standing.follow(directory)
            self._notes = Notes(database, directory, settings.on_failure)
            self._desk = Desk(
                database,
                directory,
                lifetime=settings.expires_after,
                retention=settings.retention,
                most=settings.max_pending,
                largest=settings.max_conversation,
            )
        return [
            OperatorPolicy(
                self._standing,
                services[CATALOG],
                self._desk,
                self._notes,
                invalid=settings.invalid,
                retries=settings.retries,
            )
        ]

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """Deciding, under /v1/tools, and rules set at run time, under /admin/tools; both live in the database."""
        if self._desk is None:
            return []
        tools = ToolRoutes(gateway, self._desk, self._standing)
        policy = PolicyRoutes(gateway.services[DIRECTORY], self._standing)
        return [*tools.routes(), *policy.routes()]

    @hookimpl
    def register_lifespans(self) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The table of what waits, the task that lets it expire, and the audit's last lines."""
        return [one.lifespan for one in (self._desk, self._notes) if one is not None]
