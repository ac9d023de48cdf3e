"""Counting, once per request and on the event loop: plain additions, no locks, nothing formatted.

Every label is bounded, whatever clients and vendors send: models are names that have deployments, vendors are the
operator's, and of error codes (vendors make up their own) only so many different ones are told apart.
"""

from typing import Final

from gatehook import Call, Catalog, GatewayError, Observer, Outcome, Target
from gatehook_plugins.metrics.numbers import Numbers

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

MAX_CODES: Final = 100
"""Different error codes that get a series of their own; later ones are counted as "other"."""

UNKNOWN: Final = "unknown"
NONE: Final = "none"


class Recorder(Observer):
    """Watches calls and counts. The catalog tells which names are models."""

    def __init__(self, catalog: Catalog | None = None) -> None:
        self.catalog = catalog
        self.numbers = Numbers()
        self.times_models = False
        """Whether durations are counted by model, too."""
        self._codes: set[str] = {""}

    def go_on(self, numbers: Numbers) -> None:
        """Count in these numbers from now on; what they hold already counts, too."""
        self.numbers = numbers
        self._codes.update(str(code) for family, *_, code in numbers.names() if family in (REQUESTS, FAILURES))

    def started(self, call: Call) -> None:
        """One more is running."""
        self.numbers.running(1)

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """A deployment failed; the call may still succeed at another."""
        self.numbers.count((FAILURES, target.vendor, self._model(target), self._bounded(error.code or error.type)))

    def finished(self, call: Call, outcome: Outcome) -> None:
        """One less is running; all that is counted of a call is counted here."""
        numbers = self.numbers
        numbers.running(-1)
        target = call.target
        if target is not None:
            model, vendor = self._model(target), target.vendor
        else:
            model, vendor = self._name(call.model), NONE
        numbers.count((REQUESTS, model, vendor, outcome.status, self._bounded(outcome.code)))
        numbers.observe((DURATIONS, call.operation, outcome.http_status), DURATION_BOUNDS, outcome.duration)
        if self.times_models and outcome.status in ("complete", "partial"):
            numbers.observe((INFERENCES, model), DURATION_BOUNDS, outcome.duration)
        if (first := outcome.first_token) is not None:
            numbers.observe((FIRST_TOKENS, model), TTFT_BOUNDS, first)
        if (usage := outcome.usage) is not None:
            numbers.add(
                (TOKENS, model),
                (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens),
            )

    def _model(self, target: Target) -> str:
        """The model of a deployment; a wildcard is one, whatever names it serves."""
        return target.name if self.catalog is None else self.catalog.canonical(target.name)

    def _name(self, model: str) -> str:
        """What a call that was not routed asked for, if that is a model at all."""
        found = "" if self.catalog is None else self.catalog.canonical(model)
        return found if self.catalog is not None and found in self.catalog.groups() else UNKNOWN

    def _bounded(self, code: str) -> str:
        codes = self._codes
        if code in codes:
            return code
        if len(codes) > MAX_CODES or len(code) > 64:
            return "other"
        codes.add(code)
        return code
