"""One tree of errors. Each knows its HTTP status, its OpenAI type and code, and what failover may do about it."""

import enum
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = [
    "AuthenticationFailed",
    "BodyTooLarge",
    "ConcurrencyLimited",
    "Conflict",
    "GatewayError",
    "InvalidRequest",
    "MethodNotAllowed",
    "Misconfigured",
    "ModelNotFound",
    "NotFound",
    "PermissionDenied",
    "RateLimited",
    "RequestTimeout",
    "Retry",
    "StartupError",
    "Unavailable",
    "UnsupportedMediaType",
    "UpstreamError",
    "UpstreamTimeout",
    "WrongResultError",
    "envelope",
    "error_headers",
    "raise_or_gather",
    "redact",
    "upstream_error",
]


class Retry(enum.Enum):
    """What failover may do after an error."""

    SAME = "same"
    """Transient: the same deployment may be tried again, then the next."""
    NEXT = "next"
    """This deployment will not do; another may."""
    NEVER = "never"
    """The request itself is at fault: no deployment will do better."""


class StartupError(Exception):
    """The gateway cannot start as configured. `faults` holds every fault found, not the first only."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class WrongResultError(TypeError):
    """A plugin's method returned something of a type that its protocol does not allow.

    Raised where a wrong type would let somebody in or hide a fault. The message names the plugin's class.
    """

    def __init__(self, giver: object, method: str, given: object, wanted: str) -> None:
        """`giver` is the plugin's object, `given` what its method returned; `wanted` says in words what it should."""
        cls = type(giver)
        super().__init__(f"{cls.__module__}.{cls.__qualname__}.{method} gave {type(given).__name__}, not {wanted}")


def raise_or_gather(faults: Iterable[str], gathered: list[str] | None) -> None:
    """Raise a StartupError of these faults, if there are any; or add them to `gathered`, if that is given.

    Raises:
        StartupError: there are faults, and `gathered` is None.
    """
    found = list(faults)
    if gathered is not None:
        gathered += found
    elif found:
        raise StartupError(*found)


class GatewayError(Exception):
    """An error that a client may see: the message is written for that reader and holds no secret."""

    status = 500
    type = "server_error"
    code: str | None = None
    retry = Retry.NEVER
    final = False
    """Whether a repetition would be refused likewise: only a change of what is set, or a new day or month, can help.

    Clients that repeat requests for the status alone, as OpenAI's and Anthropic's SDKs do, are told not to.
    """
    request_id = ""
    """The id of the request that it answers, for bodies that tell it; set when it is written."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry: Retry | None = None,
        retry_after: float | None = None,
        final: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code
        if retry is not None:
            self.retry = retry
        if final is not None:
            self.final = final
        if status is not None:
            self.status = status


class Misconfigured(GatewayError):
    """500: a deployment's settings are wrong, which its operator has to correct; another deployment may do."""

    code = "misconfigured_model"
    retry = Retry.NEXT

    def __init__(self, fault: str, *, model: str = "", param: str | None = None) -> None:
        """`fault` says what is wrong, where; `model` is the public name of the deployment."""
        super().__init__(f"model {model!r}: {fault}" if model else fault, param=param)
        self.fault = fault


class InvalidRequest(GatewayError):
    """400: the request is wrong; `param` names the field."""

    status = 400
    type = "invalid_request_error"


class AuthenticationFailed(GatewayError):
    """401: no credential, or a wrong one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(GatewayError):
    """403: known, but not allowed."""

    status = 403
    type = "permission_error"


class NotFound(GatewayError):
    """404: no such path or thing."""

    status = 404
    type = "not_found_error"


class ModelNotFound(NotFound):
    """404: no deployment has this public name."""

    code = "model_not_found"


class Conflict(GatewayError):
    """409: it exists already, or was changed by somebody else meanwhile."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class MethodNotAllowed(GatewayError):
    """405: the path exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeout(GatewayError):
    """408: the client did not send its request in time."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"


