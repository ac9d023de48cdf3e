"""The only way out: every request to a vendor, and to every URL that a client has sent, goes through here.

Two doors. `request()` calls an operator's own `base_url`, which may be on loopback or a private network. `fetch()` gets
a URL that a client has sent (an image), `post()` posts to one (a webhook), and both refuse every address that is not
public, also after redirects, and whatever the DNS says. Requests to vendors take the short way of `direct`; all others,
and those that go through a proxy or have headers that change how messages are framed, aiohttp's ClientSession. Nothing
outside this file knows that.
"""

import asyncio
import contextlib
import io
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError
from aiohttp.resolver import DefaultResolver
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

from gatehook.config.settings import EgressSettings
from gatehook.errors import InvalidRequest, Retry, UpstreamError
from gatehook.model import Target
from gatehook.upstream import direct
from gatehook.upstream.answer import LINE_ERRORS, Line, SessionLine, Upstream, mapped, reason
from gatehook.upstream.connectors import TCPConnector, UnixConnector, kept_alive, trusting
from gatehook.upstream.dialing import Dialer
from gatehook.upstream.inflating import decoded
from gatehook.upstream.websocket import WebSocket, no_redirects

__all__ = ["Egress", "Fetched", "PreparedRequest", "Upstream", "is_public"]

_FETCH_SECONDS = 20.0
_MAX_REDIRECTS = 3
_MOST_WAYS = 1000
"""Prepared requests that are kept."""
# No compression, please: it would hold back events of a stream in the vendor's compressor.
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "gatehook"}


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """What `Egress.prepare` made, for `Egress.send`."""

    target: Target
    method: str
    url: str | URL = field(repr=False)  # its query may hold a secret, and the headers hold the vendor's key
    headers: Mapping[str, str] = field(repr=False)
    uds: str
    way: direct.Request | None
    """The request for the short way, if it can take that."""

    def with_header(self, name: str, value: str) -> "PreparedRequest":
        """The same with one more header, for one that changes with each request; the result is not kept.

        Raises:
            UpstreamError: it cannot be sent.
        """
        try:
            way = None if self.way is None else self.way.with_header(name, value)
        except ValueError as error:
            raise mapped(self.target, error) from error
        return replace(self, headers={**self.headers, name: value}, way=way)


class Fetched(Struct, frozen=True):
    """The body behind a client's URL; `content_type` is what the server claims ("" if nothing)."""

    body: bytes
    content_type: str


