"""What spans and metrics are recorded with: a tracer and the conventions' instruments, as far as they are on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.metrics import Histogram, Meter
from opentelemetry.trace import Tracer

from gatehook import Catalog, Target

__all__ = ["OPERATIONS", "Instruments", "Telemetry", "model", "provider"]

OPERATIONS: Final[Mapping[str, str]] = {"completions": "text_completion"}
"""The conventions' names for operations, where they differ from the gateway's."""

_PROVIDERS: Final[Mapping[str, str]] = {"gemini": "gcp.gemini", "bedrock": "aws.bedrock"}

_MOST_CODES: Final = 100
"""So many error codes are told apart in metrics: vendors have codes of their own, and each would be another series."""

_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


@dataclass(slots=True)
class Telemetry:
    """The tracer and the instruments: None until the gateway serves, and for good where the settings say so."""

    tracer: Tracer | None = None
    instruments: "Instruments | None" = None
    _codes: set[str] = field(default_factory=set)

    def error(self, code: str) -> dict[str, str]:
        """The label of an error code in metrics; no label for ""."""
        if code and code not in self._codes:
            if len(self._codes) >= _MOST_CODES:
                code = "_OTHER"  # the conventions' word
            else:
                self._codes.add(code)
        return {"error.type": code} if code else {}


class Instruments:
    """The histograms, with the bucket boundaries that the conventions ask for."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, description: str, boundaries: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=boundaries)

        self.request = histogram("gen_ai.server.request.duration", "s", "A client's request, to its end.", _SECONDS)
        self.first_token = histogram(
            "gen_ai.server.time_to_first_token", "s", "From a request to the first content of its stream.", _FIRST
        )
        self.each_token = histogram(
            "gen_ai.server.time_per_output_token", "s", "Of a stream that ended well, after its first token.", _EACH
        )
        self.operation = histogram("gen_ai.client.operation.duration", "s", "One attempt at one deployment.", _SECONDS)
        self.tokens = histogram("gen_ai.client.token.usage", "{token}", "Tokens in and out.", _TOKENS)


def model(target: Target, catalog: Catalog) -> str:
    """The vendor's model, for metrics.

    Of a wildcard it is the pattern in the settings: clients choose the names, and each would be a new series.
    """
    name = catalog.canonical(target.name)
    if name == target.name:
        return target.model
    return next((one.model for one in catalog.groups().get(name, ()) if one.key == target.key), name)


def provider(target: Target) -> str:
    """The vendor's name as the conventions write it (`gen_ai.provider.name`)."""
    return _PROVIDERS.get(target.vendor, target.vendor)
