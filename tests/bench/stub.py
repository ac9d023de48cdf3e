"""The upstream of the benchmark: answers like a vendor, and costs as little as Python can.

`POST …/chat/completions` gets a JSON completion, or, when the body says `"stream": true`, an SSE answer. How the
stream is written rides in the model name: `mock-n64` sends 64 content events in one write, `mock-n64-d10000` writes
one event every 10,000 µs, and a completion after as long. Where Anthropic and Gemini take requests, plain ones get the
same text in their shapes. `GET` anything is 200, so a readiness check works here too.
"""

import argparse
import asyncio
import re
import ssl
from functools import lru_cache
from typing import cast

import uvloop

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
STREAM = re.compile(rb'"stream"\s*:\s*true')
KNOBS = re.compile(rb"mock-n(\d+)(?:-d(\d+))?")

TEXT = b"Hello! How can I assist you today? I can help with questions, writing, analysis, code and more."
COMPLETION = (
    b'{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1741569952,'
    b'"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"'
    + TEXT
    + b'","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,'
    b'"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default",'
    b'"system_fingerprint":"fp_44709d6fcb"}'
)
MESSAGE = (  # Anthropic's
    b'{"id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message","role":"assistant","model":"claude-sonnet-4-5",'
    b'"content":[{"type":"text","text":"' + TEXT + b'"}],"stop_reason":"end_turn","stop_sequence":null,'
    b'"usage":{"input_tokens":19,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":10}}'
)
CONTENT = (  # Gemini's
    b'{"candidates":[{"content":{"parts":[{"text":"' + TEXT + b'"}],"role":"model"},"finishReason":"STOP","index":0}],'
    b'"usageMetadata":{"promptTokenCount":19,"candidatesTokenCount":10,"totalTokenCount":29},'
    b'"modelVersion":"gemini-2.5-flash","responseId":"mrq_aP2kLJ6Zqtk"}'
)
EVENT_START = (
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_44709d6fcb",'
)
COMMON_HEAD = b"HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 00:00:00 GMT\r\nserver: stub\r\nx-request-id: req_stub\r\n"
STREAM_HEAD = (
    COMMON_HEAD + b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)


def sized(content_type: bytes, body: bytes) -> bytes:
    """A complete answer of known length."""
    return COMMON_HEAD + b"content-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (content_type, len(body), body)


PLAIN_ANSWER = sized(b"application/json", COMPLETION)
MESSAGE_ANSWER = sized(b"application/json", MESSAGE)
CONTENT_ANSWER = sized(b"application/json", CONTENT)
HEALTH_ANSWER = sized(b"text/plain", b"ok")
REFUSAL = b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def chunk(event: bytes) -> bytes:
    """One event in one chunk of the transfer coding."""
    return b"%x\r\n%b\r\n" % (len(event), event)


def delta(fields: bytes, finish: bytes) -> bytes:
    """One chunk of a completion."""
    choice = b'"choices":[{"index":0,"delta":{%b},"logprobs":null,"finish_reason":%b}],"usage":null}\n\n'
    return chunk(EVENT_START + choice % (fields, finish))


@lru_cache
def stream_writes(events: int) -> tuple[bytes, ...]:
    """What a stream of so many content events writes: head with the role, each event, the three closing events."""
    first = STREAM_HEAD + delta(b'"role":"assistant","content":"","refusal":null', b"null")
    usage = b'"choices":[],"usage":{"prompt_tokens":19,"completion_tokens":64,"total_tokens":83}}\n\n'
    last = delta(b"", b'"stop"') + chunk(EVENT_START + usage) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return first, *[delta(b'"content":" token"', b"null")] * events, last


@lru_cache
def stream_burst(events: int) -> bytes:
    """The same stream in one write."""
    return b"".join(stream_writes(events))


class Upstream(asyncio.Protocol):
    """One connection: reads whole requests, answers them in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but ancestry

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def _serve(self) -> None:
        """Answer what is complete; a paced stream in progress makes the next request wait."""
        while self._timer is None and (end := self._buffer.find(b"\r\n\r\n") + 4) >= 4:
            length = CONTENT_LENGTH.search(self._buffer, 0, end)
            if length is None and self._buffer.startswith(b"POST"):
                self._transport.write(REFUSAL)
                self._transport.close()
                return
            total = end + int(length[1]) if length else end
            if len(self._buffer) < total:
                return
            request, self._buffer = self._buffer[:total], self._buffer[total:]
            self._answer(request, end)

    def _answer(self, request: bytes, body_at: int) -> None:
        if request.startswith(b"GET"):
            self._transport.write(HEALTH_ANSWER)
            return
        if (other := _translated(request[: request.index(b"\r\n")])) is not None:
            self._transport.write(other)
            return
        knobs = KNOBS.search(request, body_at)
        events, delay_us = (int(knobs[1]), int(knobs[2] or 0)) if knobs else (64, 0)
        if STREAM.search(request, body_at) is not None:
            self._stream(events, delay_us)
        elif delay_us:
            self._timer = self._loop.call_later(delay_us / 1e6, self._tick, (PLAIN_ANSWER,), 0, 0.0)
        else:
            self._transport.write(PLAIN_ANSWER)

    def _stream(self, events: int, delay_us: int) -> None:
        if not delay_us:
            self._transport.write(stream_burst(events))
            return
        writes = stream_writes(events)
        self._transport.write(writes[0] + writes[1])  # the role comes with the first content
        self._timer = self._loop.call_later(delay_us / 1e6, self._tick, writes, 2, delay_us / 1e6)

    def _tick(self, writes: tuple[bytes, ...], index: int, delay: float) -> None:
        """Write one event of a paced stream and plan the next."""
        self._transport.write(writes[index])
        if index + 1 < len(writes):
            self._timer = self._loop.call_later(delay, self._tick, writes, index + 1, delay)
        else:
            self._timer = None
            self._serve()


def _translated(request_line: bytes) -> bytes | None:
    """The answer to what is not OpenAI's."""
    if b"/messages " in request_line:
        return MESSAGE_ANSWER
    return CONTENT_ANSWER if b":generateContent " in request_line else None


async def serve(port: int, chain: str) -> None:
    loop = asyncio.get_running_loop()
    tls = None
    if chain:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(chain)
    server = await loop.create_server(lambda: Upstream(loop), "127.0.0.1", port, ssl=tls, backlog=1024)
    print("http{}://127.0.0.1:{}".format("s" if tls else "", server.sockets[0].getsockname()[1]), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="stub upstream of the benchmark")
    parser.add_argument("--port", type=int, required=True, help="0: any; its address is printed")
    parser.add_argument("--chain", default="", help="file of a key and a certificate, in PEM, for TLS")
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.chain))
