"""A CLIENT span for each attempt, in which the gateway is a vendor's client; and the metrics of attempts."""

import time
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from yarl import URL

from gatehook import Call, Catalog, Limiter, Outcome, Permit, Target
from gatehook_otel.calls import SPAN, usage
from gatehook_otel.instruments import OPERATIONS, Telemetry, model, provider

__all__ = ["AttemptSpans"]


class AttemptSpans:
    """A limiter that refuses nothing: limiters are what the gateway tells when an attempt begins and how it ended."""

    def __init__(self, telemetry: Telemetry, catalog: Catalog) -> None:
        self._telemetry = telemetry
        self._catalog = catalog

    def admit(self, call: Call) -> Permit | None:
        """None: calls are watched by `CallSpans`."""
        return None

    def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """Begin the attempt's span, unless neither traces nor metrics are on."""
        telemetry = self._telemetry
        if telemetry.tracer is None and telemetry.instruments is None:
            return None
        told = {
            "gen_ai.operation.name": OPERATIONS.get(call.operation, call.operation),
            "gen_ai.provider.name": provider(target),
            "gen_ai.request.model": model(target, self._catalog),
        }
        span = None
        if telemetry.tracer is not None:
            parent: Span | None = call.state.get(SPAN)
            context = set_span_in_context(parent) if parent is not None else Context()
            more = {
                "gen_ai.request.model": target.model,
                "gatehook.deployment": target.key,
                "gen_ai.request.stream": call.stream,
                **_server(target),
            }
            name = f"{told['gen_ai.operation.name']} {target.model}"
            span = telemetry.tracer.start_span(name, context, SpanKind.CLIENT, told | more)
        return _Attempt(telemetry, span, told)


class _Attempt:
    """An attempt that has begun. Settled when it fails, or with its call."""

    def __init__(self, telemetry: Telemetry, span: Span | None, told: dict[str, Any]) -> None:
        self._telemetry = telemetry
        self._span = span
        self._told = told
        self._begun = time.monotonic()

    def settle(self, outcome: Outcome) -> None:
        """End the span."""
        failed = {"error.type": outcome.code} if outcome.code else {}
        span, used = self._span, outcome.usage
        if span is not None:
            span.set_attributes(failed | (usage(used) if used is not None else {}))
            if failed and outcome.code != "client_left":
                span.set_status(StatusCode.ERROR, outcome.code)
            span.end()
        if (instruments := self._telemetry.instruments) is not None:
            context = set_span_in_context(span) if span is not None else Context()
            labels = self._told | self._telemetry.error(outcome.code)
            instruments.operation.record(time.monotonic() - self._begun, labels, context)
            if used is not None:
                tokens = {"input": used.prompt_tokens, "output": used.completion_tokens}
                for kind, count in tokens.items():
                    instruments.tokens.record(count, self._told | {"gen_ai.token.type": kind}, context)


def _server(target: Target) -> dict[str, Any]:
    """The vendor's address, if the deployment names it: never with its path, which may hold a secret."""
    if not target.base_url:
        return {}
    url = URL(target.base_url)
    return {"server.address": url.host or "", "server.port": url.port or 0}


_implements: type[Limiter] = AttemptSpans
