import asyncio
import gc
import hashlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from pydantic import SecretStr, ValidationError

from gatehook import AuthenticationFailed, Authenticator, Credential, Principal, Services, StartupError
from gatehook.accounts import Key, User
from gatehook.awaiting import awaited
from gatehook.services import DIRECTORY
from gatehook.testing import built, serving
from gatehook_plugins.auth_keys import AuthKeys
from gatehook_plugins.auth_keys.holders import Holders

USER = "user-key-0123456789abcdef"
OTHER = "other-key-0123456789abcdef"
ADMIN = "admin-key-0123456789abcdef"


def plugin(**settings: Any) -> AuthKeys:
    return AuthKeys(AuthKeys.Settings(**settings))


def authenticator(**settings: Any) -> Authenticator:
    (one,) = plugin(**settings).register_authenticators(cast("Any", SimpleNamespace(services=Services())))
    return one


async def who(one: Authenticator, token: str) -> Principal | None:
    return await awaited(one.authenticate(Credential(token, {})))


def faults(**settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        AuthKeys.Settings(**settings)
    text = str(caught.value)
    for keys in settings.values():
        for key in keys if isinstance(keys, list) else ():
            assert not key or key not in text, "a message must not repeat a key"
    return text


async def test_each_key_is_somebody_and_only_admin_keys_are_admins() -> None:
    one = authenticator(keys=[USER, OTHER], admin_keys=[ADMIN])
    user, other, admin = await who(one, USER), await who(one, OTHER), await who(one, ADMIN)
    assert user is not None
    assert other is not None
    assert admin is not None
    assert [user.admin, other.admin, admin.admin] == [False, False, True]
    assert len({user.id, other.id, admin.id}) == 3
    assert user.models is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        " ",
        "nobody's-key-0123456789",
        USER[:-1],
        USER + "x",
        USER.upper(),
        f" {USER}",
        "\udcff" * 20,
        "é" * 30,
        "k" * 8000,
    ],
)
async def test_any_other_token_is_left_to_other_authenticators(token: str) -> None:
    assert await who(authenticator(keys=[USER], admin_keys=[ADMIN]), token) is None


async def test_several_that_are_shown_the_same_credential_do_not_mix_up_what_they_made_of_it() -> None:
    credential = Credential(USER, {})
    one, other = authenticator(keys=[USER]), authenticator(keys=[OTHER])
    for _ in range(2):
        assert await awaited(one.authenticate(credential)) is not None
        assert await awaited(other.authenticate(credential)) is None
    assert len(set(credential.marks.values())) == 2
    assert not any(USER.encode() in mark for mark in credential.marks.values())


async def test_a_principal_has_a_stable_id_that_does_not_tell_the_key() -> None:
    first, second = await who(authenticator(keys=[USER]), USER), await who(authenticator(keys=[OTHER, USER]), USER)
    assert first is not None
    assert first == second
    assert first.id == first.key_id == "key-" + hashlib.sha256(USER.encode()).hexdigest()[:8]
    assert USER not in repr(first)


def test_no_key_stays_in_memory_in_clear() -> None:
    one = plugin(keys=[USER], admin_keys=[ADMIN])
    seen: list[object] = []
    todo: list[object] = [one]
    while todo:
        thing = todo.pop()
        if any(thing is known for known in seen) or isinstance(thing, type):
            continue
        seen.append(thing)
        assert not isinstance(thing, SecretStr)
        assert thing not in (USER, ADMIN, USER.encode(), ADMIN.encode())
        todo += gc.get_referents(thing)


def test_digests_differ_from_process_to_process() -> None:
    one, again = plugin(keys=[USER])._keyring, plugin(keys=[USER])._keyring
    assert one._owners.keys() != again._owners.keys()


def test_no_keys_at_all_would_lock_everybody_out() -> None:
    with pytest.raises(StartupError, match="nobody could get in") as caught:
        built("[plugins.auth_keys]\nkeys = []\n")
    assert "admin_keys = ['env:GATEWAY_ADMIN_KEY']" in str(caught.value)
    assert "enable [plugins.database]" in str(caught.value)


@pytest.mark.parametrize("key", ["", "short", "k" * 15])
def test_short_keys_are_faults(key: str) -> None:
    text = faults(admin_keys=[ADMIN, key])
    assert "admin_keys.1" in text
    assert "at least 16 characters" in text


@pytest.mark.parametrize(
    "key", ["two words 0123456789", "tab\t0123456789abcdef", "line\n0123456789abcdef", "schlüssel-0123456789"]
)
def test_keys_that_no_client_can_send_are_faults(key: str) -> None:
    assert "must not contain spaces" in faults(keys=[key])


