"""The way out: connections that serve again or never, faults told without a secret, and no way in to private nets."""

import asyncio
import contextlib
import gzip
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import SecretStr
from yarl import URL

from gatehook.config.settings import EgressSettings
from gatehook.errors import Retry, UpstreamError
from gatehook.model import Target
from gatehook.testing import Reply
from gatehook.upstream import direct
from gatehook.upstream.egress import Egress, Upstream

KEY = "s3cr3t-Zq81-never-shown"
TARGET = Target("m#1", "m", "acme", "u", api_key=SecretStr(KEY))
HEADERS = {"Authorization": f"Bearer {KEY}"}


async def arrived(answer: Upstream) -> bytes:
    """The body of an answer that comes in any number of pieces, all of which are waited for."""
    while (body := answer.at_once()) is None:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.001)
    return body


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task is about to do; fails after a second."""
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


@pytest.mark.parametrize("way", ["short", "long"])
class TestPool:
    async def test_a_connection_whose_answer_was_read_to_its_end_serves_again(
        self, open_egress: Any, counting: Any
    ) -> None:
        egress = await open_egress()
        async with counting(Reply.of_json({"n": 1}), Reply(body=[b"a", b"b"])) as stub:
            async with await egress.request(TARGET, "POST", stub.url, headers=HEADERS, body=b"{}") as upstream:
                assert await upstream.read() == b'{"n": 1}'
            async with await egress.request(TARGET, "GET", stub.url + "/x", headers={}) as upstream:
                assert b"".join([piece async for piece in upstream.chunks()]) == b"ab"
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert await upstream.receive() == b"ab"
                assert await upstream.receive() == b""
            assert (stub.connections, len(stub.requests)) == (1, 3)

    async def test_what_has_all_arrived_needs_no_context(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply.of_json({"n": 1}), Reply.of_events(b"data: 1\n\n", end="silence")) as stub:
            whole = await egress.request(TARGET, "GET", stub.url, headers={})
            assert await arrived(whole) == b'{"n": 1}'
            assert whole.at_once() == b""  # it is nobody's any more
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as half:
                assert stub.connections == 1
                assert half.at_once() is None
                await half.receive()
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_what_has_all_arrived_may_be_too_large(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress(max_response=3)
        async with counting(Reply.of_json({"n": 1})) as stub:
            for _ in range(2):
                answer = await egress.request(TARGET, "GET", stub.url, headers={})
                with pytest.raises(UpstreamError, match="max_response"):
                    await arrived(answer)
            assert stub.connections == 1

    async def test_a_half_read_answer_is_never_met_by_the_next_request(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        first = Reply.of_events([b"data: mine\n\n", b"data: also mine\n\n"], pause=0.01)
        async with counting(first, Reply.of_events(b"data: yours\n\n")) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert b"mine" in await upstream.receive()
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert await upstream.read() == b"data: yours\n\n"
            assert stub.connections == 2
            await until(lambda: stub.open == 1)

    async def test_leaving_a_stream_closes_its_connection_at_once(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply.of_events(b"data: 1\n\n", end="silence")) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                await upstream.receive()
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_an_unread_answer_is_closed_too(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply(body=b"x" * 20_000_000)) as stub:
            for _ in range(2):
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    assert upstream.status == 200
            assert stub.connections == 2

    @pytest.mark.parametrize("stage", ["head", "body"])
    async def test_cancelling_closes_the_connection(self, stage: str, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        reply = Reply(status=0, end="silence") if stage == "head" else Reply(body=b"part", end="silence")
        async with counting(reply) as stub:

            async def work() -> None:
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    await upstream.read()

            task = asyncio.create_task(work())
            await until(lambda: len(stub.requests) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_draining_saves_the_connection(
        self, open_egress: Any, counting: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "gatehook.upstream.answer._DRAIN_SECONDS", 20
        )  # what comes soon comes late on a busy machine
        egress = await open_egress()
        async with counting(Reply.of_events([b"data: [DONE]\n\n", b"\n"], pause=0.01)) as stub:
            for _ in range(2):
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    await upstream.receive()
                    await upstream.drain()
                    await upstream.drain()  # nothing left: no harm
            assert stub.connections == 1

    @pytest.mark.parametrize("end", ["silence", "cut", "reset"])
    async def test_draining_never_takes_long_and_never_fails(self, end: Any, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply.of_events(b"data: [DONE]\n\n", end=end), Reply(body=b"next")) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                await upstream.receive()
                async with asyncio.timeout(10):
                    await upstream.drain()
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert await upstream.read() == b"next"
            assert stub.connections == 2

    async def test_draining_an_endless_answer_ends(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply(body=[b"x" * 1000] * 10_000, pause=0.005)) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream, asyncio.timeout(10):
                await upstream.receive()
                await upstream.drain()
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_an_answer_nobody_asked_for_is_not_taken_for_the_next_one(self, open_egress: Any) -> None:
        egress = await open_egress()
        answers = iter([b"first", b"second"])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    for body in (next(answers), b"poison"):
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for expected in (b"first", b"second"):
                async with await egress.request(TARGET, "GET", url, headers={}) as upstream:
                    assert await upstream.read() == expected

    @pytest.mark.parametrize("poison", [b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n", b"0\r\n\r\n"])
    async def test_what_comes_while_a_connection_lies_idle_is_not_taken_for_the_next_answer(
        self, open_egress: Any, poison: bytes
    ) -> None:
        egress, read = await open_egress(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
                    await read.wait()
                    writer.write(poison)
            writer.close()

        def has_come() -> bool:
            if egress._pool is not None:
                return not egress._pool._open
            return any(line.should_close for lines in egress._vendors.connector._conns.values() for line, _ in lines)

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for _ in range(2):
                read.clear()
                async with await egress.request(TARGET, "GET", url, headers={}) as upstream:
                    assert (upstream.status, await upstream.read()) == (200, b"good")
                read.set()
                await until(has_come)

    async def test_a_server_that_closes_after_each_answer_is_asked_on_new_connections(
        self, open_egress: Any, counting: Any
    ) -> None:
        egress = await open_egress()
        async with counting(Reply(body=b"x", end="close")) as stub:
            for _ in range(3):
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    assert await upstream.read() == b"x"
            assert stub.connections == 3

    async def test_requests_at_once_have_a_connection_each(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply(body=b"x", before=0.05)) as stub:

            async def work() -> bytes:
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    body: bytes = await upstream.read()
                    return body

            assert await asyncio.gather(*(work() for _ in range(80))) == [b"x"] * 80
            assert stub.connections == 80

    async def test_the_end_of_the_lifespan_closes_every_connection(self, way: str, counting: Any) -> None:
        egress = Egress(EgressSettings())
        if way == "long":
            egress._pool = None
        async with counting(Reply(body=b"x")) as stub:
            async with egress.lifespan():
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    await upstream.read()
                assert stub.open == 1
            await until(lambda: stub.open == 0)
            with pytest.raises(RuntimeError, match="not open"):
                await egress.request(TARGET, "GET", stub.url, headers={})
            with pytest.raises(RuntimeError, match="not open"):
                await egress.fetch(stub.url, param="p")


def test_a_host_is_named_as_the_dns_knows_it() -> None:
    prepared = direct.Request.to("GET", URL("http://bücher.test:81/ä b?q=ö"), {})
    assert prepared.head.startswith(b"GET /%C3%A4%20b?q=%C3%B6 HTTP/1.1\r\nHost: xn--bcher-kva.test:81\r\n")
    assert prepared.origin == ("xn--bcher-kva.test", 81, False)


@pytest.mark.parametrize("way", ["short", "long"])
class TestRequest:
    async def test_what_is_sent_is_what_was_given_and_uncompressed_answers_are_asked_for(
        self, open_egress: Any, counting: Any
    ) -> None:
        egress = await open_egress()
        async with counting(Reply(body=b"x", headers={"Set-Cookie": "session=1; Path=/"})) as stub:
            for _ in range(2):
                async with await egress.request(
                    TARGET, "POST", stub.url + "/v1?a=b%20c", headers=HEADERS, body=b"{}"
                ) as up:
                    await up.read()
            for sent in stub.requests:
                assert (sent.method, sent.path, sent.body) == ("POST", "/v1?a=b%20c", b"{}")
                assert sent.headers["authorization"] == f"Bearer {KEY}"
                assert sent.headers["accept-encoding"] == "identity"
                assert sent.headers["user-agent"] == "gatehook"
                assert "cookie" not in sent.headers  # one client's session is not another's

    async def test_interim_answers_are_passed_over(self, open_egress: Any, answered: Any) -> None:
        egress = await open_egress()
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        async with answered(egress, interim + b"HTTP/1.1 201 OK\r\nContent-Length: 1\r\n\r\nx") as upstream:
            assert (upstream.status, await upstream.read()) == (201, b"x")

    async def test_a_large_body_arrives_whole_and_one_without_a_body_is_none(
        self, open_egress: Any, counting: Any
    ) -> None:
        egress = await open_egress()
        async with counting(Reply(body=b"x")) as stub:
            for body in (bytes(5_000_000), b"", None):
                async with await egress.request(TARGET, "POST", stub.url, headers={}, body=body) as upstream:
                    await upstream.read()
            assert [len(sent.body) for sent in stub.requests] == [5_000_000, 0, 0]

    async def test_an_answer_is_read_whatever_its_framing(self, open_egress: Any, answered: Any) -> None:
        egress = await open_egress()
        for head, body in (
            (b"Content-Length: 3", b"abc"),
            (b"Transfer-Encoding: chunked", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
            (b"Connection: close", b"abc"),  # until the connection ends
        ):
            async with answered(egress, b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body) as upstream:
                assert await upstream.read() == b"abc"

    async def test_one_vendors_headers_are_not_anothers(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply(body=b"x")) as stub:
            for key in ("one", "two", "one"):
                async with await egress.request(TARGET, "GET", stub.url, headers={"X-Key": key}) as upstream:
                    await upstream.read()
            assert [sent.headers["x-key"] for sent in stub.requests] == ["one", "two", "one"]
            assert all(sent.headers["host"] == stub.url.removeprefix("http://") for sent in stub.requests)

    async def test_redirects_are_not_followed_so_the_key_goes_nowhere_else(
        self, open_egress: Any, counting: Any
    ) -> None:
        egress = await open_egress()
        async with (
            counting(Reply(body=b"stolen")) as thief,
            counting(Reply(status=307, headers={"Location": thief.url})) as stub,
        ):
            async with await egress.request(TARGET, "POST", stub.url, headers=HEADERS, body=b"{}") as upstream:
                assert (upstream.status, upstream.headers["Location"]) == (307, thief.url)
                await upstream.read()
            assert thief.requests == []

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("3", 3.0),
            ("0.5", 0.5),
            ("-4", 0.0),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
            ("nan", None),
            ("inf", None),
            ("", None),
        ],
    )
    async def test_retry_after(self, value: str, seconds: float | None, open_egress: Any, answered: Any) -> None:
        egress = await open_egress()
        async with answered(egress, Reply(status=429, headers={"Retry-After": value})) as upstream:
            assert upstream.retry_after == seconds

    @pytest.mark.parametrize(
        ("declared", "is_stream"),
        [
            ("text/event-stream", True),
            ("Text/Event-Stream; charset=utf-8", True),
            ("application/json", False),
            ("text/html", False),
        ],
    )
    async def test_a_stream_is_what_says_so(
        self, declared: str, is_stream: bool, open_egress: Any, answered: Any
    ) -> None:
        egress = await open_egress()
        async with answered(egress, Reply(content_type=declared)) as upstream:
            assert upstream.is_event_stream is is_stream


@pytest.mark.parametrize("way", ["short", "long"])
class TestLimit:
    @pytest.mark.parametrize("pieces", [[b"x" * 1001], [b"x" * 500, b"x" * 501], [b"x"] * 1001])
    async def test_an_answer_over_the_limit_is_refused(
        self, pieces: Sequence[bytes], open_egress: Any, counting: Any
    ) -> None:
        egress = await open_egress(max_response=1000)
        async with counting(Reply(body=pieces)) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                with pytest.raises(UpstreamError, match=r"^acme: .*egress\.max_response \(1000 bytes\)") as caught:
                    await upstream.read()
            assert caught.value.retry is Retry.NEXT

    async def test_an_answer_of_just_the_limit_is_read(self, open_egress: Any, answered: Any) -> None:
        egress = await open_egress(max_response=1000)
        async with answered(egress, Reply(body=[b"x" * 500, b"x" * 500])) as upstream:
            assert len(await upstream.read()) == 1000

    @pytest.mark.parametrize(("length", "fits"), [(1000, True), (1001, False)])
    async def test_a_declared_length_counts_like_any(
        self, length: int, fits: bool, open_egress: Any, answered: Any
    ) -> None:
        egress = await open_egress(max_response=1000)
        body = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length
        refusal = contextlib.nullcontext() if fits else pytest.raises(UpstreamError, match="max_response")
        async with answered(egress, body) as upstream:
            with refusal:
                assert len(await upstream.read()) == length

    async def test_a_small_compressed_answer_cannot_grow_over_the_limit(self, open_egress: Any, saying: Any) -> None:
        egress = await open_egress(max_response=1 << 20)
        bomb = gzip.compress(bytes(50 << 20))
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        async with saying(head + bomb) as url, await egress.request(TARGET, "GET", url, headers={}) as upstream:
            with pytest.raises(UpstreamError, match="max_response"):
                await upstream.read()
