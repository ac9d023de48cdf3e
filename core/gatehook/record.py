"""What became of one call: its status, what was used, and how long it took."""

import time
from typing import Literal

from gatehook.attempts import Stream
from gatehook.errors import GatewayError
from gatehook.model import Call, Completion, Outcome, Usage

__all__ = ["Record"]

_CLIENT_LEFT = 499
"""HTTP has no status for a client that left; nginx's is the one people know."""


class Record:
    """Kept while a call goes on; `outcome` tells in the end what observers and permits are told."""

    __slots__ = ("_call", "_code", "_http_status", "_status", "_usage", "stream")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._status: Literal["complete", "partial", "failed", "rejected", "cached"] = "failed"
        self._http_status = 500
        self._code = ""
        self._usage: Usage | None = None
        self.stream: Stream | None = None
        """The vendor's, if there is one: it counts what it brings."""

    def spent(self, completion: Completion) -> None:
        """A vendor has made this answer, and will be paid for it whatever becomes of it."""
        if completion.usage is None:
            # Of a picture it is not known: a model that counts it by tokens tells them.
            size = 0 if self._call.operation == "images" else len(completion.raw)
            completion.usage = _estimate(self._call, size // 4)
        self._usage = completion.usage

    def complete(self) -> None:
        """The whole answer was given."""
        self._status, self._http_status = "complete", 200

    def accepted(self) -> None:
        """It is queued, to be made later as a call of its own."""
        self._status, self._http_status = "complete", 202

    def cached(self) -> None:
        """The whole answer was given, and nobody was paid for it."""
        self._status, self._http_status, self._usage = "cached", 200, Usage()

    def refused(self, error: GatewayError, *, begun: bool = False) -> None:
        """There was an error; `begun`: after a part of the answer was given."""
        self._code = error.code or error.type
        if begun:
            self._status, self._http_status = "partial", 200
        else:
            self._status = "rejected" if self._call.attempts == 0 else "failed"
            self._http_status = error.status

    def client_left(self, *, begun: bool = False) -> None:
        """Nobody gets the answer; `begun`: a part of it was given."""
        self._status, self._http_status = "partial" if begun else "failed", _CLIENT_LEFT
        self._code = "client_left"

    def streamed(self) -> Usage | None:
        """What the stream used so far."""
        stream = self.stream
        return None if stream is None else stream.usage or _estimate(self._call, stream.contents)

    def outcome(self) -> Outcome:
        """How it ended."""
        call, usage = self._call, self._usage if self.stream is None else self.streamed()
        pricing = None if call.target is None else call.target.pricing
        return Outcome(
            status=self._status,
            http_status=self._http_status,
            usage=usage,
            cost=None if usage is None or pricing is None else usage.cost(pricing),
            code=self._code,
            duration=time.monotonic() - call.started,
            first_token=None if call.first_token is None else call.first_token - call.started,
        )


def _estimate(call: Call, completion_tokens: int) -> Usage:
    """What was used, when the vendor tells nothing: four bytes a token in, one event a token out of a stream."""
    return Usage(len(call.body.raw) // 4, completion_tokens, estimated=True)