def test_sixteen_characters_are_enough() -> None:
    assert AuthKeys.Settings(keys=[SecretStr("k" * 16)]).keys


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"keys": [USER, OTHER, USER]}, r"keys\[2\] is the same key as keys\[0\]"),
        ({"keys": [OTHER, USER], "admin_keys": [USER]}, r"admin_keys\[0\] is the same key as keys\[1\]"),
        ({"admin_keys": [ADMIN, ADMIN]}, r"admin_keys\[1\] is the same key as admin_keys\[0\]"),
    ],
)
def test_a_key_written_twice_is_a_fault_told_by_its_places(settings: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        AuthKeys.Settings(**settings)
    faults(**settings)


# --- keys of the directory --------------------------------------------------------------------------------------------


class OneKey:
    """A directory of one key."""

    def __init__(self, user: User, key: Key, *, remembers: bool) -> None:
        self.found = user, key
        self.remembers = remembers

    def recall(self, credential: Credential) -> tuple[User, Key] | None:
        return self.found if self.remembers and credential.token == "gh-it" else None

    async def find(self, token: str) -> tuple[User, Key] | None:
        return self.found if token == "gh-it" else None


async def holder(user: User, key: Key, token: str = "gh-it") -> Principal | None:
    """Asked of a directory that remembers the key, and of one that has to look it up: the same."""
    directories = [OneKey(user, key, remembers=remembers) for remembers in (True, False)]
    remembered, found = [await who(Holders(cast("Any", one)), token) for one in directories]
    assert remembered == found
    return found


async def test_a_holder_is_the_key_s_user() -> None:
    user, key = User("anna", name="Anna"), Key("key_1", "anna", "gh-it")
    principal = await holder(user, key)
    assert principal == Principal("anna", "Anna", key_id="key_1", user=user, key=key)
    assert await holder(user, key, "other") is None


@pytest.mark.parametrize(("user", "key"), [(False, False), (True, False), (False, True), (True, True)])
async def test_an_admin_s_keys_and_admin_keys_are_admins(user: bool, key: bool) -> None:
    principal = await holder(User("u", admin=user), Key("k", "u", "", admin=key))
    assert principal is not None
    assert principal.admin is (user or key)


@pytest.mark.parametrize(
    ("user", "key", "both"),
    [
        (None, None, None),
        ({"a", "b"}, None, {"a", "b"}),
        (None, {"b"}, {"b"}),
        ({"a", "b"}, {"b", "c"}, {"b"}),
        ({"a"}, {"b"}, set()),
    ],
)
async def test_a_holder_may_use_what_both_the_user_and_the_key_may(user: Any, key: Any, both: Any) -> None:
    def frozen(names: Any) -> frozenset[str] | None:
        return None if names is None else frozenset(names)

    principal = await holder(User("u", models=frozen(user)), Key("k", "u", "", models=frozen(key)))
    assert principal is not None
    assert principal.models == frozen(both)


@pytest.mark.parametrize(
    ("user", "key", "said"),
    [
        (User("u"), Key("k", "u", "", disabled=True), "this API key is disabled"),
        (User("u", disabled=True), Key("k", "u", ""), "the user of this API key is disabled"),
        (User("u"), Key("k", "u", "", expires=int(time.time() * 1000) - 1), "this API key has expired"),
    ],
)
async def test_a_key_that_may_not_be_used_says_why_to_its_holder_only(user: User, key: Key, said: str) -> None:
    with pytest.raises(AuthenticationFailed, match=said):
        await holder(user, key)
    assert await holder(user, key, "another") is None


async def test_a_key_is_good_until_its_last_millisecond() -> None:
    assert await holder(User("u"), Key("k", "u", "", expires=int(time.time() * 1000) + 60_000))


HOUSE = """
[server]
port = 0
[database]
url = "{url}"
secret = "secret-of-the-tests-0123456789"
[plugins.database]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.auth_keys]
{more}
[[models]]
name = "m"
vendor = "mock"
[[models]]
name = "other"
vendor = "mock"
"""


async def ask(url: str, key: str, model: str = "m") -> tuple[int, str]:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http,
        http.post(f"{url}/v1/chat/completions", json=body) as answer,
    ):
        said = await answer.json()
        return answer.status, said.get("error", {}).get("message", "")


async def test_a_whole_gateway_lets_in_by_both_kinds_of_keys(database_url: str) -> None:
    async with serving(HOUSE.format(url=database_url, more=f"keys = ['{USER}']")) as served:
        directory = served.gateway.services[DIRECTORY]
        await directory.create_user("me", User("anna", models=frozenset({"m"})))
        key, text = await directory.create_key("me", "anna")
        assert (await ask(served.url, text))[0] == 200
        assert (await ask(served.url, USER, "other"))[0] == 200
        assert await ask(served.url, text, "other") == (403, "this key may not use the model 'other'")
        assert (await ask(served.url, text[:-1] + "!"))[0] == 401
        await directory.change_user("me", "anna", {"disabled": True})
        assert await ask(served.url, text) == (401, "the user of this API key is disabled")
        await directory.change_user("me", "anna", {"disabled": False})
        assert (await ask(served.url, text))[0] == 200
        await directory.revoke_key("me", key.id)
        assert await ask(served.url, text) == (401, "the API key is not valid")


async def test_a_gateway_whose_first_key_is_still_to_be_made_says_how(database_url: str, caplog: Any) -> None:
    advice = "create the first: gatehook keys create --admin"
    async with serving(HOUSE.format(url=database_url, more="")) as served:
        assert advice in caplog.text
        await served.gateway.services[DIRECTORY].create_user("me", User("u"))
        await served.gateway.services[DIRECTORY].create_key("me", "u")
    caplog.clear()
    async with serving(HOUSE.format(url=database_url, more="")):
        pass
    async with serving(HOUSE.format(url=database_url, more=f"keys = ['{USER}']")):
        pass
    assert advice not in caplog.text


async def test_a_key_made_by_the_program_is_good_in_a_gateway_that_runs(database_url: str, tmp_path: Path) -> None:
    from gatehook.commands.cli import main

    (tmp_path / "settings.toml").write_text(HOUSE.format(url=database_url, more=""))
    async with serving(HOUSE.format(url=database_url, more="")) as served:
        words = ["keys", "create", "--admin", "--config", str(tmp_path / "settings.toml")]
        assert await asyncio.to_thread(main, words) == 0
        (key,) = await served.gateway.services[DIRECTORY].keys()
        assert (key.user_id, key.admin) == ("admin", True)
