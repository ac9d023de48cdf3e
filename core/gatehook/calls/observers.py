"""The observers of one gateway, told of every call; whatever one of them does, the call goes on."""

import logging
from collections.abc import Callable, Sequence

from gatehook.errors import GatewayError
from gatehook.failures import FAILURES
from gatehook.model import Call, Chunk, Outcome, Target
from gatehook.protocols import Observer

__all__ = ["Observers"]

log = logging.getLogger("gatehook")


class Observers:
    """Calls the methods that observers override; what no observer overrides costs nothing, what raises is swallowed."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.all = observers
        self.failures = 0
        self._reported: set[str] = set()
        self._started = self._methods(observers, "started")
        self._attempt_failed = self._methods(observers, "attempt_failed")
        self._first_token = self._methods(observers, "first_token")
        self._finished = self._methods(observers, "finished")
        self._chunks = self._methods(observers, "chunk")
        self.chunk: Callable[[Call, Chunk], None] | None = self._chunk if self._chunks else None

    @staticmethod
    def _methods(observers: Sequence[Observer], name: str) -> tuple[Callable[..., None], ...]:
        base = getattr(Observer, name)
        return tuple(getattr(one, name) for one in observers if getattr(type(one), name) is not base)

    # `started`, `finished` and `_chunk` do not go through `_tell`: passing on *arguments takes longer.

    def started(self, call: Call) -> None:
        """A request has arrived; see `Observer` for this and the others."""
        for method in self._started:
            try:
                method(call)
            except FAILURES as error:  # whatever an observer does, the call goes on
                self._failed(method, "started", error)

    def finished(self, call: Call, outcome: Outcome) -> None:
        """The call has ended."""
        for method in self._finished:
            try:
                method(call, outcome)
            except FAILURES as error:
                self._failed(method, "finished", error)

    def _chunk(self, call: Call, chunk: Chunk) -> None:
        for method in self._chunks:
            try:
                method(call, chunk)
            except FAILURES as error:
                self._failed(method, "chunk", error)

    def first_token(self, call: Call) -> None:
        """A stream's first content is about to be sent."""
        self._tell(self._first_token, "first_token", call)

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """An attempt has failed."""
        self._tell(self._attempt_failed, "attempt_failed", call, target, error)

    def _tell(self, methods: Sequence[Callable[..., None]], name: str, *arguments: object) -> None:
        for method in methods:
            try:
                method(*arguments)
            except FAILURES as error:
                self._failed(method, name, error)

    def _failed(self, method: Callable[..., None], moment: str, error: BaseException) -> None:
        self.failures += 1
        who = f"{type(getattr(method, '__self__', method)).__name__}.{moment}"
        if who not in self._reported:
            self._reported.add(who)
            log.error("observer %s failed; further failures of it are only counted", who, exc_info=error)
