"""What an operator may set in a model's `options` table."""

from typing import Any, Literal

import msgspec

from gatehook import GatewayError, Retry, Target
from gatehook_bedrock.reasoning import Way

__all__ = ["Options", "faults", "misconfigured", "read_options"]


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A model's `options`."""

    region: str = ""
    profile: str = ""
    guardrail: dict[str, str] = {}
    """Bedrock's guardrailConfig: `guardrailIdentifier`, `guardrailVersion`, `trace`."""
    latency: Literal["standard", "optimized"] | None = None
    reasoning: Way | None = None
    """How effort is told: a budget of tokens, thinking that is adaptive, outputConfig.effort, Nova's own settings, the
    field `reasoning_effort`, not at all; None: by name."""
    extra: dict[str, Any] = {}
    """Further entries of additionalModelRequestFields."""


def read_options(target: Target) -> Options:
    """A deployment's options.

    Raises:
        GatewayError: they are wrong; another deployment may do.
    """
    try:
        return msgspec.convert(dict(target.options), Options)
    except msgspec.ValidationError as error:
        raise misconfigured(target, f"wrong options for vendor bedrock: {error}") from None


def faults(target: Target) -> list[str]:
    """What is wrong with them, for `gatehook check`."""
    try:
        read_options(target)
    except GatewayError as error:
        return [error.message]
    return []


def misconfigured(target: Target, why: str) -> GatewayError:
    """The operator's fault, not the client's."""
    return GatewayError(f"model {target.name!r}: {why}", code="misconfigured_model", retry=Retry.NEXT)
