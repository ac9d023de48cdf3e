"""Works out why a choice ended, if its server does not say: Snowflake sends "", or nothing at all."""

from gatehook import Attempt, Usage

__all__ = ["finish_reason"]


def finish_reason(attempt: Attempt, usage: Usage | None, *, with_calls: bool) -> str:
    """The finish reason that the rest of a complete answer suggests.

    Args:
        attempt: the attempt that is answered.
        usage: the answer's usage; None if it was not told.
        with_calls: whether the choice has tool calls.
    """
    if with_calls:
        return "tool_calls"
    call = attempt.call
    most = call.max_tokens or attempt.defaults.get("max_tokens")
    if most and usage is not None and (call.choices or 1) == 1 and usage.completion_tokens >= most:
        return "length"
    return "stop"
