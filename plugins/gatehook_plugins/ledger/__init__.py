"""One row per request: who, what, how many tokens, what it cost, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from gatehook import (
    CATALOG,
    DATABASE,
    DIRECTORY,
    LEDGER,
    Command,
    Ledger,
    Limiter,
    Observer,
    Section,
    ServiceKey,
    Trimmer,
    hookimpl,
)
from gatehook_plugins.ledger.recorder import Recorder
from gatehook_plugins.ledger.service import GroupLedger
from gatehook_plugins.ledger.trimming import delete_some

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["LedgerPlugin"]


class LedgerPlugin:
    """Writes down what is used, exactly once, in the database; until it is there, in a journal on disk."""

    class Settings(Section):
        """[plugins.ledger]."""

        order: int = Field(default=1000, description="last, so that only what all others admit is written down first")
        directory: str = Field(
            default="gatehook-ledger",
            min_length=1,
            description="where the journal is, seen from the settings file; on a disk of this machine",
        )
        flush_interval: float = Field(
            default=0.25, ge=0, le=60, description="seconds a row may wait for others to be written with"
        )
        keep_days: int = Field(default=0, ge=0, le=36_500, description="days after which rows are deleted; 0 for never")

    requires = (DATABASE, DIRECTORY, CATALOG)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger: GroupLedger | None = None

    @hookimpl
    def register_services(self, gateway: Gateway) -> Iterable[tuple[ServiceKey[Ledger], Ledger]]:
        """The ledger."""
        return [(LEDGER, self._of(gateway))]

    @hookimpl
    def register_limiters(self, gateway: Gateway) -> Iterable[Limiter]:
        """The recorder, which writes down that a request is about to be made."""
        return [self._recorder(gateway)]

    @hookimpl
    def register_observers(self, gateway: Gateway) -> Iterable[Observer]:
        """The recorder again, which writes down how a request ended."""
        return [self._recorder(gateway)]

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The journal, what empties it into the database, and what deletes old rows there."""
        directory = gateway.settings.path.parent / self._settings.directory
        ledger, interval = self._of(gateway), self._settings.flush_interval
        trimmer = Trimmer("rows of the ledger", self._settings.keep_days, partial(delete_some, gateway.services))
        keeping = [trimmer.lifespan] if self._settings.keep_days else []
        return [lambda: ledger.lifespan(directory, interval, lambda: gateway.serving), *keeping]

    @hookimpl
    def register_commands(self, gateway: Gateway) -> Iterable[Command]:
        """`gatehook usage`."""
        from gatehook_plugins.ledger.command import UsageCommand  # a gateway that serves asks for none

        command = UsageCommand(self._of(gateway), gateway.services)
        return [Command("usage", "show what was used: --user, --model, --since, --by, --json", command.run)]

    def _recorder(self, gateway: Gateway) -> Recorder:
        return Recorder(gateway.services[CATALOG], self._of(gateway))

    def _of(self, gateway: Gateway) -> GroupLedger:
        if self._ledger is None:
            self._ledger = GroupLedger(gateway.services)
        return self._ledger
