"""Who decides for somebody else: the next turn is still the owner's, and nothing is done for who may do nothing."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gatehook import DIRECTORY
from gatehook.accounts import User

OpenHouse = Any
Vendor = Any
Keys = Any

Change = Callable[[Any, str], Awaitable[Any]]
GONE: dict[str, tuple[Change, str]] = {
    "deleted": (lambda directory, key: directory.delete_user("me", "carol"), "user_deleted"),
    "disabled": (lambda directory, key: directory.change_user("me", "carol", {"disabled": True}), "user_disabled"),
    "key revoked": (lambda directory, key: directory.revoke_key("me", key), "key_revoked"),
    "key disabled": (lambda directory, key: directory.change_key("me", key, {"disabled": True}), "key_disabled"),
}


async def carol(at: Any) -> tuple[str, str]:
    """A user of the database; gives the id of her key, and the key."""
    directory = at.gateway.services[DIRECTORY]
    await directory.create_user("me", User("carol"))
    key, text = await directory.create_key("me", "carol")
    return key.id, text


@pytest.mark.parametrize("what", GONE)
async def test_an_admin_decides_nothing_for_who_may_call_nothing_any_more(
    house: OpenHouse, vendor: Vendor, keys: Keys, what: str
) -> None:
    change, code = GONE[what]
    async with house(vendor.plain(vendor.call("delete_city")), vendor.plain(text="never")) as at:
        key_id, key = await carol(at)
        session = await at.asked(key=key)
        await change(at.gateway.services[DIRECTORY], key_id)
        for answer in (await at.confirm(session, "call_1", key=keys.admin), await at.deny(session, key=keys.admin)):
            assert (answer.status, answer.error["code"]) == (403, code)
        assert len(at.stub.requests) == 1, "no next turn was asked for"
        assert [one["session_id"] for one in await at.pending(keys.admin)] == [session], "it expires, and is denied"
        assert [line[1] for line in await at.audit() if line[1].startswith("tool.")] == ["tool.ask"]


async def test_an_admin_decides_for_who_is_still_there_at_the_owner_s_cost(
    house: OpenHouse, vendor: Vendor, keys: Keys
) -> None:
    async with house(vendor.plain(vendor.call("delete_city")), vendor.plain(text="well")) as at:
        _, key = await carol(at)
        assert (await at.confirm(await at.asked(key=key), "call_1", key=keys.admin)).status == 200
        line = (await at.audit())[-1]
        assert (line[1], line[3]["user"]) == ("tool.confirm", "carol")
        assert line[0] != "carol"


async def test_what_the_owner_may_no_longer_use_is_not_used_for_him(
    house: OpenHouse, vendor: Vendor, keys: Keys
) -> None:
    async with house(vendor.plain(vendor.call("delete_city")), vendor.plain(text="never")) as at:
        _, key = await carol(at)
        session = await at.asked(key=key)
        await at.gateway.services[DIRECTORY].change_user("me", "carol", {"models": ["another"]})
        answer = await at.deny(session, key=keys.admin)
        assert answer.status == 403
        assert len(at.stub.requests) == 1
