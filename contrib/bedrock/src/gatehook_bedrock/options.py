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
    """How `reasoning_effort` is sent: as a budget of tokens, as adaptive thinking, as outputConfig.effort, in Nova's
    own settings, in the field `reasoning_effort`, or not at all; None: as the model's name suggests."""
    extra: dict[str, Any] = {}
    """Further entries of additionalModelRequestFields."""


def read_options(target: Target) -> Options:
    """A deployment's options.

    Raises:
        GatewayError: they are wrong; another deployment is tried.
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
    """The error for a deployment that the operator has to correct; another is tried."""
    return GatewayError(f"model {target.name!r}: {why}", code="misconfigured_model", retry=Retry.NEXT)
