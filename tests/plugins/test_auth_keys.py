import gc
import hashlib
from typing import Any, cast

import pytest
from pydantic import SecretStr, ValidationError

from gatehook import Authenticator, Credential, Principal
from gatehook_plugins.auth_keys import AuthKeys

USER = "user-key-0123456789abcdef"
OTHER = "other-key-0123456789abcdef"
ADMIN = "admin-key-0123456789abcdef"


def plugin(**settings: Any) -> AuthKeys:
    return AuthKeys(AuthKeys.Settings(**settings))


def authenticator(**settings: Any) -> Authenticator:
    (one,) = plugin(**settings).register_authenticators(cast("Any", None))
    return one


async def who(one: Authenticator, token: str) -> Principal | None:
    return await one.authenticate(Credential(token, {}))


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


async def test_a_principal_has_a_stable_id_that_does_not_tell_the_key() -> None:
    first, second = await who(authenticator(keys=[USER]), USER), await who(authenticator(keys=[OTHER, USER]), USER)
    assert first is not None
    assert first == second
    assert first.id == "key-" + hashlib.sha256(USER.encode()).hexdigest()[:8]
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
    assert "nobody could get in" in faults()
    assert "admin_keys = ['env:GATEHOOK_ADMIN_KEY']" in faults(keys=[])


def test_a_disabled_section_needs_no_keys() -> None:
    assert AuthKeys.Settings(enabled=False).keys == []


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
