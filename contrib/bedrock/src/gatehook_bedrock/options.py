"""What an operator may set in a model's `options` table."""

from typing import Any, Literal

import msgspec

from gatehook_bedrock.reasoning import Way

__all__ = ["Options"]


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A model's `options`."""

    region: str = ""
    profile: str = ""
    guardrail: dict[str, str] = {}
    """Bedrock's guardrailConfig: `guardrailIdentifier`, `guardrailVersion`, `trace`."""
    latency: Literal["standard", "optimized"] | None = None
    reasoning: Way | None = None
    """How `reasoning_effort` is sent: as a budget of tokens, as adaptive thinking, as outputConfig.effort, in Nova's
    own settings, in the field `reasoning_effort`, as reasoning.effort, or not at all; None: as the model's name
    suggests."""
    extra: dict[str, Any] = {}
    """Further entries of additionalModelRequestFields."""
