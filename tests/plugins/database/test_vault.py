"""Secrets: where the server's is kept, and where nobody's may be seen."""

import asyncio
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text as sql
from sqlalchemy.exc import DBAPIError

from gatehook import StartupError
from gatehook.accounts import User
from gatehook_plugins.database.vault import KEY_LENGTH, Vault, _derived, is_key, made_secret, new_key

VENDOR_KEY = "sk-vendor-0123456789abcdef"


def unlocked(secret: str = "a secret of 16 characters") -> Vault:
    vault = Vault()
    vault.unlock(secret)
    return vault


def test_keys_are_all_different_and_look_alike() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(is_key(key) and len(key) == KEY_LENGTH == 46 for key in keys)


@given(st.text(max_size=50), st.text(max_size=20))
def test_what_is_sealed_comes_back_for_its_owner_only(secret: str, owner: str) -> None:
    vault = unlocked()
    sealed = vault.seal(secret, owner)
    assert vault.unseal(sealed, owner) == secret
    assert sealed != vault.seal(secret, owner)
    for other, for_whom in ((vault, owner + "x"), (unlocked("another secret, as long"), owner)):
        with pytest.raises(ValueError, match="cannot be decrypted"):
            other.unseal(sealed, for_whom)


@given(st.text(max_size=80))
def test_anything_else_cannot_be_unsealed(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be decrypted"):
        unlocked().unseal(text, "m")


def test_digests_depend_on_the_secret() -> None:
    key = new_key()
    assert unlocked().digest(key) == unlocked().digest(key) != unlocked("another secret, as long").digest(key)
    assert len(unlocked().digest(key)) == 32
    for use in (lambda: Vault().digest(key), lambda: Vault().seal("a", "b"), lambda: Vault().unseal("a", "b")):
        with pytest.raises(RuntimeError, match="not open"):
            use()


@given(st.text(max_size=80), st.text(max_size=20))
def test_what_is_derived_of_the_secret_is_the_hkdf_of_the_standard(secret: str, purpose: str) -> None:
    standard = HKDF(SHA256(), 32, salt=b"gatehook", info=purpose.encode())
    assert _derived(secret, purpose) == standard.derive(secret.encode())


def test_many_that_start_together_make_one_secret(tmp_path: Path) -> None:
    file = tmp_path / "a.db.secret"
    with ThreadPoolExecutor(16) as threads:
        made = set(threads.map(lambda _: made_secret(file, create=True), range(64)))
    assert len(made) == 1
    assert len(made.pop()) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "damaged"), (b"short", "damaged"), (b"\xff" * 64, "cannot be used")]
)
def test_a_damaged_secret_is_told_by_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "a.db.secret"
    file.write_bytes(content)
    with pytest.raises(StartupError, match=said) as caught:
        made_secret(file, create=True)
    assert str(file) in str(caught.value)


async def test_a_database_remembers_its_secret(node_at: Any, database_url: str) -> None:
    first = node_at(database_url)
    async with first.database.opened():
        await first.directory.create_user("me", User("u"))
        _, text = await first.directory.create_key("me", "u")
    with pytest.raises(StartupError, match="not the one that the database was first used with") as caught:
        async with node_at(database_url, secret="another secret, as long").database.opened():
            pass
    assert "another secret" not in str(caught.value)
    again = node_at(database_url)
    async with again.database.opened():
        assert await again.directory.find(text)


async def test_nodes_that_start_together_with_different_secrets_do_not_both_start(
    node_at: Any, postgres_url: str
) -> None:
    async def start(secret: str) -> str:
        async with node_at(postgres_url, secret=secret).database.opened():
            return secret

    done = await asyncio.gather(start("1" * 16), start("2" * 16), return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["StartupError", "str"]


async def test_sqlite_makes_its_secret_and_never_another(node_at: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    first = node_at(url, secret="")
    async with first.database.opened():
        await first.directory.create_user("me", User("u"))
        _, text = await first.directory.create_key("me", "u")
    secret_file = tmp_path / "a.db.secret"
    secret = secret_file.read_text()
    again = node_at(url, secret="")
    async with again.database.opened():
        assert await again.directory.find(text)
    secret_file.unlink()
    with pytest.raises(StartupError, match="is gone") as caught:
        async with node_at(url, secret="").database.opened():
            pass
    assert str(secret_file) in str(caught.value)
    assert not secret_file.exists()
    secret_file.write_text("0" * 64)
    with pytest.raises(StartupError, match="not the one that") as caught:
        async with node_at(url, secret="").database.opened():
            pass
    assert str(secret_file) in str(caught.value)
    async with node_at(url, secret=secret.strip()).database.opened():
        pass


def test_postgresql_asks_for_a_secret_before_it_is_called(node_at: Any) -> None:
    """So that `gatehook check` tells it, which calls no server."""
    url = "postgresql+asyncpg://gatehook@127.0.0.1:1/gatehook"
    with pytest.raises(StartupError, match='secret = "env:GATEWAY_SECRET"'):
        node_at(url, secret="")
    with pytest.raises(StartupError, match="at least 16 characters") as caught:
        node_at(url, secret="hunter2")
    assert "hunter2" not in str(caught.value)


async def test_no_secret_is_stored_logged_or_shown(
    serving_at: Any, database_url: str, tmp_path: Path, caplog: Any, no_secret_in: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    one = await serving_at(database_url)
    directory = one.directory
    user = await directory.create_user("me", User("u"))
    key, first = await directory.create_key("me", "u", name="laptop")
    new, second = await directory.rotate_key("me", key.id, overlap=60)
    await directory.put_model("me", "m", {"name": "m", "vendor": "mock", "api_key": VENDOR_KEY}, create=True)
    found = await directory.find(first)
    logged = caplog.text
    with pytest.raises(DBAPIError) as caught:
        async with one.database.writing() as connection:
            await connection.execute(sql("INSERT INTO nowhere VALUES (:key)"), {"key": first})

    shown = [logged, str(caught.value)]
    shown += [repr(thing) for thing in (user, key, new, found, directory, directory._vault, one.gateway.settings)]
    shown += map(repr, [*await directory.audit(), *await directory.models(), *one.gateway.catalog.groups().values()])
    if one.database.dialect == "sqlite":
        files = [Path(one) for one in os.scandir(tmp_path)]
        shown += [file.read_bytes().decode("latin-1") for file in files]
    else:
        async with one.database.reading() as connection:
            for table in ("users", "api_keys", "models", "audit", "facts", "revision"):
                shown += map(repr, await connection.execute(sql(f"SELECT * FROM {table}")))
    hidden = (first[8:], second[8:], VENDOR_KEY, "secret-of-the-tests")
    no_secret_in(hidden, "".join(shown))
    assert first[:8] in "".join(shown), "the scan sees what is kept in clear"


async def test_a_secret_set_too_late_is_told_where_the_first_one_is(node_at: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with node_at(url, secret="").database.opened():
        pass
    with pytest.raises(StartupError, match=r"there is one in .*a\.db\.secret, which is used if none is set"):
        async with node_at(url).database.opened():
            pass
