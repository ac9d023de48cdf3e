"""Counting, once per request and on the event loop: plain additions, no locks, nothing formatted.

Every label is bounded, whatever clients and vendors send: models are names that have deployments, vendors are the
operator's, and of error codes (vendors make up their own) only so many different ones are told apart.
"""

from bisect import bisect_left
from typing import Final

from msgspec import Struct

from gatehook import Call, Catalog, GatewayError, Observer, Outcome, Target
from gatehook_plugins.metrics.numbers import RUNNING, Numbers, observe

__all__ = [
    "DURATIONS",
    "DURATION_BOUNDS",
    "FAILURES",
    "FIRST_TOKENS",
    "INFERENCES",
    "MAX_CODES",
    "REQUESTS",
    "TOKENS",
    "TOKEN_KINDS",
    "TTFT_BOUNDS",
    "Recorder",
]

DURATION_BOUNDS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TTFT_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)

REQUESTS: Final = "requests"
"""Labels: model, vendor, outcome, code."""
TOKENS: Final = "tokens"
"""Label: model. A cell for each of TOKEN_KINDS."""
TOKEN_KINDS: Final = ("prompt", "completion", "cached", "reasoning")
FAILURES: Final = "failures"
"""Labels: vendor, model, code."""
DURATIONS: Final = "durations"
"""Labels: operation, HTTP status. A histogram."""
INFERENCES: Final = "inferences"
"""Label: model. A histogram of those that a vendor answered."""
FIRST_TOKENS: Final = "first_tokens"
"""Label: model. A histogram."""

_DURATIONS_SUM: Final = len(DURATION_BOUNDS) + 1
"""The cell of the sum, counted from the first of a series."""

MAX_CODES: Final = 100
"""Different error codes that get a series of their own; later ones are counted as "other"."""

UNKNOWN: Final = "unknown"
NONE: Final = "none"

_REMEMBERED: Final = 1_000
"""Kinds of calls whose places are kept ready; vendors make up codes, and clients names that wildcards serve."""
_LONGEST: Final = 200
"""Characters of a kind's name and code together; kinds with longer ones are looked up each time."""


class Recorder(Observer):
    """Watches calls and counts."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self._catalog: Catalog | None = None
        self._times_models = False
        self._codes: set[str] = {""}
        self._kinds: dict[_Kind, _Places] = {}

    def name_models_by(self, catalog: Catalog) -> None:
        """Learn from this catalog which names are models. Without a catalog, no name is."""
        self._catalog = catalog
        catalog.subscribe(self._kinds.clear)

    def time_models(self) -> None:
        """Count durations by model, too."""
        self._times_models = True
        self._kinds.clear()

    def go_on(self, numbers: Numbers) -> None:
        """Count in these numbers from now on, on top of what they hold already."""
        self.numbers = numbers
        self._codes.update(str(code) for family, *_, code in numbers.names() if family in (REQUESTS, FAILURES))
        self._kinds.clear()

    def started(self, call: Call) -> None:
        """One more is running."""
        self.numbers.cells[RUNNING] += 1.0

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """A deployment failed; the call may still succeed at another."""
        code = self._bounded(error.code or error.type)
        self.numbers.count((FAILURES, target.vendor, self._model(target.name), code))

    def finished(self, call: Call, outcome: Outcome) -> None:
        """One less is running; all that is counted of a call is counted here."""
        cells = self.numbers.cells
        cells[RUNNING] -= 1.0
        target, usage, first = call.target, outcome.usage, outcome.first_token
        kind = (
            call.model if target is None else target.name,
            None if target is None else target.vendor,
            call.operation,
            outcome.status,
            outcome.http_status,
            outcome.code,
            usage is None,
            first is None,
        )
        places = self._kinds.get(kind)
        if places is None:
            places = self._found(kind)
            cells = self.numbers.cells  # others, if a series was made
        cells[places.requests] += 1.0
        # As `observe` does, whose call would cost as much again: this is done for every request.
        duration, durations = outcome.duration, places.durations
        cells[durations + bisect_left(DURATION_BOUNDS, duration)] += 1.0
        cells[durations + _DURATIONS_SUM] += duration
        if usage is not None:
            tokens = places.tokens
            cells[tokens] += usage.prompt_tokens
            cells[tokens + 1] += usage.completion_tokens
            if usage.cached_tokens:
                cells[tokens + 2] += usage.cached_tokens
            if usage.reasoning_tokens:
                cells[tokens + 3] += usage.reasoning_tokens
        if first is not None:
            observe(cells, places.first_tokens, TTFT_BOUNDS, first)
        if places.inferences:
            observe(cells, places.inferences, DURATION_BOUNDS, duration)

    def _found(self, kind: "_Kind") -> "_Places":
        """Where calls of this kind are counted; remembered for the next call, unless clients could fill the memory."""
        name, vendor, operation, status, http_status, code, lacks_usage, lacks_first_token = kind
        model = self._asked(name) if vendor is None else self._model(name)
        place, timed = self.numbers.place, self._times_models and status in ("complete", "partial")
        places = _Places(
            requests=place((REQUESTS, model, vendor or NONE, status, self._bounded(code)), 1),
            durations=place((DURATIONS, operation, http_status), len(DURATION_BOUNDS) + 2),
            tokens=0 if lacks_usage else place((TOKENS, model), len(TOKEN_KINDS)),
            first_tokens=0 if lacks_first_token else place((FIRST_TOKENS, model), len(TTFT_BOUNDS) + 2),
            inferences=place((INFERENCES, model), len(DURATION_BOUNDS) + 2) if timed else 0,
        )
        if model != UNKNOWN and len(name) + len(code) <= _LONGEST:
            if len(self._kinds) >= _REMEMBERED:
                self._kinds.clear()
            self._kinds[kind] = places
        return places

    def _model(self, name: str) -> str:
        """The model behind a deployment's name; for names that a wildcard serves, the wildcard."""
        return name if self._catalog is None else self._catalog.canonical(name)

    def _asked(self, name: str) -> str:
        """The model that a call asked for which was not routed, or `UNKNOWN`."""
        model = self._model(name)
        return model if self._catalog is not None and model in self._catalog.groups() else UNKNOWN

    def _bounded(self, code: str) -> str:
        codes = self._codes
        if code in codes:
            return code
        if len(codes) > MAX_CODES or len(code) > 64:
            return "other"
        codes.add(code)
        return code


_Kind = tuple[str, str | None, str, str, int, str, bool, bool]
"""What tells calls apart: name, vendor (None if not routed), operation, outcome, HTTP status, code, what they lack."""


class _Places(Struct, frozen=True, gc=False):
    """Where calls of one kind are counted: the first cell of each series, 0 if they have no part in it."""

    requests: int
    durations: int
    tokens: int
    first_tokens: int
    inferences: int
