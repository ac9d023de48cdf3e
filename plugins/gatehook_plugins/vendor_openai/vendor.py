"""The vendor "openai": the same-dialect lane. Bytes go through; unknown fields survive both ways."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gatehook import (
    Attempt,
    Chunk,
    Completion,
    Egress,
    FileStore,
    InvalidRequest,
    MalformedJSON,
    Misconfigured,
    Operation,
    Parameter,
    PreparedRequest,
    Retry,
    Target,
    Upstream,
    UpstreamError,
    Usage,
    Vendor,
    decode,
    encode,
    plain_chat,
    read_options,
)
from gatehook.sse import EventTooLarge
from gatehook_plugins.vendor_openai import failure
from gatehook_plugins.vendor_openai.calls import mended_calls
from gatehook_plugins.vendor_openai.ends import finish_reason
from gatehook_plugins.vendor_openai.heads import with_head
from gatehook_plugins.vendor_openai.idempotency import is_header_name, key
from gatehook_plugins.vendor_openai.peek import Whole, read_any_usage, read_whole, usage_of
from gatehook_plugins.vendor_openai.pictures import PictureReader, picture_body
from gatehook_plugins.vendor_openai.splice import (
    has_two_models,
    mentions,
    with_member,
    with_model,
    without,
)
from gatehook_plugins.vendor_openai.stream import StreamReader
from gatehook_plugins.vendor_openai.vectors import as_asked

__all__ = ["OpenAIVendor"]

_FORMALITIES_SECONDS = 5.0
_BASE_URL = "https://api.openai.com/v1"
_OWN_HEADERS = (
    "accept-encoding", "authorization", "connection", "content-length", "content-type", "expect", "host", "te",
    "transfer-encoding", "upgrade", "user-agent",
)  # fmt: skip
_PATHS: Mapping[Operation, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "images": "/images/generations",
}
_WITHOUT_TEXT = ("embeddings", "images")


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """`options` of a deployment.

    `headers` are sent with every request (organization, project, a proxy's own key), and `query` is added to every
    address (Azure's `api-version`). `include_usage` false is for servers that do not know stream_options.
    `max_tokens_field` renames the client's limit to the one name the model takes: "max_tokens" or
    "max_completion_tokens". `idempotency_header` is for servers that know a request by it which they have had before
    ("Idempotency-Key"): every attempt of one request has the same value.
    """

    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    include_usage: bool = True
    max_tokens_field: str = ""
    idempotency_header: str = ""

    def __repr__(self) -> str:
        return "Options(…)"  # a header may be secret


class _Prepared(Struct, frozen=True):
    """What is the same for every request to one deployment."""

    target: Target
    requests: Mapping[Operation, PreparedRequest]
    models: PreparedRequest
    options: Options


class OpenAIVendor:
    """Implements `gatehook.Vendor` for every OpenAI-compatible server."""

    name = "openai"
    operations: frozenset[Operation] = frozenset(_PATHS)
    parameters: Mapping[Operation, Mapping[str, Parameter]] = {}

    def __init__(self, egress: Egress, files: FileStore | None = None) -> None:
        """`files` keeps pictures that a client wants by URL, where the server gives none, or none that last."""
        self._egress = egress
        self._files = files
        self._prepared: dict[str, _Prepared] = {}
        self._keyed: dict[str, _Prepared] = {}
        """Deployments with an `idempotency_header`, kept apart so that it costs calls of all others nothing."""

    def check(self, target: Target) -> Sequence[str]:
        """Faults of a deployment's options."""
        try:
            options = read_options(target, Options)
        except Misconfigured as error:
            return [error.fault]
        if options.max_tokens_field not in ("", "max_tokens", "max_completion_tokens"):
            return ["options: max_tokens_field must be 'max_tokens' or 'max_completion_tokens'"]
        return _faults_of_key(options)

    async def complete(self, attempt: Attempt) -> Completion:
        """One plain answer."""
        upstream = await self._send(attempt)
        raw = upstream.at_once() if upstream.status == 200 else None
        if raw is None:
            raw = await _rest(attempt.target, upstream)
        whole = _result(attempt, raw)
        if attempt.call.operation in _WITHOUT_TEXT:
            return await self._without_text(attempt, raw, whole)
        return _completion(attempt, raw, whole)

    async def _without_text(self, attempt: Attempt, raw: bytes, whole: Whole) -> Completion:
        if attempt.call.operation == "images":
            return await PictureReader(attempt, self._egress, self._files).answer(raw, whole)
        return _completion(attempt, as_asked(attempt, raw), whole)

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        """One streamed answer, each batch what one read brought."""
        target = attempt.target
        async with await self._send(attempt) as upstream:
            if upstream.status != 200:
                raise await failure.from_answer(target, upstream)
            if not upstream.is_event_stream:
                raise _no_stream(target, await upstream.read_error())
            answer, until = StreamReader(attempt), 0.0
            try:
                while not (answer.done or answer.failure):
                    try:
                        if answer.complete:
                            until = until or _latest(attempt)
                            data = await _last(upstream, until)
                        else:
                            data = await upstream.receive(answer.pass_on)
                    except (UpstreamError, TimeoutError):
                        if not answer.complete:
                            raise
                        break  # cut off, or silent, after the last finish: only formalities are missing
                    if not data:
                        yield answer.rest()
                        break
                    frames = answer.read(data)
                    if frames.contents:
                        until = 0.0  # some servers tell the end with every event
                    yield frames
                if answer.failure:
                    raise answer.failure
            except EventTooLarge as error:
                raise UpstreamError(f"{target.vendor}: {error}", code=failure.MALFORMED, retry=Retry.NEXT) from None
            if (owed := answer.end()).data:
                yield owed
            await upstream.drain()

    async def probe(self, target: Target) -> None:
        """Ask for the list of models. A server without one answers all the same."""
        async with await self._egress.send(self._prepare(target).models) as upstream:
            if upstream.status not in (200, 404, 405, 501):
                raise await failure.from_answer(target, upstream)
            await upstream.drain()

    def _send(self, attempt: Attempt) -> Awaitable[Upstream]:
        target, operation = attempt.target, attempt.call.operation
        prepared = self._prepared.get(target.key)
        if prepared is None or prepared.target is not target:
            prepared = _with_key(attempt, self._prepare(target))
        try:
            body = _body(attempt, prepared.options)
        except ValueError as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
        if operation == "images":
            body = picture_body(attempt, body, self._files)
        return self._egress.send(prepared.requests[operation], body)

    def _prepare(self, target: Target) -> _Prepared:
        known = self._prepared.get(target.key) or self._keyed.get(target.key)
        # A deployment may change under its key while the gateway runs; then it is another Target.
        if known is not None and known.target is target:
            return known
        for kept in (self._prepared, self._keyed):
            kept.pop(target.key, None)
        base = target.base_url or _BASE_URL
        options = read_options(target, Options)
        headers = {"Content-Type": "application/json", **options.headers}
        if secret := target.secret():
            headers["Authorization"] = f"Bearer {secret}"
        query = f"?{urlencode(options.query)}" if options.query else ""

        def prepare(method: str, path: str) -> PreparedRequest:
            return self._egress.prepare(target, method, base + path + query, headers=headers)

        requests = {name: prepare("POST", path) for name, path in _PATHS.items()}
        models = prepare("GET", "/models")
        prepared = _Prepared(target, requests, models, options)
        kept = self._keyed if options.idempotency_header else self._prepared
        kept[target.key] = prepared
        return prepared


def _with_key(attempt: Attempt, prepared: _Prepared) -> _Prepared:
    """What is sent for one attempt, with the key of its request if the server wants one."""
    options, operation = prepared.options, attempt.call.operation
    if not options.idempotency_header:
        return prepared
    value = key(attempt, options.include_usage, options.max_tokens_field)
    request = prepared.requests[operation].with_header(options.idempotency_header, value)
    return replace(prepared, requests={operation: request})


def _faults_of_key(options: Options) -> Sequence[str]:
    name = options.idempotency_header
    if name and not is_header_name(name):
        return [f"options: idempotency_header: {name!r} is no header's name; 'Idempotency-Key' is the usual one"]
    if name.lower() in {*_OWN_HEADERS, *map(str.lower, options.headers)}:
        return [f"options: idempotency_header: {name!r} is sent already, as one of `headers` or the gateway's own"]
    return []


async def _rest(target: Target, upstream: Upstream) -> bytes:
    """The body of an answer that has not all arrived yet.

    Raises:
        GatewayError: it is an error, or was cut.
    """
    async with upstream:
        if upstream.status != 200:
            raise await failure.from_answer(target, upstream)
        return await upstream.read()


def _latest(attempt: Attempt) -> float:
    """Until when, in the loop's time, to wait for what follows the last finish reason: the usage, and [DONE]."""
    call = attempt.call
    if call.operation != "chat" or mentions(call.body.raw, "n"):
        return math.inf  # of several choices, or prompts, another may be yet to begin
    return asyncio.get_running_loop().time() + _FORMALITIES_SECONDS


async def _last(upstream: Upstream, until: float) -> bytes:
    """The next bytes after the last finish reason: the usage and [DONE], or nothing but heartbeats.

    Raises:
        TimeoutError: it took too long. And as `Upstream.receive`.
    """
    async with asyncio.timeout_at(None if until == math.inf else until):
        return await upstream.receive()


def _body(attempt: Attempt, options: Options) -> bytes:
    call = attempt.call
    raw = encode(plain_chat(call.payload, attempt.drop)) if call.extended else call.body.raw
    if attempt.target.model != call.model or has_two_models(raw):
        raw = with_model(raw, call.model, attempt.target.model)
    if call.stream:
        if not options.include_usage:
            raw = without(raw, "stream_options") if mentions(raw, "stream_options") else raw
        elif not call.include_usage:
            # For accounting; the kernel keeps the usage event from a client that did not ask for it.
            given = decode(raw).get("stream_options") if mentions(raw, "stream_options") else None
            raw = with_member(raw, "stream_options", {**(given or {}), "include_usage": True})
    if attempt.defaults:
        for name, value in attempt.defaults.items():
            raw = with_member(raw, name, value)
    if options.max_tokens_field:
        raw = _with_limit(raw, options.max_tokens_field)
    return raw


def _with_limit(raw: bytes, field: str) -> bytes:
    other = "max_tokens" if field == "max_completion_tokens" else "max_completion_tokens"
    if b'"%b"' % other.encode() not in raw:
        return raw
    data: dict[str, Any] = decode(raw)
    limits = [data.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
    chosen = next((limit for limit in limits if limit is not None), None)
    if chosen is not None:
        data[field] = chosen
    return encode(data)


def _result(attempt: Attempt, raw: bytes) -> Whole:
    """The answer, decoded.

    Raises:
        GatewayError: it is an error, or of no known form.
    """
    operation = attempt.call.operation
    try:
        if not raw.isascii():
            raw.decode()  # decoders skip unknown fields, which go to the client: they must be UTF-8, too
        whole = read_any_usage(raw) if operation == "images" else read_whole(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        whole = _read_again(attempt.target, raw, error)
    if whole.error:
        raise failure.from_body(attempt.target, whole.error)
    if not (whole.data if operation in _WITHOUT_TEXT else whole.choices):
        if told := failure.bare(raw):
            raise failure.from_body(attempt.target, told)
        raise failure.malformed(attempt.target, "the answer has neither a result nor an error")
    return whole


def _read_again(target: Target, raw: bytes, error: Exception) -> Whole:
    """The answer, decoded in slower ways that take more; `error` is why the first way did not."""
    if isinstance(error, msgspec.ValidationError):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return read_any_usage(raw)
    try:
        return msgspec.convert(decode(raw), Whole)
    except (MalformedJSON, msgspec.ValidationError, UnicodeEncodeError, RecursionError):
        raise failure.malformed(target, "the answer is not what OpenAI's API promises") from None


def _completion(attempt: Attempt, raw: bytes, whole: Whole) -> Completion:
    """The answer under its public name, and with the finish reason that its tool calls ask for."""
    call = attempt.call
    public = call.served or call.model  # its `public_name`, without the call
    usage = usage_of(whole.usage, of_text=call.operation not in _WITHOUT_TEXT)
    mends = False
    try:
        for choice in whole.choices or ():
            if choice.error:
                raise failure.from_body(attempt.target, choice.error)
            if choice.finish_reason in failure.BROKEN_OFF:
                raise failure.broken_off(attempt.target, choice.finish_reason)
            message = choice.message
            if choice.finish_reason == "" or (
                call.operation == "chat"
                if message is None
                else message.tool_calls and _misleads(choice.finish_reason, message.tool_calls)
            ):
                mends = True
        if mends:
            raw = _with_ends_told(attempt, raw, usage)
        if whole.model != public:
            raw = with_model(raw, whole.model, public)
        if not whole.id and whole.choices:
            raw = with_head(call, raw)
    except MalformedJSON:  # of a field that is not looked at otherwise: a number of thousands of digits
        raise failure.malformed(attempt.target, "the answer is not valid JSON") from None
    except msgspec.ValidationError as error:
        raise failure.malformed(attempt.target, f"the answer has malformed tool calls: {error}") from None
    return Completion(raw=raw, usage=usage)


def _misleads(finish_reason: str | None, calls: Any) -> bool:
    """Whether a choice with tool calls says that it just stopped, or a call has no id, or arguments other than text."""
    return finish_reason == "stop" or mended_calls(calls) is not calls


def _with_ends_told(attempt: Attempt, raw: bytes, usage: Usage | None) -> bytes:
    """The answer with a message in each choice of a chat, its tool calls mended, and in each choice why it ended."""
    data = decode(raw)
    for choice in data["choices"]:
        if attempt.call.operation == "chat" and choice.get("message") is None:
            choice["message"] = {"role": "assistant", "content": None}  # Azure leaves out what its filter holds back
        message = choice.get("message") or {}
        calls = message.get("tool_calls")
        if calls:
            message["tool_calls"] = mended_calls(calls)
        if choice.get("finish_reason") == "" or (calls and choice.get("finish_reason") == "stop"):
            choice["finish_reason"] = finish_reason(attempt, usage, with_calls=bool(calls))
    return encode(data)


def _no_stream(target: Target, body: bytes) -> Exception:
    """The error for an answer that should have been a stream and is not: an error in JSON, or a page of HTML."""
    try:
        data = decode(body)
    except MalformedJSON:
        data = None
    if isinstance(data, dict) and data.get("error"):
        return failure.from_body(target, data["error"])
    return failure.malformed(target, "answered a stream request with something that is no stream")


_implements: type[Vendor] = OpenAIVendor