class BodyTooLarge(GatewayError):
    """413: the body is over `server.max_body`."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaType(GatewayError):
    """415: the body is not JSON by its own declaration."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class RateLimited(GatewayError):
    """429: over a limit of the gateway, or of the vendor; `retry_after` is in seconds."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry = Retry.SAME


class ConcurrencyLimited(RateLimited):
    """429: requests that are running take all that there is; it may pass as soon as one of them has ended."""


class Unavailable(GatewayError):
    """503: the gateway itself cannot serve now (draining, a needed service is away)."""

    status = 503
    code = "service_unavailable"
    retry = Retry.NEXT


class UpstreamError(GatewayError):
    """502: the vendor failed, lied or cut the line."""

    status = 502
    code = "upstream_error"
    retry = Retry.SAME


class UpstreamTimeout(UpstreamError):
    """504: the vendor did not answer, or fell silent, in time."""

    status = 504
    type = "timeout_error"
    code = "upstream_timeout"


def envelope(error: GatewayError) -> dict[str, Any]:
    """OpenAI's error object, the form every error takes unless a surface has its own."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_headers(error: GatewayError) -> dict[str, str]:
    """The headers that tell a client what it may do after an error."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.final:
        headers["X-Should-Retry"] = "false"
    return headers


# Key shapes seen in vendors' own messages ("Incorrect API key provided: sk-ab***yz"), including half-masked ones.
_KEY_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|gsk|csk|xai|hf|fw|r8|pplx|nvapi|ghp)[-_][\w*.\-]{4,}"
    r"|AIza[\w*\-]{4,}|ya29\.[\w.*\-]{4,}|AKIA[A-Z0-9*]{12,}|eyJ[\w\-]{8,}(?:\.[\w\-]*)*)"
    r"|(?<![\w.\-])[\w.\-]*+\*{3,}[\w.*\-]*"
    r"|\b(?i:bearer)\s+[A-Za-z0-9._~+/*\-]{8,}=*",
    re.ASCII,
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets, also as addresses spell them, and without what looks like a vendor key."""
    spelt = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
    for spelling in sorted(spelt, key=len, reverse=True):  # one may be a part of another
        text = text.replace(spelling, "[redacted]")
    return _KEY_SHAPES.sub("[redacted]", text)


def _spellings(secret: str) -> Iterator[str]:
    """A secret as it is, and percent-encoded, as who repeats an address may have it."""
    yield secret
    for safe in ("", "/"):
        yield quote(secret, safe, errors="replace")
        yield quote_plus(secret, safe, errors="replace")


_CONTEXT_WORDS = (
    "context_length",
    "context length",
    "context window",
    "context limit",
    "maximum context",
    "prompt is too long",
    "input token count",
    "too many tokens",
    "too_many_prompt_tokens",
    "input is too long for requested model",  # Bedrock's
    "input tokens exceeded",  # Nova's
    "exceed_context_size",  # llama.cpp's, as the next
    "available context size",
    "maximum prompt length",  # xAI's
    "longer than the maximum model length",  # vLLM's
    "exceeded model token limit",  # Moonshot's
    "prompt exceeds max length",  # Z.ai's
    "range of input length",  # Qwen's
    "`inputs` tokens + `max_new_tokens`",  # Together's
)
_POLICY_WORDS = (
    "content_policy",
    "content policy",
    "content_filter",
    "content filtering policy",
    "content management policy",
    "violating our usage polic",
    "violates usage guidelines",
    "input was flagged",
    "responsibleaipolicy",
)
# What a client asks for, or refers to, and this deployment has not: OpenRouter and Gemini answer with a 404 or a 403,
# which are the operator's fault elsewhere.
_LACKING_WORDS = (
    "no endpoints found that support",
    "permission to access the file",
    "active state and usage is not allowed",  # of a file; a project that is not active is the operator's
    "this model doesn't support",  # Bedrock's, as the next: of fields, tools, documents
    "this model doesn\u2019t support",
    "does not support tools",  # Ollama's, as the next
    "does not support thinking",
)
_NOT_HERE = (
    ((400, 413, 422), _CONTEXT_WORDS, "context_length_exceeded"),
    ((400, 403, 422), _POLICY_WORDS, "content_filter"),
    ((400, 403, 404), _LACKING_WORDS, None),
)
"""Statuses and words of what the client may mend, and another deployment may take; and our code, if we have one."""
# Not "billing" alone: OpenAI advertises its billing page in ordinary rate limits, and requests may speak of bills too.
_QUOTA_WORDS = (
    "insufficient_quota",
    "exceeded your current quota",
    "billing_hard_limit",
    "billing_not_active",
    "billing details",
    "credit balance is too low",
    "specified api usage limits",
    "specified workspace api usage limits",
)
_OVERSIZE_WORDS = "request too large"
"""What is said where one request asks for more tokens than a limit has in all: OpenAI's, Groq's."""

