"""Files in a directory: whole or not there, shared by processes, bounded."""

import asyncio
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from gatehook import Unavailable

PROGRAM = """
import asyncio, sys
from pathlib import Path
from gatehook_plugins.files.local import LocalFiles

async def main():
    files = LocalFiles(Path(sys.argv[1]), secret="", base_url="", keep=60, url_lifetime=60, max_bytes=1 << 20)
    await files.open()
    made = await asyncio.gather(*(files.put(b"%d" % n, media_type="text/plain", owner="u") for n in range(20)))
    await files.sweep()
    print(files.url(made[0].id), *(one.id for one in made))

asyncio.run(main())
"""


async def test_processes_share_a_directory_and_its_secret(tmp_path: Path, make_files: Any) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    told = [(await process.communicate())[0].decode().split() for process in processes]
    files = make_files(tmp_path)
    await files.open()
    for url, *made in told:
        assert [(await files.about(name)).size for name in made] == [len(str(n)) for n in range(20)]
        query = dict(pair.split("=", 1) for pair in url.partition("?")[2].split("&"))
        assert files.signer.is_valid(made[0], query["expires"], query["signature"])


async def test_nobody_else_on_the_machine_can_read_the_secret_or_the_files(tmp_path: Path, make_files: Any) -> None:
    files = make_files(tmp_path / "store")
    await files.open()
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "store" / "secret").stat().st_mode) == 0o600
    assert list((tmp_path / "store").glob("secret.*")) == []


async def test_a_write_that_fails_leaves_nothing_and_is_told(
    tmp_path: Path, make_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(tmp_path)
    await files.open()

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("gatehook_plugins.files.local.os.fsync", full)
    with pytest.raises(Unavailable, match="no space left on device"):
        await files.put(b"x", media_type="image/png", owner="u")
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]  # noqa: ASYNC240  # a handful
    assert left == ["secret"]


async def test_all_files_together_are_bounded(tmp_path: Path, make_files: Any) -> None:
    files = make_files(tmp_path, max_bytes=100)
    await files.open()
    first = await files.put(bytes(60), media_type="image/png", owner="u")
    with pytest.raises(Unavailable, match="full"):
        await files.put(bytes(60), media_type="image/png", owner="u")
    await files.delete(first.id)
    await files.put(bytes(60), media_type="image/png", owner="u")
    again = make_files(tmp_path, max_bytes=100)
    await again.open()
    with pytest.raises(Unavailable, match="max_bytes"):
        await again.put(bytes(60), media_type="image/png", owner="u")


async def test_what_is_stored_while_another_file_is_deleted_is_counted(tmp_path: Path, make_files: Any) -> None:
    files = make_files(tmp_path, max_bytes=100)
    await files.open()
    first = await files.put(bytes(40), media_type="image/png", owner="u")
    deleting = asyncio.create_task(files.delete(first.id))
    await asyncio.sleep(0)  # it is begun
    await files.put(bytes(60), media_type="image/png", owner="u")
    await deleting
    with pytest.raises(Unavailable, match="full"):
        await files.put(bytes(60), media_type="image/png", owner="u")


async def test_what_a_process_left_half_written_is_swept(tmp_path: Path, make_files: Any) -> None:
    files = make_files(tmp_path)
    await files.open()
    old, new = tmp_path / "unfinished" / "old", tmp_path / "unfinished" / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "content").write_bytes(b"half")
    os.utime(old, (1, 1))
    await files.sweep()
    assert not old.exists()
    assert new.exists(), "somebody may be writing it"


async def test_a_file_that_is_being_read_survives_its_deletion(tmp_path: Path, make_files: Any) -> None:
    files = make_files(tmp_path)
    await files.open()
    data = os.urandom(700_000)
    file = await files.put(data, media_type="image/png", owner="u")
    pieces = files.read(file.id)
    read = [await anext(pieces)]
    await files.delete(file.id)
    read += [piece async for piece in pieces]
    assert b"".join(read) == data


@pytest.mark.parametrize("left", [b"", b"0123"])
async def test_a_secret_file_that_holds_none_signs_nothing(tmp_path: Path, make_files: Any, left: bytes) -> None:
    (tmp_path / "secret").write_bytes(left)
    with pytest.raises(OSError, match="holds no secret; delete it, and one is made"):
        await make_files(tmp_path).open()