class Egress:
    """The gateway's one HTTP client. Enter `lifespan()` before use."""

    def __init__(self, settings: EgressSettings) -> None:
        self._settings = settings
        self._tls = trusting(settings.ca_certificates.get_secret_value())
        self._pool = direct.Pool(Dialer(settings.connect_timeout, self._tls)) if direct.available else None
        self._ways: dict[tuple[object, ...], direct.Request | None] = {}
        self._max_response = settings.max_response
        self._vendors: aiohttp.ClientSession | None = None
        self._local: dict[str, aiohttp.ClientSession] = {}
        """Sessions by Unix socket, for requests that cannot take the short way."""
        self._public: aiohttp.ClientSession | None = None
        self._sockets: aiohttp.ClientSession | None = None
        """For WebSockets; shares the connections of `_vendors`."""

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the connection pools; close them, and every connection, at the end."""
        seconds = self._settings.connect_timeout
        timeout = aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds)  # of a proxy's CONNECT, too
        async with (
            aiohttp.ClientSession(
                connector=TCPConnector(limit=0, ttl_dns_cache=60, ssl=self._tls, socket_factory=kept_alive),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                headers=_HEADERS,
                auto_decompress=False,  # `decoded` does it, and tells what is wrong
                max_line_size=65536,
                max_field_size=65536,
            ) as self._vendors,
            aiohttp.ClientSession(
                connector=TCPConnector(
                    resolver=_GuardedResolver(self._settings.allow_private_urls), use_dns_cache=False, limit=100
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=_FETCH_SECONDS, sock_connect=self._settings.connect_timeout),
                headers={"User-Agent": "gatehook"},
                auto_decompress=False,
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

    def prepare(
        self, target: Target, method: str, url: str | URL, *, headers: Mapping[str, str], uds: str = ""
    ) -> PreparedRequest:
        """Prepare, for `send`, all that is the same for every request to one URL with the same headers; see `request`.

        Raises:
            UpstreamError: the URL or a header cannot be sent.
        """
        try:
            way = self._way(method, url, headers, uds)
        except ValueError as error:
            raise mapped(target, error) from error
        return PreparedRequest(target, method, url, headers, uds, way)

    async def send(self, prepared: PreparedRequest, body: bytes | None = None) -> Upstream:
        """Send a prepared request, which may be sent many times; returns when the answer's headers have arrived.

        Raises:
            UpstreamError: cannot connect, or the line was cut. UpstreamTimeout: connecting took too long.
        """
        if self._vendors is None:
            raise RuntimeError("the egress is not open: enter Egress.lifespan() first")
        line: Line
        try:
            if prepared.way is not None and self._pool is not None:
                line = await self._pool.send(prepared.way, body or b"")
            else:
                session = self._through(prepared.uds) if prepared.uds else self._vendors
                response = await session.request(
                    prepared.method,
                    prepared.url,
                    data=_in_pieces(body),
                    headers=prepared.headers,
                    allow_redirects=False,
                    proxy=None if prepared.uds else self._settings.proxy or None,
                )
                line = SessionLine(response)
                if "Content-Encoding" in response.headers:
                    line = decoded(line, response.headers)
        except LINE_ERRORS as error:
            raise mapped(prepared.target, error, proxied=bool(self._settings.proxy)) from error
        return Upstream(line, prepared.target, self._max_response)

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
        """Send one request to a deployment; returns when the answer's headers have arrived.

        With `uds`, the absolute path of a Unix socket, it goes there, whatever host the http:// URL names.

        Redirects are not followed: they would carry the key to a place that the operator never named. Only connecting
        has a time limit here; for the rest, the caller is cancelled when its own time is over (see `calls.attempts`).

        Raises:
            UpstreamError: cannot connect, or the line was cut. UpstreamTimeout: connecting took too long.
        """
        return await self.send(self.prepare(target, method, url, headers=headers, uds=uds), body)

    def _way(self, method: str, url: str | URL, headers: Mapping[str, str], uds: str) -> direct.Request | None:
        """The request for the short way; None if it must take the long one (a proxy, …)."""
        if self._pool is None or (self._settings.proxy and not uds):
            return None
        place = (method, str(url), uds, *headers.items())
        if place not in self._ways:  # most vendors ask for the same again and again
            if len(self._ways) >= _MOST_WAYS:
                self._ways.clear()
            parsed = URL(url)
            merged = CIMultiDict(_HEADERS)
            merged.update(headers)
            suits = direct.suits(method, parsed, merged) and not (uds and parsed.scheme == "https")
            self._ways[place] = direct.Request.to(method, parsed, merged, uds) if suits else None
        return self._ways[place]

    async def websocket(
        self, target: Target, url: str | URL, *, headers: Mapping[str, str], heartbeat: float
    ) -> WebSocket:
        """Open a WebSocket to a deployment; like `request`, it follows no redirects. It sends no Origin.

        Args:
            target: the deployment.
            url: http:// or https://, or ws:// or wss://.
            headers: those of the request that opens it.
            heartbeat: seconds of silence after which the other side is asked whether it is still there.

        Raises:
            UpstreamError: cannot connect, or the WebSocket is refused. UpstreamTimeout: it took too long.
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
        except LINE_ERRORS as error:
            raise mapped(target, error, proxied=bool(self._settings.proxy)) from error
        return WebSocket(socket, target.vendor)

    def _through(self, uds: str) -> aiohttp.ClientSession:
        """The session for a Unix socket, made at the first request."""
        if uds not in self._local:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout)
            connector = UnixConnector(uds, limit=0)
            self._local[uds] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                headers=_HEADERS,
                auto_decompress=False,
            )
        return self._local[uds]

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
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError) as error:
            why = "took too long" if isinstance(error, TimeoutError) else reason(error)
            raise InvalidRequest(f"{param}: cannot fetch the URL: {why}", param=param, retry=Retry.NEXT) from None
        except ValueError:  # from yarl, or of a host name that has no place in the DNS; also in a redirect
            raise InvalidRequest(f"{param}: not a valid URL", param=param) from None

    def check(self, url: str, *, param: str) -> None:
        """Check that a client's URL may be called, as far as its text tells.

        Raises:
            InvalidRequest: not an http or https URL, or plainly not on a public address.
        """
        try:
            self._checked(url, param)
        except ValueError:
            raise InvalidRequest(f"{param}: not a valid URL", param=param) from None

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str], param: str) -> int:
        """Post to a client's URL; returns the status of the answer, whose body is not read.

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
            why = "took too long" if isinstance(error, TimeoutError) else reason(error)
            raise InvalidRequest(f"{param}: cannot reach the URL: {why}", param=param) from None
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
                body = await self._whole(decoded(SessionLine(response), response.headers), param)
                return Fetched(body, response.content_type if "Content-Type" in response.headers else "")
        raise InvalidRequest(f"{param}: more than {_MAX_REDIRECTS} redirects", param=param)

    async def _whole(self, line: Line, param: str) -> bytes:
        limit = self._settings.max_fetch
        body = bytearray()
        try:
            while part := await line.receive():
                body += part
                if len(body) > limit:
                    raise InvalidRequest(f"{param}: larger than egress.max_fetch ({limit} bytes)", param=param)
        finally:
            line.release()
        return bytes(body)

    def _checked(self, url: str, param: str) -> URL:
        parsed = URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.port is None:
            raise InvalidRequest(f"{param}: expected an http or https URL", param=param)
        if parsed.user is not None or parsed.password is not None:
            raise InvalidRequest(f"{param}: a URL with a user name or password is not fetched", param=param)
        # Literal addresses are checked here, as aiohttp does not ask the resolver about them.
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
    # inet_aton accepts, as the C library does, what ipaddress refuses: "127.1", "0x7f000001", "2130706433". The rest is
    # how aiohttp guesses what is an address, about which it does not ask the resolver.
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


def _in_pieces(body: bytes | None) -> bytes | io.BytesIO | None:
    """A large body as a file, which aiohttp writes in pieces; at once, it would hold up the event loop."""
    return io.BytesIO(body) if body and len(body) >= 1 << 20 else body
