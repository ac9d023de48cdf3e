"""One tool: the request that it makes from its arguments, and what the model is told of the answer."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from yarl import URL

from gatehook import Call, Egress, Target, Upstream, UpstreamError, UpstreamTimeout, covers, encode, redact
from gatehook_plugins.http_tools.declared import Declared

__all__ = ["HttpTool"]

_BINARY: Final = (
    "image/",
    "audio/",
    "video/",
    "font/",
    "application/octet-stream",
    "application/pdf",
    "application/zip",
)
_OPEN: Final = frozenset({"accept", "accept-language", "content-type", "user-agent"})
"""Headers that hold no secret: their values may stand in answers, and are not redacted."""
_WORDS: Final = 2000
"""Characters of an error's body that the model is told."""


class HttpTool:
    """A declared tool. Where an argument chooses the host, only public ones are asked, as with clients' URLs."""

    def __init__(self, name: str, declared: Declared, egress: Egress, canonical: Callable[[str], str]) -> None:
        """`canonical` gives the name of the model behind an alias."""
        self.name = name
        self.description = declared.description
        self.parameters: Mapping[str, Any] = declared.schema_of_arguments
        self._declared = declared
        self._template = declared.template
        self._queried = declared.queried
        self._egress = egress
        self._canonical = canonical
        self._headers = {key: value.get_secret_value() for key, value in declared.headers.items()}
        # The longest first, as one may begin like another.
        self._secrets = tuple(sorted(_secrets(self._headers), key=len, reverse=True))
        self._longest = max((len(secret.encode()) for secret in self._secrets), default=0)
        self._target = Target(key=name, name=name, vendor=f"tool {name}", model="", hidden=self._secrets)

    def suits(self, call: Call) -> bool:
        """Whether its `models` name the call's."""
        return any(covers(self._declared.models, name) for name in (call.model, self._canonical(call.model)))

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        """Call the API.

        Raises:
            InvalidRequest: an argument does not fit its place in the address, or the host may not be asked.
            UpstreamError: it cannot be reached, takes too long, or answers with an error.
        """
        query = {name: arguments[name] for name in self._queried if name in arguments}
        url = self._template.filled(arguments, query)
        try:
            async with asyncio.timeout(self._declared.timeout):
                if self._template.chooses_host:
                    fetched = await self._egress.fetch(url, param=self._template.names[0])
                    return self._told(fetched.body, fetched.content_type)
                return await self._request(url, arguments)
        except TimeoutError:
            raise UpstreamTimeout(f"{self.name}: no answer within {self._declared.timeout:g} s") from None

    async def _request(self, url: str, arguments: Mapping[str, Any]) -> str:
        headers, body = self._headers, b""
        if self._declared.has_body:
            used = {*self._template.names, *self._queried}
            body = encode({name: value for name, value in arguments.items() if name not in used})
            if not any(name.lower() == "content-type" for name in headers):
                headers = {"Content-Type": "application/json", **headers}
        # Encoded: the address is to go out as it was made; nothing in it may be decoded and read again.
        address = URL(url, encoded=True)
        async with await self._egress.request(
            self._target, self._declared.method, address, headers=headers, body=body or None
        ) as upstream:
            if not 200 <= upstream.status < 300:
                said = (await upstream.read_error()).decode("utf-8", "replace").strip()
                raise UpstreamError(f"{self.name}: answered {upstream.status}: {redact(said, self._secrets)[:_WORDS]}")
            content_type = upstream.headers.get("Content-Type", "")
            return self._told(await self._read(upstream), content_type) or f"(done, {upstream.status})"

    async def _read(self, upstream: Upstream) -> bytes:
        """The body, cut a little beyond what the model may be told."""
        body = bytearray()
        while len(body) <= self._declared.max_result + self._longest and (part := await upstream.receive()):
            body += part
        return bytes(body)

    def _told(self, body: bytes, content_type: str) -> str:
        """The answer as a text, without the secrets that some servers repeat."""
        most = self._declared.max_result
        kind, _, rest = content_type.partition(";")
        size = f"{len(body)} bytes" if len(body) <= most else f"more than {most} bytes"
        if kind.strip().lower().startswith(_BINARY) or b"\0" in body:
            return f"[not a text: {kind.strip() or 'unknown type'}, {size}]"
        text = _decoded(body[: most + self._longest], rest)
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        if len(body) <= most:
            return text
        # Cut after redaction, and before what may be the beginning of a secret: half of one would not be recognised.
        raw = text.encode("utf-8", "surrogatepass")
        told = raw[: min(most, max(0, len(raw) - self._longest))]
        return f"{told.decode('utf-8', 'ignore')}\n[cut: {len(told)} bytes of more]"


def _secrets(headers: Mapping[str, str]) -> Iterator[str]:
    """The texts in the headers that nobody may be told: values, and what follows a scheme such as "Bearer"."""
    for name, value in headers.items():
        if name.lower() not in _OPEN:
            yield from filter(None, {value, value.rpartition(" ")[2]})  # "" is found between any two letters


def _decoded(body: bytes, parameters: str) -> str:
    """The text in the charset that is declared, as far as it is one."""
    charset = parameters.lower().partition("charset=")[2].partition(";")[0].strip(" \"'") or "utf-8"
    try:
        return body.decode(charset, "replace")
    except (LookupError, UnicodeError):
        return body.decode("utf-8", "replace")
