"""What every store of files keeps: the bytes, what is known of them, and only as long as it shall."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import NotFound
from gatehook_plugins.files import names


async def content(files: Any, name: str) -> bytes:
    return b"".join([piece async for piece in files.read(name)])


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 3000], ids=["empty", "one", "large"])
async def test_a_file_comes_back_as_it_was(files: Any, data: bytes) -> None:
    file = await files.put(data, media_type="image/png", owner="zoë/1")
    assert (file.size, file.media_type, file.owner) == (len(data), "image/png", "zoë/1")
    assert await files.about(file.id) == file
    assert await content(files, file.id) == data


async def test_a_deleted_file_is_gone_and_may_be_deleted_again(files: Any) -> None:
    file = await files.put(b"x", media_type="image/png", owner="u")
    await files.delete(file.id)
    await files.delete(file.id)
    assert await files.about(file.id) is None
    with pytest.raises(NotFound):
        await content(files, file.id)


@pytest.mark.parametrize("name", ["", "..", "../secret", "ffffffffff-" + "0" * 32, "x" * 500, "a/b\0"])
async def test_a_name_that_nobody_gave_is_no_file(files: Any, name: str) -> None:
    assert await files.about(name) is None
    await files.delete(name)
    with pytest.raises(NotFound):
        await content(files, name)


async def test_what_has_expired_is_gone_at_once_and_swept_later(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    short = await files.put(b"short", media_type="text/plain", owner="u", keep=10)
    long = await files.put(b"long", media_type="text/plain", owner="u", keep=1000)
    ever = await files.put(b"ever", media_type="text/plain", owner="u", keep=0)
    assert ever.expires is None
    assert short.expires is not None
    now = time.time()
    monkeypatch.setattr(f"{type(files).__module__}.time.time", lambda: now + 12)
    assert await files.about(short.id) is None
    await files.sweep()
    monkeypatch.undo()
    assert await files.about(short.id) is None, "still there, though it was swept"
    assert await files.about(long.id) == long
    assert await files.about(ever.id) == ever


@given(st.one_of(st.none(), st.integers(1, 2**39)))
def test_a_name_tells_when_its_file_expires(expires: int | None) -> None:
    name = names.new_name(expires)
    assert names.is_name(name)
    assert names.file_expires(name) == expires
    if expires is not None:
        assert names.is_expired(name, expires)
        assert not names.is_expired(name, expires - 1)


@given(st.lists(st.integers(1, 2**39), min_size=2))
def test_names_sort_as_their_files_expire(expiries: list[int]) -> None:
    made = sorted(names.new_name(expires) for expires in expiries)
    assert [names.file_expires(name) for name in made] == sorted(expiries)
