"""A SERVER span for each call, in which the gateway serves a client; and the metrics of calls."""

from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehook import Call, Catalog, GatewayError, Observer, Outcome, Target, Usage
from gatehook_otel.instruments import OPERATIONS, Telemetry, model, provider

__all__ = ["SPAN", "CallSpans"]

SPAN: Final = "otel"
"""The key of a call's span in its `state`."""

_EMPTY: Final = Context()
"""The context of a span that begins a trace: what happens to be current in this task is not its parent."""


class CallSpans(Observer):
    """Begins a span when a call arrives and ends it with the call's outcome. It never looks at the call's text."""

    def __init__(self, telemetry: Telemetry, catalog: Catalog, *, follow: bool = True, users: bool = False) -> None:
        self._telemetry = telemetry
        self._catalog = catalog
        self._follow = follow
        self._users = users
        self._propagator = TraceContextTextMapPropagator()

    def started(self, call: Call) -> None:
        """Begin the span; the model is not known yet."""
        if (tracer := self._telemetry.tracer) is not None:
            parent = self._propagator.extract(call.headers, _EMPTY) if self._follow else _EMPTY
            operation = OPERATIONS.get(call.operation, call.operation)
            call.state[SPAN] = tracer.start_span(operation, parent, SpanKind.SERVER)

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """Add the failed attempt to the call's span, as an event: another attempt may follow."""
        span: Span | None = call.state.get(SPAN)
        if span is not None and span.is_recording():
            told = {"gatehook.deployment": target.key, "error.type": error.code or error.type}
            span.add_event("gatehook.attempt_failed", told)

    def finished(self, call: Call, outcome: Outcome) -> None:
        """Add the outcome to the span and end it, and record the metrics."""
        common = self._common(call)
        span: Span | None = call.state.pop(SPAN, None)
        if span is not None:
            if span.is_recording():
                self._describe(span, call, outcome, common)
            span.end()
        if (instruments := self._telemetry.instruments) is not None:
            labels = common | self._telemetry.error(outcome.code)
            # With the span's context a histogram can name the trace of an outlier (an exemplar).
            context = set_span_in_context(span) if span is not None else _EMPTY
            instruments.request.record(outcome.duration, labels, context)
            if outcome.first_token is not None:
                instruments.first_token.record(outcome.first_token, common, context)
            if (each := _each_token(outcome)) is not None:
                instruments.each_token.record(each, common, context)

    def _common(self, call: Call) -> dict[str, Any]:
        """The attributes of spans and metrics alike.

        A name that is no model is left out: clients could make up any number of them, each a new series.
        """
        asked = self._catalog.canonical(call.model)
        found: dict[str, Any] = {"gen_ai.operation.name": OPERATIONS.get(call.operation, call.operation)}
        if asked in self._catalog.groups():
            found["gen_ai.request.model"] = asked
        if call.target is not None:
            found["gen_ai.provider.name"] = provider(call.target)
            found["gen_ai.response.model"] = model(call.target, self._catalog)
        return found

    def _describe(self, span: Span, call: Call, outcome: Outcome, common: dict[str, Any]) -> None:
        if "gen_ai.request.model" in common:
            span.update_name(f"{common['gen_ai.operation.name']} {common['gen_ai.request.model']}")
        told: dict[str, Any] = {
            **common,
            "gen_ai.request.stream": call.stream,
            "gatehook.call.id": call.id,
            "gatehook.surface": call.surface,
            "gatehook.status": outcome.status,
            "gatehook.attempts": call.attempts,
            "http.response.status_code": outcome.http_status,
        }
        if call.target is not None:
            told["gatehook.deployment"] = call.target.key
            told["gen_ai.response.model"] = call.target.model
        if call.max_tokens is not None:
            told["gen_ai.request.max_tokens"] = call.max_tokens
        if call.choices is not None and call.choices > 1:
            told["gen_ai.request.choice.count"] = call.choices
        if outcome.first_token is not None:
            told["gen_ai.response.time_to_first_chunk"] = outcome.first_token
        if outcome.usage is not None:
            told |= usage(outcome.usage)
        if outcome.code:
            told["error.type"] = outcome.code
        if self._users:
            told["enduser.id"] = call.principal.id
        span.set_attributes(told)
        if outcome.http_status >= 500 or (outcome.status == "partial" and outcome.http_status == 200):
            span.set_status(StatusCode.ERROR, outcome.code)


def _each_token(outcome: Outcome) -> float | None:
    """Seconds per token after the first; None if there were none, they are not counted, or the stream broke off."""
    used = outcome.usage
    if outcome.status != "complete" or outcome.first_token is None or used is None or used.estimated:
        return None
    later = used.completion_tokens - 1
    return (outcome.duration - outcome.first_token) / later if later > 0 else None


def usage(used: Usage) -> dict[str, Any]:
    """The attributes for the tokens used."""
    return {
        "gen_ai.usage.input_tokens": used.prompt_tokens,
        "gen_ai.usage.output_tokens": used.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": used.cached_tokens,
        "gen_ai.usage.cache_creation.input_tokens": used.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": used.reasoning_tokens,
    }
