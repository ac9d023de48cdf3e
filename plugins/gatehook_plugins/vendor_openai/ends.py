"""Why a choice ended, where its server does not say: Snowflake tells "", or nothing at all."""

from gatehook import Attempt, Usage

__all__ = ["finish_reason"]


def finish_reason(attempt: Attempt, usage: Usage | None, *, with_calls: bool) -> str:
    """The reason that the rest of a complete answer speaks for.

    Args:
        attempt: whose answer it is.
        usage: what the answer took, as far as it was told.
        with_calls: whether the choice has tool calls.
    """
    if with_calls:
        return "tool_calls"
    call = attempt.call
    most = call.max_tokens or attempt.defaults.get("max_tokens")
    if most and usage is not None and (call.choices or 1) == 1 and usage.completion_tokens >= most:
        return "length"
    return "stop"
