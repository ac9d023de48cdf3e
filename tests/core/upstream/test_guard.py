"""URLs that clients send: no way in to private nets, and nothing taken that is too large."""

import asyncio
import gzip
import socket
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from gatehook.errors import InvalidRequest
from gatehook.testing import Reply
from gatehook.upstream import egress as module
from gatehook.upstream.egress import Egress, is_public

KEY = "s3cr3t-Zq81-never-shown"

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    # IPv4 in other spellings, as the C library reads them
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7F.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "0",
    "10.1",
    "167772161",
    # IPv6
    "::",
    "::1",
    "0:0:0:0:0:0:0:1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "100::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    # IPv4 inside IPv6: mapped, compatible, translated, 6to4, NAT64 (well-known and local), Teredo, ORCHID
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "::7f00:1",
    "::ffff:0:127.0.0.1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::7f00:1",
    "64:ff9b:1::808:808",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:20::1",
    # No addresses
    "",
    "localhost",
    "example.com",
    "127.0.0.1.",
    "256.1.1.1",
    "1.2.3.4.5",
    "::g",
    "[::1]",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "192.169.0.1",
    "100.128.0.1",
    "0x08080808",
    "134744072",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_on_the_public_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_on_the_public_internet(address: str) -> None:
    assert is_public(address)


class Names(AbstractResolver):
    """A DNS of the test's own: names to addresses; every question is noted."""

    def __init__(self, known: Mapping[str, Sequence[str]]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.known:
            raise OSError(None, "no such name")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self.known[host]
        ]

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence[str]]:
    """What the DNS says; fill it in before the egress is asked."""
    known: dict[str, Sequence[str]] = {}
    monkeypatch.setattr(module, "DefaultResolver", lambda: Names(known))
    return known


@pytest.fixture
async def guarded(names: Any, open_egress: Any) -> Egress:
    """An egress as it is by default."""
    egress: Egress = await open_egress(max_fetch=1000)
    return egress


@pytest.fixture
async def lenient(open_egress: Any) -> Egress:
    """An egress whose clients' URLs may lie in private networks."""
    egress: Egress = await open_egress(max_fetch=1000, allow_private_urls=True)
    return egress


