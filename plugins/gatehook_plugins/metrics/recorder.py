"""Counting, once per request and on the event loop: plain numbers in dictionaries, no locks, nothing formatted.

Every label is bounded, whatever clients and vendors send: models are names that have deployments, vendors are the
operator's, and of error codes (vendors make up their own) only so many different ones are told apart.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gatehook import Call, Catalog, GatewayError, Observer, Outcome, Target

__all__ = ["DURATION_BOUNDS", "MAX_CODES", "TTFT_BOUNDS", "Histogram", "Recorder", "Snapshot"]

DURATION_BOUNDS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TTFT_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)

MAX_CODES: Final = 100
"""Different error codes that get a series of their own; later ones are counted as "other"."""

UNKNOWN: Final = "unknown"
NONE: Final = "none"


class Histogram:
    """How many values fell between the bounds, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """One per bound, not cumulative, then one for what is above the last."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value; one that equals a bound lies below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All numbers at one moment."""

    in_flight: int
    successful: int
    failed: int
    requests: dict[Labels, int]
    """By model, vendor, outcome, code."""
    tokens: dict[Labels, int]
    """By model, kind."""
    failures: dict[Labels, int]
    """By vendor, model, code."""
    durations: dict[tuple[str, int], tuple[list[int], float]]
    """By operation, HTTP status: counts and sum."""
    first_tokens: dict[str, tuple[list[int], float]]
    """By model: counts and sum."""


class Recorder(Observer):
    """Watches calls and counts. The catalog tells which names are models."""

    def __init__(self, catalog: Catalog | None = None) -> None:
        self.catalog = catalog
        self._in_flight = 0
        self._successful = 0
        self._failed = 0
        self._requests: dict[Labels, int] = {}
        self._tokens: dict[Labels, int] = {}
        self._failures: dict[Labels, int] = {}
        self._durations: dict[tuple[str, int], Histogram] = {}
        self._first_tokens: dict[str, Histogram] = {}
        self._codes: set[str] = {""}

    def started(self, call: Call) -> None:
        """One more is running."""
        self._in_flight += 1

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """A deployment failed; the call may still succeed at another."""
        key = (target.vendor, target.name, self._bounded(error.code or error.type))
        self._failures[key] = self._failures.get(key, 0) + 1

    def finished(self, call: Call, outcome: Outcome) -> None:
        """One less is running; all that is counted of a call is counted here."""
        self._in_flight -= 1
        status = outcome.status
        if status in ("complete", "cached"):
            self._successful += 1
        else:
            self._failed += 1

        target = call.target
        if target is not None:
            model, vendor = target.name, target.vendor
        else:
            model, vendor = self._name(call.model), NONE
        requests = self._requests
        key = (model, vendor, status, self._bounded(outcome.code))
        requests[key] = requests.get(key, 0) + 1

        place = (call.operation, outcome.http_status)
        if (durations := self._durations.get(place)) is None:
            durations = self._durations[place] = Histogram(DURATION_BOUNDS)
        durations.observe(outcome.duration)

        if (first := outcome.first_token) is not None:
            if (first_tokens := self._first_tokens.get(model)) is None:
                first_tokens = self._first_tokens[model] = Histogram(TTFT_BOUNDS)
            first_tokens.observe(first)

        if (usage := outcome.usage) is not None:
            tokens = self._tokens
            for kind, count in (
                ("prompt", usage.prompt_tokens),
                ("completion", usage.completion_tokens),
                ("cached", usage.cached_tokens),
                ("reasoning", usage.reasoning_tokens),
            ):
                if count:
                    tokens[model, kind] = tokens.get((model, kind), 0) + count

    def snapshot(self) -> Snapshot:
        """A copy, for whoever formats it elsewhere while counting goes on."""
        return Snapshot(
            in_flight=self._in_flight,
            successful=self._successful,
            failed=self._failed,
            requests=self._requests.copy(),
            tokens=self._tokens.copy(),
            failures=self._failures.copy(),
            durations={key: (one.counts.copy(), one.total) for key, one in self._durations.items()},
            first_tokens={key: (one.counts.copy(), one.total) for key, one in self._first_tokens.items()},
        )

    def _name(self, model: str) -> str:
        """What a call that was not routed asked for, if that is a model at all."""
        return model if self.catalog is not None and self.catalog.group(model) else UNKNOWN

    def _bounded(self, code: str) -> str:
        codes = self._codes
        if code in codes:
            return code
        if len(codes) > MAX_CODES or len(code) > 64:
            return "other"
        codes.add(code)
        return code
