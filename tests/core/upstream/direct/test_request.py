"""What is sent, and what is not sent this way."""

import asyncio
from typing import Any

import pytest
from yarl import URL

from gatehook.upstream import direct

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class TestRequest:
    @pytest.mark.parametrize(
        ("url", "host", "port", "first", "named"),
        [
            ("http://h", "h", 80, "/", "h"),
            ("http://H:80?a=b", "h", 80, "/?a=b", "h"),
            ("http://h:81/a%2Fb?c=%20#d", "h", 81, "/a%2Fb?c=+", "h:81"),
            ("http://h./ü", "h.", 80, "/%C3%BC", "h"),
            ("http://[::1]/", "::1", 80, "/", "[::1]"),
            ("http://[::1]:81/", "::1", 81, "/", "[::1]:81"),
            ("http://h:0/", "h", 0, "/", "h:0"),
            ("https://h", "h", 443, "/", "h"),
            ("https://h:443/", "h", 443, "/", "h"),
            ("https://h:80/", "h", 80, "/", "h:80"),
        ],
    )
    def test_where_it_goes(self, url: str, host: str, port: int, first: str, named: str) -> None:
        request = direct.Request.to("GET", URL(url), {"A": "ä b"})
        assert request.origin == (host, port, url.startswith("https"))
        [line, *rest] = request.head.decode().split("\r\n")
        assert line.startswith("GET /")
        assert line == f"GET {first} HTTP/1.1" or URL(url).query_string in line.replace("%20", " ")
        assert rest == [f"Host: {named}", "A: ä b", "Content-Length: "]

    @pytest.mark.parametrize("name", ["", "A B", "A:B", "A\r\nB", "Ä", "A\0", " A", "A\n"])
    def test_a_header_whose_name_is_none_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="not a header's name"):
            direct.Request.to("GET", URL("http://h/"), {name: "1"})

    @pytest.mark.parametrize(
        "value", ["secret\r\nB: 1", "secret\n", "secret\0", "secret\udcff", "secret\x7f", "\x0bsecret"]
    )
    def test_a_header_that_would_break_its_line_is_refused_and_not_repeated(self, value: str) -> None:
        with pytest.raises(ValueError, match="in the header 'A'") as caught:
            direct.Request.to("GET", URL("http://h/"), {"A": value})
        assert "secret" not in repr(caught.value)

    def test_a_path_cannot_break_its_line(self) -> None:
        with pytest.raises(ValueError, match=r"cannot be sent in the address$"):
            direct.Request.to("GET", URL("http://h/secret\x0b", encoded=True), {})

    @pytest.mark.parametrize(
        ("method", "url", "headers"),
        [
            ("GET", "ftp://h/", {}),
            ("GET", "nonsense", {}),
            ("GET", "http:///x", {}),
            ("GET", "http://user@h/", {}),
            ("GET", "http://user:pw@h/", {}),
            ("HEAD", "http://h/", {}),
            ("CONNECT", "http://h/", {}),
            ("GET / HTTP/1.1\r\nX: ", "http://h/", {}),
            *(
                ("POST", "http://h/", {name: "1"})
                for name in ("host", "CONTENT-LENGTH", "Transfer-Encoding", "Connection")
            ),
            ("POST", "http://h/", {"Expect": "100-continue"}),
        ],
    )
    def test_what_does_not_go_the_short_way(self, method: str, url: str, headers: dict[str, str]) -> None:
        assert not direct.suits(method, URL(url), headers)

    async def test_head_and_body_are_sent_as_they_are(self, pool: direct.Pool, rig: Any) -> None:
        got: list[bytes] = []

        async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for length in (3, 0):
                got.append(await rig.head_of(reader) + await reader.readexactly(length))
                writer.write(OK)

        async with rig.server(listening) as url:
            request = direct.Request.to("POST", URL(url + "p"), {"A": "b"})
            for body in (b"abc", b""):
                answer = await pool.send(request, body)
                assert await answer.receive() == b"ok"
                answer.release()
        host = url.removeprefix("http://").rstrip("/").encode()
        head = b"POST /p HTTP/1.1\r\nHost: %b\r\nA: b\r\nContent-Length: %d\r\n\r\n%b"
        assert got == [head % (host, 3, b"abc"), head % (host, 0, b"")]