@pytest.fixture
def stub_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1, where the stubs are, counts as public; nothing else does that would not."""
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1" or is_public(address))


async def refused(egress: Egress, url: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest, match=r"^field: ") as caught:
        async with asyncio.timeout(10):
            await egress.fetch(url, param="field")
    error = caught.value
    assert (error.status, error.param) == (400, "field")
    return error


class TestGuard:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "127.1.",
            "0",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::1]",
            "[::]",
            "[::127.0.0.1]",
            "[2002:7f00:1::]",
            "[64:ff9b::7f00:1]",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "localhost",
            "localhost.",
            "LOCALHOST",
        ],
    )
    async def test_no_spelling_of_loopback_is_reached(self, host: str, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()  # with the system's own resolver
        async with counting(Reply(body=b"internal")) as stub:
            await refused(egress, stub.url.replace("127.0.0.1", host))
            assert (stub.connections, stub.requests) == (0, [])

    @pytest.mark.parametrize(
        "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1", "64:ff9b::7f00:1"]
    )
    async def test_a_name_that_leads_to_a_private_address_is_refused(
        self, address: str, guarded: Egress, names: dict[str, Sequence[str]], counting: Any
    ) -> None:
        names["rebind.test"] = [address]
        async with counting(Reply(body=b"internal")) as stub:
            error = await refused(guarded, stub.url.replace("127.0.0.1", "rebind.test"))
            assert stub.connections == 0
        assert "not public" in error.message
        assert address not in error.message  # it tells nothing of the network behind

    async def test_of_several_addresses_only_the_public_ones_are_tried(
        self, guarded: Egress, names: dict[str, Sequence[str]], stub_is_public: None, counting: Any
    ) -> None:
        names["mixed.test"] = ["::1", "127.0.0.2", "127.0.0.1"]
        async with counting(Reply(body=b"public")) as stub:
            fetched = await guarded.fetch(stub.url.replace("127.0.0.1", "mixed.test"), param="field")
            assert (fetched.body, stub.connections) == (b"public", 1)

    async def test_a_name_is_asked_for_anew_each_time_and_the_address_that_was_checked_is_the_one_used(
        self, guarded: Egress, names: dict[str, Sequence[str]], stub_is_public: None, counting: Any
    ) -> None:
        async with counting(Reply(body=b"public", end="close")) as stub:
            url = stub.url.replace("127.0.0.1", "rebind.test")
            names["rebind.test"] = ["127.0.0.1"]
            assert (await guarded.fetch(url, param="field")).body == b"public"
            names["rebind.test"] = ["127.0.0.2"]
            await refused(guarded, url)
            assert stub.connections == 1

    @pytest.mark.parametrize(
        "location",
        [
            "http://127.0.0.2:{port}/",
            "http://2130706434:{port}/",
            "//127.0.0.2:{port}/",
            "http://[::1]:{port}/",
            "http://[::ffff:127.0.0.2]:{port}/",
            "http://169.254.169.254/latest/meta-data/",
            "http://inside.test:{port}/",
            "http://localhost.:{port}/",
            "http://127.0.0.1.:{port}/",
            "ftp://127.0.0.1:{port}/",
            "file:///etc/passwd",
            "gopher://127.0.0.1:{port}/",
            "http://user:pw@127.0.0.1:{port}/",
            "http://[::1",
            "http://127.0.0.1:99999/",
            "http://" + "a" * 64 + ".test/",
        ],
    )
    async def test_a_redirect_leads_nowhere_a_client_may_not_go(
        self, location: str, guarded: Egress, names: dict[str, Sequence[str]], stub_is_public: None, counting: Any
    ) -> None:
        names["inside.test"] = ["127.0.0.2"]
        async with counting(Reply(body=b"x")) as stub:
            location = location.replace("{port}", stub.url.rpartition(":")[2])
            stub.script(Reply(status=302, headers={"Location": location}), Reply(body=b"internal"))
            await refused(guarded, stub.url)
            assert len(stub.requests) == 1

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "x",
            "//example.com/a",
            "ftp://example.com/a",
            "file:///etc/passwd",
            "gopher://example.com",
            "data:image/png;base64,AAAA",
            "javascript:alert(1)",
            "http:",
            "http://",
            "http:///a",
            "http:example.com",
            "http://[::1",
            "http://[zz]/",
            "http://example.com:99999/",
            "http://example.com:x/",
            "http://user@example.com/",
            "http://user:pw@example.com/",
            "http://:pw@example.com/",
            "http://@/",
            "http://.test/",
            "http://a..test/",
            "http://" + "a" * 64 + ".test/",
            "http://" + "a." * 200 + "test/",
            "http://\ud83d.test/",
            "http://a b.test/",
            "http://a%00b.test/",
            "http://xn--a/",
            "http://\u202e.test/",
        ],
    )
    async def test_what_is_no_plain_web_address_is_refused(self, url: str, guarded: Egress) -> None:
        await refused(guarded, url)

    async def test_the_answer_tells_nothing_of_the_url(self, guarded: Egress, names: dict[str, Sequence[str]]) -> None:
        error = await refused(guarded, f"https://gone.test/a.png?signature={KEY}")
        assert KEY not in error.message
        names["in.test"] = ["10.0.0.7"]
        assert KEY not in (await refused(guarded, f"https://in.test/a.png?signature={KEY}")).message


class TestFetch:
    async def test_a_private_address_is_reached_where_the_operator_allows_it(
        self, lenient: Egress, counting: Any
    ) -> None:
        async with counting(Reply(body=[b"ab", b"c"], content_type="image/png; x=y")) as stub:
            fetched = await lenient.fetch(stub.url + "/a.png?x=1", param="field")
            assert (fetched.body, fetched.content_type) == (b"abc", "image/png")
            [sent] = stub.requests
            assert (sent.method, sent.path) == ("GET", "/a.png?x=1")
            assert sent.headers.keys().isdisjoint({"authorization", "cookie", "referer", "x-api-key"})

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://user:pw@127.0.0.1/", "file:///etc/passwd", ""])
    async def test_allowing_private_addresses_allows_nothing_else(self, url: str, lenient: Egress) -> None:
        await refused(lenient, url)

    async def test_a_server_that_claims_no_type_claims_none(self, lenient: Egress, saying: Any) -> None:
        async with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx") as url:
            assert (await lenient.fetch(url, param="field")).content_type == ""

    @pytest.mark.parametrize("status", [201, 204, 206, 304, 401, 404, 500])
    async def test_anything_but_a_200_is_refused_with_its_number(
        self, status: int, lenient: Egress, saying: Any
    ) -> None:
        async with saying(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status) as url:
            assert (await refused(lenient, url)).message == f"field: the URL answered {status}"

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_three_redirects_are_followed_and_no_fourth(
        self, status: int, lenient: Egress, counting: Any
    ) -> None:
        moved = Reply(status=status, headers={"Location": "../next?a=b"})
        async with counting(moved, moved, moved, Reply(body=b"there")) as stub:
            assert (await lenient.fetch(stub.url + "/a/b/c/d", param="field")).body == b"there"
            assert [sent.path for sent in stub.requests] == ["/a/b/c/d", "/a/b/next?a=b", "/a/next?a=b", "/next?a=b"]
            stub.script(moved)
            assert "more than 3 redirects" in (await refused(lenient, stub.url)).message
            assert len(stub.requests) == 8

    async def test_a_redirect_without_an_address_is_refused(self, lenient: Egress, counting: Any) -> None:
        async with counting(Reply(status=302)) as stub:
            assert "answered 302" in (await refused(lenient, stub.url)).message

    async def test_a_body_of_just_the_cap_is_read_and_one_over_it_refused(self, lenient: Egress, counting: Any) -> None:
        async with counting(Reply(body=[b"x" * 500] * 2), Reply(body=[b"x" * 500, b"x" * 501])) as stub:
            assert len((await lenient.fetch(stub.url, param="field")).body) == 1000
            assert "egress.max_fetch (1000 bytes)" in (await refused(lenient, stub.url)).message

    async def test_an_endless_body_is_refused_as_soon_as_it_is_over_the_cap(
        self, lenient: Egress, counting: Any
    ) -> None:
        async with counting(Reply(body=b"x" * 1001, end="silence")) as stub:
            assert "max_fetch" in (await refused(lenient, stub.url)).message
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_a_small_compressed_body_cannot_grow_over_the_cap(self, lenient: Egress, saying: Any) -> None:
        bomb = gzip.compress(bytes(100 << 20))
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        async with saying(head + bomb) as url:
            assert "max_fetch" in (await refused(lenient, url)).message

    @pytest.mark.parametrize(
        ("encoding", "pack"),
        [
            ("gzip", gzip.compress),
            ("x-gzip", gzip.compress),
            ("deflate", zlib.compress),
            ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
        ],
    )
    async def test_a_compressed_body_is_unpacked_or_told_as_not_so_encoded(
        self, encoding: str, pack: Callable[[bytes], bytes], lenient: Egress, saying: Any
    ) -> None:
        last = encoding.rpartition(" ")[2].removeprefix("x-")
        for body, says in (
            (pack(b"abc"), ""),
            (pack(b"abc")[:-3], f"{last} ends too early"),
            (b"\x78plain", f"not {last}: "),
        ):
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
            async with saying(head.encode() + body) as url:
                if not says:
                    assert (await lenient.fetch(url, param="field")).body == b"abc"
                    continue
                told = (await refused(lenient, url)).message
                assert told.startswith(
                    f"field: cannot fetch the URL: the answer's Content-Encoding cannot be undone: {says}"
                )

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(status=0, end="cut"),
            Reply(status=0, end="reset"),
            Reply(body=b"x", end="cut"),
            Reply(body=b"x", end="reset"),
        ],
    )
    async def test_a_cut_line_is_told_as_the_urls_fault(self, reply: Reply, lenient: Egress, counting: Any) -> None:
        async with counting(reply) as stub:
            assert "cannot fetch the URL" in (await refused(lenient, stub.url)).message

    @pytest.mark.parametrize("reply", [Reply(status=0, end="silence"), Reply(body=b"x", end="silence")])
    async def test_silence_ends_in_time(
        self, reply: Reply, open_egress: Any, monkeypatch: pytest.MonkeyPatch, counting: Any
    ) -> None:
        monkeypatch.setattr(module, "_FETCH_SECONDS", 0.2)
        egress = await open_egress(allow_private_urls=True)
        async with counting(reply) as stub:
            assert (await refused(egress, stub.url)).message == "field: cannot fetch the URL: took too long"
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_a_cookie_of_one_client_is_not_sent_for_another(self, lenient: Egress, counting: Any) -> None:
        async with counting(Reply(body=b"x", headers={"Set-Cookie": "session=1"})) as stub:
            for _ in range(2):
                await lenient.fetch(stub.url, param="field")
            assert all("cookie" not in sent.headers for sent in stub.requests)