_MISDIRECTED = frozenset({405, 406, 407, 415, 421, 426, 501, 505})
"""What a vendor answers if the address or the form of the request is wrong, which the gateway's client cannot mend."""


def upstream_error(
    vendor: str,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after: float | None = None,
    secrets: Iterable[str] = (),
) -> GatewayError:
    """Turn a vendor's error answer into ours: what the client can mend stays a 4xx, all else is the vendor's failure.

    Args:
        vendor: its name, put before the message.
        status: the vendor's HTTP status (or the one its in-band error stands for).
        message: the vendor's words; redacted here.
        code: the vendor's error code or type, kept where it means something to a client.
        param: the field the vendor blames, in OpenAI's terms if the vendor knows them.
        retry_after: seconds, from the vendor's header.
        secrets: what must not appear (the deployment's key).
    """
    # Redacted before it is cut: half a key at the cut would not be recognised.
    message, secrets = message.strip()[:65536], tuple(secrets)
    if 300 <= status < 400:
        message = f"answered {status}, a redirect; base_url must name the final address"
    text = f"{vendor}: {redact(message, secrets)[:2000] or 'no message'}"
    words = f"{code or ''} {message}".lower()
    code = redact(code, secrets) if code else None
    param = redact(param, secrets) if param else None
    for statuses, signs, known in _NOT_HERE:
        if status in statuses and any(sign in words for sign in signs):
            return InvalidRequest(text, code=known or code, param=param, retry=Retry.NEXT)
    if status == 402 or (status in (400, 403, 429) and any(word in words for word in _QUOTA_WORDS)):
        return UpstreamError(text, code="upstream_quota_exceeded", retry=Retry.NEXT)
    if status == 429:
        return _rate_limited(text, words, retry_after)
    if status in _MISDIRECTED or 300 <= status < 400:
        return UpstreamError(text, code="upstream_misconfigured", retry=Retry.NEXT)
    if status in (401, 403):
        return UpstreamError(text, code="upstream_credential_rejected", retry=Retry.NEXT)
    if status in (404, 410):
        return UpstreamError(text, code="upstream_model_not_found", retry=Retry.NEXT)
    if status in (408, 504):
        return UpstreamTimeout(text)
    if status in (498, 503, 529):  # 498: Groq has no room for what may wait
        return UpstreamError(text, status=503, code="upstream_overloaded", retry_after=retry_after)
    if 400 <= status < 500 and status not in (409, 424, 425, 499):
        return InvalidRequest(text, code=code, param=param, status=status if status in (413, 422) else 400)
    return UpstreamError(text, retry_after=retry_after)


def _rate_limited(text: str, words: str, retry_after: float | None) -> RateLimited:
    if _OVERSIZE_WORDS in words:  # no wait makes room for it
        return RateLimited(text, retry=Retry.NEXT, final=True)
    return RateLimited(text, retry_after=retry_after)
