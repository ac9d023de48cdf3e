"""The engine's errors, which are answered in OpenAI's shape."""

from typing import Any

__all__ = ["Busy", "EngineError", "Invalid", "TooLong"]


class EngineError(Exception):
    """A request that gets no answer."""

    status = 500
    type = "server_error"
    code: str | None = "engine_failed"
    retry_after: int | None = None
    """Seconds."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        """`param` names the field at fault."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code

    def envelope(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class Invalid(EngineError):
    """The request is at fault."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None


class TooLong(Invalid):
    """The prompt has more tokens than the context."""

    code = "context_length_exceeded"

    def __init__(self, tokens: int, context: int, param: str, *, counted: bool = True) -> None:
        """Say by how much: a prompt and at least one token of an answer have to fit.

        `counted`: whether `tokens` is the exact number, and not only the least that it can be.
        """
        many = f"{'' if counted else 'at least '}{tokens}"
        super().__init__(
            f"{param}: the prompt has {many} tokens; this model's context is {context} tokens, "
            "for the prompt and at least one token of the answer. Shorten it",
            param=param,
        )


class Busy(EngineError):
    """As many requests wait as may."""

    status = 503
    code = "engine_busy"

    def __init__(self, waiting: int, retry_after: int) -> None:
        """In `retry_after` seconds there may be room."""
        super().__init__(f"{waiting} requests wait for this model already; try again in {retry_after} s")
        self.retry_after = retry_after
