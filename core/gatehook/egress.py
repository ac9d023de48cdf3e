"""The only way out: every byte to a vendor, and every URL a client sent, goes through here.

Two doors. `request()` calls an operator's own `base_url`, which may be on loopback or a private network. `fetch()` gets
a URL that a client sent (an image), `post()` tells one (a webhook), and both refuse every address that is not public,
also after redirects and whatever the DNS says. Behind both stands aiohttp: its ClientSession, and for plain http:// to
vendors the shorter way of `direct`; nothing outside this file knows that.
"""

import asyncio
import contextlib
import io
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError
from aiohttp.resolver import DefaultResolver
from multidict import CIMultiDict
from yarl import URL

from gatehook import direct
from gatehook.errors import InvalidRequest, Retry, UpstreamError, UpstreamTimeout, redact
from gatehook.model import Target
from gatehook.retry_after import retry_after
from gatehook.settings import EgressSettings
from gatehook.websocket import WebSocket, no_redirects

__all__ = ["Egress", "Fetched", "Upstream", "is_public"]

_FETCH_SECONDS = 20.0
_DRAIN_SECONDS = 0.25
_ERROR_SECONDS = 5.0
_LONGEST_ERROR = 1 << 18
"""Bytes that are read of the body of an error."""
_MAX_REDIRECTS = 3
_MOST_PREPARED = 1000
# Compressed streams hold events back in the vendor's compressor; ask for none.
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "gatehook"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """The body behind a client's URL; `content_type` is what the server claims ("" if nothing)."""

    body: bytes
    content_type: str


class Upstream:
    """A vendor's answer whose headers have arrived. Leaving its context closes the connection unless all was read."""

    __slots__ = ("_limit", "_receive", "_response", "_target", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse | direct.Answer, target: Target, limit: int) -> None:
        self._response = response
        self._receive = response.receive if isinstance(response, direct.Answer) else response.content.readany
        self._target = target
        self._limit = limit
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def retry_after(self) -> float | None:
        """How many seconds the vendor asks to be left alone, None if it does not say."""
        return retry_after(self.headers)

    @property
    def is_event_stream(self) -> bool:
        """Whether the vendor says that this is a stream of events."""
        return self.headers.get("Content-Type", "").lower().startswith("text/event-stream")

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: the line was cut, or the body is over `egress.max_response`.
        """
        content = self._response.content
        if content.is_eof() and content.total_bytes <= self._limit:  # all of it has come, as small answers do
            return await self.receive()
        parts: list[bytes] = []
        size = 0
        while not content.at_eof():
            part = await self.receive()
            size += len(part)
            if size > self._limit:
                raise UpstreamError(
                    f"{self._target.vendor}: the answer is larger than egress.max_response ({self._limit} bytes)",
                    retry=Retry.NEXT,
                )
            parts.append(part)
        return b"".join(parts)

    async def read_error(self) -> bytes:
        """The body of an answer that is no success, for its words: its beginning, if it is long, slow or cut.

        What the status says must not be lost for what is wrong with the words.
        """
        body = bytearray()
        with contextlib.suppress(*_LINE_ERRORS):
            async with asyncio.timeout(_ERROR_SECONDS):
                while len(body) < _LONGEST_ERROR and (part := await self._receive()):
                    body += part
        return bytes(body[:_LONGEST_ERROR])

    async def receive(self) -> bytes:
        """What has arrived of the body, at least one byte; b"" at its end.

        Raises:
            UpstreamError: the line was cut.
        """
        try:
            return await self._receive()
        except _LINE_ERRORS as error:
            raise _mapped(self._target, error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, at most one read ahead of the reader.

        Raises:
            UpstreamError: the line was cut.
        """
        while data := await self.receive():
            yield data

    async def drain(self) -> None:
        """Read what is left after the part that mattered, so that the connection can serve again; never for long."""
        content = self._response.content
        if content.is_eof():
            return
        with contextlib.suppress(*_LINE_ERRORS):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await self._receive():
                    pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # release() returns a connection whose answer was read to its end to the pool, and drops any other:
        # a half-read answer must never be met by the next request.
        if self._response.content.is_eof():
            self._response.release()
        else:
            self._response.close()


