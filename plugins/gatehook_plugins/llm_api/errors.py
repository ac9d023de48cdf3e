"""Errors in this API's own shape."""

from typing import Final

from gatehook import GatewayError, ModelNotFound, Unavailable, encode

__all__ = ["UnknownModel", "error_body"]

_CODES: Final = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    409: "CONFLICT",
    412: "CONFLICT",
    429: "RATE_LIMIT_EXCEEDED",
    502: "MODEL_UNAVAILABLE",
    503: "MODEL_UNAVAILABLE",
    504: "MODEL_UNAVAILABLE",
}


_OF_THE_MODEL: Final = frozenset(
    {
        "model_disabled",
        "deployment_resting",
        "model_not_loaded",
        "model_load_failed",
        "model_too_large",
        "no_free_slot",
        "engine_busy",
        "engine_host_lost",
    }
)
"""Why one model cannot answer while the gateway is well: it is switched off, rests, or has no room on this machine."""


class UnknownModel(ModelNotFound):
    """404: no model of this name, for this caller."""

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model!r} does not exist; GET /api/llm/models lists those that do", param="model")
        self.model = model


def error_body(error: GatewayError, request_id: str = "", model: str = "") -> bytes:
    """``{"error": {"code", "message", "details": {"model", "reason", "retry_after"}, "request_id"}}``.

    Args:
        error: what went wrong; its own, finer code is the reason.
        request_id: the call's; "" if there was no call.
        model: the name asked for, "" if none.
    """
    if isinstance(error, UnknownModel):
        model = error.model
    details = {"model": model or None, "reason": error.code or error.type, "retry_after": error.retry_after}
    told = request_id or error.request_id
    return encode({"error": {"code": _code(error), "message": error.message, "details": details, "request_id": told}})


def _code(error: GatewayError) -> str:
    if isinstance(error, ModelNotFound):
        return "MODEL_NOT_FOUND"
    if isinstance(error, Unavailable) and error.code not in _OF_THE_MODEL:  # the gateway itself lacks something
        return "SERVICE_UNAVAILABLE"
    return _CODES.get(error.status) or ("INVALID_REQUEST" if error.status < 500 else "INTERNAL_ERROR")
