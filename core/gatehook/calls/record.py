"""What became of one call: its status, what was used, and how long it took."""

import time
from typing import Final, Literal, Protocol

from msgspec import Struct, structs

from gatehook.accounts import Cost, Usage
from gatehook.errors import GatewayError
from gatehook.estimates import estimated_usage, written
from gatehook.model import Call, Completion, Outcome

__all__ = ["Counted", "Record"]

_CLIENT_LEFT = 499
"""HTTP has no status for a client that left; nginx's is the one people know."""

_MOST_PAID: Final = 10**15
"""Nano-dollars of prompt or answer that are believed, a million dollars: sums of these fit into 64 bits."""


class Counted(Protocol):
    """A stream that counts what it brings."""

    @property
    def usage(self) -> Usage | None:
        """What the vendor has told so far."""
        ...

    @property
    def contents(self) -> int:
        """Events with content so far."""
        ...

    @property
    def finished(self) -> bool:
        """Whether a finish reason has come, so that `usage` is final."""
        ...


class Record(Struct, eq=False):
    """Keeps, while a call goes on, what its `outcome` will say to observers and permits."""

    _call: Call
    _status: Literal["complete", "partial", "failed", "rejected", "cached"] = "failed"
    _http_status: int = 500
    _code: str = ""
    _usage: Usage | None = None
    _earlier: tuple[Usage | None, Cost | None] | None = None
    """Usage and cost of the rounds before this one; see `next_round`."""
    _attempts: int = 0
    """The attempts of those rounds."""
    stream: Counted | None = None
    """The vendor's stream, if the answer is streamed."""

    def spent(self, completion: Completion) -> None:
        """Note a vendor's answer, which will be paid for whatever becomes of it; its usage is estimated if untold."""
        if completion.usage is None:
            # Of vectors and pictures the size in bytes says nothing about tokens.
            tokens = 0 if self._call.operation in ("embeddings", "images") else written(completion)
            completion.usage = estimated_usage(self._call, tokens)
        self._usage = completion.usage

    def next_round(self) -> None:
        """Begin another round: what was used so far is kept, at the price of the deployment that answered."""
        self._earlier = self._call.spent = self._in_all()
        self._usage = self.stream = None
        self._attempts = self._call.attempts

    def complete(self) -> None:
        """Note that the whole answer was given."""
        self._status, self._http_status = "complete", 200

    def accepted(self) -> None:
        """Note that the call was queued as a job, which will be a call of its own."""
        self._status, self._http_status = "complete", 202

    def cached(self) -> None:
        """Note that the whole answer was given from a cache, at no cost."""
        self._status, self._http_status, self._usage = "cached", 200, Usage()

    def refused(self, error: GatewayError, *, begun: bool = False) -> None:
        """Note an error; `begun`: a part of the answer had been given before."""
        self._code = error.code or error.type
        if begun:
            self._status, self._http_status = "partial", 200
        else:
            self._status = "rejected" if self._call.attempts == 0 else "failed"
            self._http_status = error.status

    def client_left(self, *, begun: bool = False) -> None:
        """Note that the client has left; `begun`: a part of the answer had been given before."""
        self._status, self._http_status = "partial" if begun else "failed", _CLIENT_LEFT
        self._code = "client_left"
        if self.stream is None and self._usage is None and self._is_asking:
            self._usage = estimated_usage(self._call, 0)  # the vendor has the prompt, and works for whoever has left

    @property
    def _is_asking(self) -> bool:
        """Whether an attempt of this round is under way, and not a wait for a limit or before a retry."""
        return self._call.attempts > self._attempts and self._call.served != ""

    def streamed(self) -> Usage | None:
        """What all rounds have used so far."""
        return self._of_round() if self._earlier is None else self._in_all()[0]

    def outcome(self) -> Outcome:
        """How the call ended."""
        if self._earlier is not None:
            return self._outcome(*self._in_all())
        usage = self._of_round()
        return self._outcome(usage, self._cost(usage))

    def outcome_of_round(self, *, over: bool = False) -> Outcome:
        """How the current round alone ended; `over`: it ended well, and another one follows."""
        usage = self._of_round()
        outcome = self._outcome(usage, self._cost(usage))
        return structs.replace(outcome, status="complete", http_status=200) if over else outcome

    def _outcome(self, usage: Usage | None, cost: Cost | None) -> Outcome:
        begun, first = self._call.started, self._call.first_token
        return Outcome(
            self._status,
            self._http_status,
            usage,
            self._code,
            time.monotonic() - begun,
            None if first is None else first - begun,
            cost,
        )

    def _of_round(self) -> Usage | None:
        stream = self.stream
        usage = self._usage if stream is None else _so_far(self._call, stream)
        return usage if usage is None or usage.is_credible() else usage.as_far_as_credible()

    def _cost(self, usage: Usage | None) -> Cost | None:
        target = self._call.target
        if usage is None or target is None or target.pricing is None:
            return None
        cost = usage.cost(target.pricing)
        if cost.input > _MOST_PAID or cost.output > _MOST_PAID:  # hardly ever
            return Cost(min(cost.input, _MOST_PAID), min(cost.output, _MOST_PAID))
        return cost

    def _in_all(self) -> tuple[Usage | None, Cost | None]:
        """Usage and cost of this round and those before it."""
        usage = self._of_round()
        both = [(usage, self._cost(usage)), *([] if self._earlier is None else [self._earlier])]
        used = [usage for usage, _ in both if usage is not None]
        paid = [cost for _, cost in both if cost is not None]
        return sum(used[1:], used[0]) if used else None, sum(paid[1:], paid[0]) if paid else None


def _so_far(call: Call, stream: Counted) -> Usage:
    """What a stream used, as the vendor tells; of one that broke off, at least a token for each event with content."""
    told = stream.usage
    if told is None:
        return estimated_usage(call, stream.contents)
    if stream.finished or told.completion_tokens >= stream.contents:
        return told
    return structs.replace(told, completion_tokens=stream.contents, estimated=True)