class Egress:
    """The gateway's one HTTP client. Enter `lifespan()` before use."""

    def __init__(self, settings: EgressSettings) -> None:
        self._settings = settings
        self._pool = direct.Pool(settings.connect_timeout) if direct.available else None
        self._prepared: dict[tuple[object, ...], direct.Request | None] = {}
        self._vendors: aiohttp.ClientSession | None = None
        self._local: dict[str, aiohttp.ClientSession] = {}
        """By Unix socket, where the short way cannot be gone."""
        self._public: aiohttp.ClientSession | None = None
        self._sockets: aiohttp.ClientSession | None = None
        """For WebSockets, over the connections of `_vendors`."""

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the connection pools; close them, and every connection, at the end."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout)
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                headers=_HEADERS,
                max_line_size=65536,
                max_field_size=65536,
            ) as self._vendors,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_GuardedResolver(self._settings.allow_private_urls), use_dns_cache=False, limit=100
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=_FETCH_SECONDS, sock_connect=self._settings.connect_timeout),
                headers={"User-Agent": "gatehook"},
            ) as self._public,
            aiohttp.ClientSession(
                connector=self._vendors.connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                headers=_HEADERS,
                trace_configs=[no_redirects()],
            ) as self._sockets,
        ):
            try:
                yield
            finally:
                self._vendors = self._public = self._sockets = None
                if self._pool is not None:
                    self._pool.close()
                for session in self._local.values():
                    await session.close()
                self._local.clear()

    async def request(
        self,
        target: Target,
        method: str,
        url: str | URL,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        uds: str = "",
    ) -> Upstream:
        """Send one request to a deployment; returns when the answer's headers are in.

        With `uds`, the absolute path of a Unix socket, it goes there, whatever host the http:// URL names.

        Redirects are not followed: they would carry the key to a place the operator never named. No time limit is set
        here beyond connecting; the caller's watch (see `failover`) cancels.

        Raises:
            UpstreamError: cannot connect, or the line was cut. UpstreamTimeout: connecting took too long.
        """
        if self._vendors is None:
            raise RuntimeError("the egress is not open: enter Egress.lifespan() first")
        response: aiohttp.ClientResponse | direct.Answer
        try:
            prepared = self._directly(method, url, headers, uds)
            if prepared is not None and self._pool is not None:
                response = await self._pool.send(prepared, body or b"")
            else:
                session = self._through(uds) if uds else self._vendors
                response = await session.request(
                    method,
                    url,
                    data=_in_pieces(body),
                    headers=headers,
                    allow_redirects=False,
                    proxy=None if uds else self._settings.proxy or None,
                )
        except _LINE_ERRORS as error:
            raise _mapped(target, error) from error
        return Upstream(response, target, self._settings.max_response)

    async def websocket(
        self, target: Target, url: str | URL, *, headers: Mapping[str, str], heartbeat: float
    ) -> WebSocket:
        """Open a WebSocket at a deployment; what holds for `request` holds for it, and it sends no Origin.

        Args:
            target: whose it is.
            url: http:// or https://, or ws:// or wss://.
            headers: of the request that opens it.
            heartbeat: seconds of silence after which the other side is asked whether it is still there.

        Raises:
            UpstreamError: cannot connect, or it is refused. UpstreamTimeout: it took too long.
        """
        if self._sockets is None:
            raise RuntimeError("the egress is not open: enter Egress.lifespan() first")
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                socket = await self._sockets.ws_connect(
                    url,
                    headers=headers,
                    heartbeat=heartbeat,
                    max_msg_size=self._settings.max_response,
                    proxy=self._settings.proxy or None,
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                )
        except aiohttp.WSServerHandshakeError as error:
            raise UpstreamError(f"{target.vendor}: answers {error.status} instead of a WebSocket") from None
        except _LINE_ERRORS as error:
            raise _mapped(target, error) from error
        return WebSocket(socket, target.vendor)

    def _through(self, uds: str) -> aiohttp.ClientSession:
        """The client library's session for a Unix socket."""
        if uds not in self._local:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout)
            connector = aiohttp.UnixConnector(uds, limit=0)
            self._local[uds] = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout, headers=_HEADERS
            )
        return self._local[uds]

    def _directly(self, method: str, url: str | URL, headers: Mapping[str, str], uds: str) -> direct.Request | None:
        """The request prepared for the short way; None if it must take the long one (TLS, a proxy, …)."""
        if self._pool is None or (self._settings.proxy and not uds):
            return None
        place = (method, str(url), uds, *headers.items())
        if place not in self._prepared:
            if len(self._prepared) >= _MOST_PREPARED:
                self._prepared.clear()
            parsed = URL(url)
            merged = CIMultiDict(_HEADERS)
            merged.update(headers)
            suits = direct.suits(method, parsed, merged)
            self._prepared[place] = direct.Request.to(method, parsed, merged, uds) if suits else None
        return self._prepared[place]

    async def fetch(self, url: str, *, param: str) -> Fetched:
        """Get what a client's URL points to.

        Args:
            url: http or https, on a public address.
            param: the field it came from, for messages.

        Raises:
            InvalidRequest: not such a URL, not reachable, too large, or not a 200.
        """
        if self._public is None:
            raise RuntimeError("the egress is not open: enter Egress.lifespan() first")
        try:
            return await self._follow(self._public, url, param)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = "took too long" if isinstance(error, TimeoutError) else _reason(error)
            raise InvalidRequest(f"{param}: cannot fetch the URL: {reason}", param=param, retry=Retry.NEXT) from None
        except ValueError:  # from yarl, or of a host name that has no place in the DNS; also in a redirect
            raise InvalidRequest(f"{param}: not a valid URL", param=param) from None

    def check(self, url: str, *, param: str) -> None:
        """See that a client's URL may be asked at all, as far as its text tells.

        Raises:
            InvalidRequest: not an http or https URL, or plainly not on a public address.
        """
        try:
            self._checked(url, param)
        except ValueError:
            raise InvalidRequest(f"{param}: not a valid URL", param=param) from None

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str], param: str) -> int:
        """Send something to a client's URL; gives the status of the answer, whose body nobody reads.

        Redirects are not followed.

        Args:
            url: http or https, on a public address.
            body: what to send.
            headers: to send with it.
            param: the field it came from, for messages.

        Raises:
            InvalidRequest: not such a URL, or not reachable.
        """
        if self._public is None:
            raise RuntimeError("the egress is not open: enter Egress.lifespan() first")
        self.check(url, param=param)
        try:
            async with self._public.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = "took too long" if isinstance(error, TimeoutError) else _reason(error)
            raise InvalidRequest(f"{param}: cannot reach the URL: {reason}", param=param) from None
        except ValueError:
            raise InvalidRequest(f"{param}: not a valid URL", param=param) from None

    async def _follow(self, session: aiohttp.ClientSession, url: str, param: str) -> Fetched:
        current = self._checked(url, param)
        for _ in range(_MAX_REDIRECTS + 1):
            async with session.get(current, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                    current = self._checked(str(current.join(URL(response.headers["Location"]))), param)
                    continue
                if response.status != 200:
                    raise InvalidRequest(f"{param}: the URL answered {response.status}", param=param)
                limit = self._settings.max_fetch
                body = bytearray()
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > limit:
                        raise InvalidRequest(f"{param}: larger than egress.max_fetch ({limit} bytes)", param=param)
                return Fetched(bytes(body), response.content_type if "Content-Type" in response.headers else "")
        raise InvalidRequest(f"{param}: more than {_MAX_REDIRECTS} redirects", param=param)

    def _checked(self, url: str, param: str) -> URL:
        parsed = URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.port is None:
            raise InvalidRequest(f"{param}: expected an http or https URL", param=param)
        if parsed.user is not None or parsed.password is not None:
            raise InvalidRequest(f"{param}: a URL with a user name or password is not fetched", param=param)
        # aiohttp does not ask the resolver about literal addresses, so they are checked here.
        if not self._settings.allow_private_urls and _is_literal(parsed.host) and not is_public(parsed.host):
            raise InvalidRequest(f"{param}: the URL is not on a public address", param=param)
        return parsed


class _GuardedResolver(AbstractResolver):
    """Resolves to public addresses only; the connection then goes to the very address that was checked."""

    def __init__(self, allow_private: bool) -> None:
        self._resolver = DefaultResolver()
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [one for one in found if self._allow_private or is_public(one["host"])]
        if not allowed:
            raise OSError("the host is not on a public address")
        return allowed

    async def close(self) -> None:
        await self._resolver.close()


def _is_literal(host: str) -> bool:
    # inet_aton reads what ipaddress refuses and the C library accepts: "127.1", "0x7f000001", "2130706433". The rest is
    # aiohttp's own guess: of what it takes for an address the resolver is not asked.
    try:
        socket.inet_aton(host)
    except OSError:
        return ":" in host or host.replace(".", "").isdigit()
    return True


def is_public(address: str) -> bool:
    """Whether an IP address, written in any way the system accepts, is on the public internet."""
    try:
        parsed: ipaddress.IPv4Address | ipaddress.IPv6Address
        parsed = (
            ipaddress.IPv4Address(socket.inet_aton(address)) if ":" not in address else ipaddress.IPv6Address(address)
        )
    except (OSError, ValueError):
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or _nat64(parsed)
        if inner is not None:
            parsed = inner
        elif parsed.teredo is not None or parsed not in _IPV6_GLOBAL_UNICAST:
            return False
    refused = parsed.is_multicast or any(parsed in network for network in _NOT_PUBLIC)
    return parsed.is_global and not refused


_IPV6_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # special purposes, among them a cloud's metadata; older Pythons call most of it global
            "168.63.129.16/32",  # Azure's host, as its virtual machines see it
            "2001::/23",  # special purposes; newer Pythons call some of it global
            "3fff::/20",  # documentation; unknown to older Pythons
        ),
    )
)


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _reason(error: BaseException) -> str:
    """What went wrong, in words, without the URL (it may hold a signature)."""
    cause = getattr(error, "os_error", None) or error
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "the TLS certificate or handshake was not accepted"
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return "the host name cannot be resolved or is not public"
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the connection was cut in the middle of the answer"
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return "the answer is not valid HTTP"
    if isinstance(error, ValueError | aiohttp.NonHttpUrlClientError):
        return "the address or a header is not valid"
    if isinstance(cause, OSError) and (words := cause.strerror or str(cause)):  # of several addresses: the latter
        return words.lower()
    return type(error).__name__


def _in_pieces(body: bytes | None) -> bytes | io.BytesIO | None:
    """A large body as a file, which aiohttp writes in pieces; written at once it would hold up the loop."""
    return io.BytesIO(body) if body and len(body) >= 1 << 20 else body


_LINE_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
"""What the client library raises; TimeoutError is an OSError."""


def _mapped(target: Target, error: Exception) -> UpstreamError:
    """The client library's error as ours, naming the vendor and nothing secret."""
    if isinstance(error, TimeoutError):
        return UpstreamTimeout(f"{target.vendor}: connecting took too long")
    return UpstreamError(f"{target.vendor}: {redact(_reason(error), target.secrets())}")
