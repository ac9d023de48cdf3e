"""The vendor "gguf": leases a model, and passes the request on to its engine and the answer back."""

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook import (
    Attempt,
    Chunk,
    Completion,
    Egress,
    GatewayError,
    Misconfigured,
    Operation,
    Parameter,
    Retry,
    Target,
    Upstream,
    UpstreamError,
    Vendor,
    encode,
    plain_chat,
    read_options,
)
from gatehook.sse import Reader
from gatehook_plugins.vendor_gguf.answers import Stream, error_of, usage_in
from gatehook_plugins.vendor_gguf.deployments import VENDOR, DeploymentOptions
from gatehook_plugins.vendor_gguf.link import Lease, Link
from gatehook_plugins.vendor_gguf.parameters import PARAMETERS
from gatehook_plugins.vendor_gguf.shelf import Shelf

__all__ = ["INSTALL", "GGUFVendor", "is_installed"]

INSTALL: Final = "the package llama-cpp-python is not installed: pip install 'gatehook[gguf]'"

_URLS: Mapping[Operation, str] = {
    "chat": "http://engine/v1/chat/completions",
    "completions": "http://engine/v1/completions",
    "embeddings": "http://engine/v1/embeddings",
}
_HEADERS: Final = {"Content-Type": "application/json"}


def is_installed() -> bool:
    """Whether llama-cpp-python is installed; it is not imported."""
    return importlib.util.find_spec("llama_cpp") is not None


class GGUFVendor:
    """Implements `gatehook.Vendor` for GGUF files on this machine."""

    name = VENDOR
    operations: frozenset[Operation] = frozenset(_URLS)
    parameters: Mapping[Operation, Mapping[str, Parameter]] = PARAMETERS
    prepares = True
    """The timeout of the first content begins when the model is loaded."""

    def __init__(self, egress: Egress, shelf: Shelf, link: Link) -> None:
        self._egress = egress
        self._shelf = shelf
        self._link = link

    def check(self, target: Target) -> Sequence[str]:
        """Faults of a deployment's options, and what is missing on this machine."""
        try:
            options = read_options(target, DeploymentOptions)
        except Misconfigured as error:
            return [error.fault]
        faults = list(options.faults())
        if not is_installed():
            faults.append(INSTALL)
        if not faults:
            try:
                self._shelf.deployments.variant(target)
            except GatewayError as error:
                faults.append(error.message)
        return faults

    async def probe(self, target: Target) -> None:
        """Check that the deployment's file is there and can be read; nothing is loaded.

        Raises:
            GatewayError: it is not, or cannot be read.
        """
        await asyncio.to_thread(self._shelf.deployments.variant, target)

    async def complete(self, attempt: Attempt) -> Completion:
        """One plain answer."""
        async with self._leased(attempt.target) as lease, await self._sent(attempt, lease) as upstream:
            with _crash_told():
                if upstream.status != 200:
                    raise await error_of(upstream, attempt.target)
                raw = await upstream.read()
        return Completion(raw=raw, usage=usage_in(raw))

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        """One streamed answer; each batch is what one read brought."""
        async with self._leased(attempt.target) as lease:
            yield []  # the model is loaded: see `prepares`
            async with await self._sent(attempt, lease) as upstream:
                if upstream.status != 200:
                    raise await error_of(upstream, attempt.target)
                reader, answer = Reader(), Stream(attempt.target, wants_usage=attempt.call.include_usage)
                while not answer.done:
                    with _crash_told():
                        data = await upstream.receive()
                    yield answer.read(reader.take(data) if data else reader.rest())
                    if answer.failure is not None:
                        raise answer.failure
                    if not data:
                        return
                await upstream.drain()

    @contextlib.asynccontextmanager
    async def _leased(self, target: Target) -> AsyncIterator[Lease]:
        lease = await self._link.acquire(await self._shelf.spec(target))
        try:
            yield lease
        finally:
            lease.release()

    async def _sent(self, attempt: Attempt, lease: Lease) -> Upstream:
        call, target = attempt.call, attempt.target
        payload = plain_chat(attempt.payload, attempt.drop) if call.extended else attempt.payload
        body: dict[str, Any] = {**payload, "model": call.public_name}
        if call.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        raw, url = encode(body), _URLS[call.operation]
        with _crash_told():
            try:
                return await self._egress.request(target, "POST", url, headers=_HEADERS, body=raw, uds=lease.socket)
            except UpstreamError as error:
                if not _is_refused(error):
                    raise
            await lease.renew()
            return await self._egress.request(target, "POST", url, headers=_HEADERS, body=raw, uds=lease.socket)


def _is_refused(error: UpstreamError) -> bool:
    """Whether nobody listens on the socket any more, so that nothing was sent."""
    cause = error.__cause__
    refused = getattr(cause, "os_error", cause)  # the HTTP client's error holds the system's
    return isinstance(refused, ConnectionRefusedError | FileNotFoundError)


@contextlib.contextmanager
def _crash_told() -> Iterator[None]:
    """Report a broken connection as a crash: an engine's connection breaks only when its process ends."""
    try:
        yield
    except UpstreamError as error:
        if error.code != UpstreamError.code or error.retry is Retry.NEXT:  # NEXT: the answer is too large
            raise
        raise UpstreamError(
            "gguf: the model's process ended in the middle of the answer; the gateway's log tells why",
            code="engine_crashed",
        ) from error


_implements: type[Vendor] = GGUFVendor
