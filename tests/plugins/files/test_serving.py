"""GET /files/{id}: by signed URLs only, and harmless to browsers."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from gatehook import FILES, StartupError, StoredFile, Unavailable
from gatehook.testing import Served, built, serving
from gatehook_plugins.files.names import new_name
from gatehook_plugins.files.signing import Signer

DATA = bytes(range(256)) * 8


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    keys = '[plugins.auth_keys]\nkeys = ["0123456789abcdef"]\n'
    async with serving(f'{keys}[plugins.files]\ndirectory = "{tmp_path}"\nmax_file = 10000\n') as one:
        yield one


async def stored(served: Served, media_type: str = "image/png", **more: Any) -> tuple[StoredFile, str]:
    files = served.gateway.services[FILES]
    file = await files.put(DATA, media_type=media_type, owner="u", **more)
    url = files.url(file.id)
    assert url.startswith("/files/"), "a free port is not known beforehand"
    return file, served.url + url


async def test_the_url_serves_the_file_without_a_key(served: Served) -> None:
    file, url = await stored(served)
    async with ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        assert await answer.read() == DATA
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"] == f'inline; filename="{file.id}.png"'
        assert answer.headers["Cache-Control"].startswith("private, max-age=")


async def test_who_reads_nothing_of_a_large_file_is_cut_off(tmp_path: Path) -> None:
    size, settings = 30_000_000, f'[plugins.files]\ndirectory = "{tmp_path}"\n'
    async with serving(f"[server]\nport = 0\nwrite_timeout = 0.3\n{settings}") as served, asyncio.timeout(30):
        files = served.gateway.services[FILES]
        url = URL(served.url + files.url((await files.put(bytes(size), media_type="image/png", owner="u")).id))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (url.host, url.port))
            await loop.sock_sendall(client, f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await asyncio.sleep(2)  # several times as long as it may read nothing
            count = 0
            with contextlib.suppress(ConnectionResetError):
                while data := await loop.sock_recv(client, 1 << 20):
                    count += len(data)
    assert count < size


@pytest.mark.parametrize("media_type", ["image/svg+xml", "text/html", "application/octet-stream"])
async def test_what_a_browser_might_run_is_downloaded(served: Served, media_type: str) -> None:
    _, url = await stored(served, media_type)
    async with ClientSession() as session, session.get(url) as answer:
        assert answer.headers["Content-Disposition"].startswith("attachment;")
        assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_ranges_conditions_and_head_are_answered(served: Served) -> None:
    _, url = await stored(served)
    async with ClientSession() as session:
        async with session.get(url, headers={"Range": "bytes=10-19"}) as part:
            assert part.status == 206
            assert await part.read() == DATA[10:20]
        async with session.get(url, headers={"If-None-Match": part.headers["ETag"]}) as same:
            assert same.status == 304
        async with session.head(url) as head:
            assert head.status == 200
            assert head.headers["Content-Length"] == str(len(DATA))


async def test_a_url_of_our_own_making_is_refused_alike_whether_the_file_exists_or_not(served: Served) -> None:
    _, url = await stored(served)
    place, _, query = url.partition("?")
    expires, signature = (pair.partition("=")[2] for pair in query.split("&"))
    other = f"{served.url}/files/{new_name(None)}"
    forged = [
        place,
        f"{place}?expires={expires}",
        f"{place}?expires={int(expires) + 1}&signature={signature}",
        f"{place}?expires=0{expires}&signature={signature}",
        f"{place}?expires={expires}&signature={signature[:-1]}",
        f"{place}?expires={expires}&signature=%C3%A9%00",
        f"{other}?{query}",
        f"{served.url}/files/..%2Fsecret?{query}",
    ]
    answers = set()
    async with ClientSession() as session:
        for one in forged:
            async with session.get(one) as answer:
                answers.add((answer.status, await answer.text()))
    assert {status for status, _ in answers} == {403}
    assert len(answers) == 1


async def test_a_url_that_has_expired_is_refused_and_a_file_that_is_gone_is_not_found(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, url = await stored(served)
    files = served.gateway.services[FILES]
    async with ClientSession() as session:
        async with session.get(served.url + files.url(file.id, lifetime=-1)) as late:
            assert late.status == 403
        await files.delete(file.id)
        async with session.get(url) as gone:
            assert gone.status == 404


def test_a_url_is_never_good_for_longer_than_its_file() -> None:
    signer, name = Signer(b"x" * 32), new_name(2_000_000_000)
    assert signer.query(name, 10**9).startswith("expires=2000000000&")


@given(st.text(), st.text(), st.text())
def test_nothing_is_valid_that_was_not_signed(name: str, expires: str, signature: str) -> None:
    assert not Signer(b"x" * 32).is_valid(name, expires, signature)


def test_another_secret_makes_other_signatures() -> None:
    name = new_name(None)
    query = dict(pair.split("=", 1) for pair in Signer(b"a" * 32).query(name, 60).split("&"))
    assert Signer(b"a" * 32).is_valid(name, **query)
    assert not Signer(b"b" * 32).is_valid(name, **query)


async def test_a_file_over_the_bound_is_refused(served: Served) -> None:
    with pytest.raises(Unavailable, match="max_file"):
        await served.gateway.services[FILES].put(bytes(10_001), media_type="image/png", owner="u")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ('secret = "short"', "32 characters"),
        ('backend = "s3"', "bucket"),
        ('public_url = "gate.example"', "https://host"),
        (
            'directory = "/dev/null/x"',
            r"\[plugins.files\] directory: cannot be used: /dev/null/x.*Not a.*; let",
        ),
    ],
)
async def test_settings_that_cannot_work_are_told(settings: str, fault: str) -> None:
    with pytest.raises(StartupError, match=fault):
        async with built(f"[plugins.files]\n{settings}\n").lifespan():
            pass


def test_urls_name_the_public_address(tmp_path: Path) -> None:
    def url(text: str) -> str:
        return built(text.replace("DIR", str(tmp_path))).services[FILES].inner._base_url  # type: ignore[attr-defined,no-any-return]

    plugin = '[plugins.files]\ndirectory = "DIR"\n'
    assert url(f'{plugin}public_url = "https://gate.example/"') == "https://gate.example"
    assert url(f"[server]\nport = 8123\n{plugin}") == "http://127.0.0.1:8123"
    assert url(f'[server]\nhost = "0.0.0.0"\nport = 8123\nallow_anonymous = true\n{plugin}') == ""
    assert url(f'[server]\nuds = "/tmp/x.sock"\n{plugin}') == ""
