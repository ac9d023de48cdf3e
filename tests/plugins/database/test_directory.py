"""Users and keys: what is stored, what is refused, and what others see of it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from gatehook import InvalidRequest, NotFound
from gatehook.accounts import Caps, Key, Limits, User
from gatehook.errors import Conflict

KEY = r"gh-[A-Za-z0-9_-]{43}"


async def test_a_user_comes_back_as_it_was_made(one: Any) -> None:
    made = await one.directory.create_user(
        "me",
        User(
            "anna@example.org",
            name="Anna Ä",
            admin=True,
            models=frozenset({"b", "a"}),
            limits=Limits(requests_per_minute=5, concurrent_requests=0),
            caps=Caps(tokens_per_day=10**15, budget=10**18 - 1),
        ),
    )
    assert made.created == made.updated > 1_700_000_000_000
    assert await one.directory.user("anna@example.org") == made
    assert await one.directory.users() == [made]


async def test_a_change_touches_only_what_it_names(one: Any) -> None:
    await one.directory.create_user("me", User("u", limits=Limits(5, 6), caps=Caps(tokens=7)))
    changes = {"limits": {"tokens_per_minute": None, "concurrent_requests": 1}, "caps": {"budget": 3}}
    user = await one.directory.change_user("me", "u", changes)
    assert (user.limits, user.caps) == (Limits(5, None, 1), Caps(tokens=7, budget=3))
    assert await one.directory.user("u") == user
    user = await one.directory.change_user("me", "u", {"models": ["m"], "disabled": True})
    assert (user.models, user.disabled, user.limits) == (frozenset({"m"}), True, Limits(5, None, 1))


async def test_a_change_may_create_the_user(one: Any) -> None:
    with pytest.raises(NotFound, match="no user 'new'"):
        await one.directory.change_user("me", "new", {"limits": {"requests_per_minute": 1}})
    user = await one.directory.change_user("me", "new", {"limits": {"requests_per_minute": 1}}, create=True)
    assert user == await one.directory.user("new")
    assert [line.action for line in await one.directory.audit()] == ["user.create"]


async def test_an_id_is_given_once(one: Any) -> None:
    await one.directory.create_user("me", User("u"))
    with pytest.raises(Conflict, match="'u' already") as caught:
        await one.directory.create_user("me", User("u", admin=True))
    assert (caught.value.status, caught.value.param) == (409, "user_id")
    assert [user.admin for user in await one.directory.users()] == [False]


async def test_of_many_that_create_one_user_at_once_one_does(two: Any) -> None:
    tries = [node.directory.create_user("me", User("u", name=str(n))) for n in range(10) for node in two]
    done = await asyncio.gather(*tries, return_exceptions=True)
    made = [user for user in done if isinstance(user, User)]
    assert len(made) == 1
    assert all(isinstance(error, Conflict) for error in done if error is not made[0])
    assert await two[0].directory.users() == made
    assert [line.id for line in await two[0].directory.audit()] == [1]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"limits": {"requests_per_minute": -1}}, "limits.requests_per_minute"),
        ({"limits": {"tokens_per_minute": 10**16}}, "limits.tokens_per_minute"),
        ({"limits": {"tokens_per_minute": 5.0}}, "limits.tokens_per_minute"),
        ({"limits": {"concurrent_requests": True}}, "limits.concurrent_requests"),
        ({"limits": {"rpm": 1}}, "limits.rpm"),
        ({"limits": 5}, "limits"),
        ({"caps": {"budget": 10**18}}, "caps.budget"),
        ({"caps": {"tokens": "many"}}, "caps.tokens"),
        ({"models": "gpt"}, "models"),
        ({"models": [1]}, "models"),
        ({"models": [""]}, "models"),
        ({"models": ["m"] * 1001}, "models"),
        ({"admin": 1}, "admin"),
        ({"name": "n" * 201}, "name"),
        ({"name": "bell\a"}, "name"),
        ({"name": None}, "name"),
        ({"id": "other"}, "id"),
        ({"created": 1}, "created"),
        ({"nmae": ""}, "nmae"),
    ],
)
async def test_values_that_cannot_be_are_refused_by_name_and_nothing_is_written(
    serving_at: Any, tmp_path: Any, changes: Any, param: str
) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}")
    user = await one.directory.create_user("me", User("u"))
    with pytest.raises(InvalidRequest) as caught:
        await one.directory.change_user("me", "u", {"disabled": True, **changes})
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    with pytest.raises(InvalidRequest):
        await one.directory.change_user("me", "v", changes, create=True)
    assert await one.directory.users() == [user]
    assert len(await one.directory.audit()) == 1


async def test_ids_that_cannot_be_are_refused_and_never_found(one: Any) -> None:
    for bad in ("", " u", "u ", "a/b", "a\nb", "nul\0", "x" * 129, "\ud800"):
        await never_found(one, bad)
    assert await one.directory.audit() == []


async def never_found(one: Any, bad: str) -> None:
    with pytest.raises(InvalidRequest):
        await one.directory.create_user("me", User(bad))
    with pytest.raises(InvalidRequest):
        await one.directory.change_user("me", bad, {}, create=True)
    assert await one.directory.user(bad) is None
    for refused in (
        one.directory.change_user("me", bad, {}),
        one.directory.delete_user("me", bad),
        one.directory.create_key("me", bad),
        one.directory.revoke_key("me", bad),
        one.directory.delete_model("me", bad),
    ):
        with pytest.raises(NotFound):
            await refused


async def test_users_and_keys_are_listed_page_by_page_in_the_order_of_their_bytes(one: Any) -> None:
    for user_id in ("b", "B", "a", "é", "Z", "_"):
        await one.directory.create_user("me", User(user_id))
    found: list[str] = []
    while page := await one.directory.users(after=found[-1] if found else "", limit=2):
        found += [user.id for user in page]
    assert found == sorted(["b", "B", "a", "é", "Z", "_"])
    keys = [(await one.directory.create_key("me", "a"))[0] for _ in range(3)]
    other, _ = await one.directory.create_key("me", "b")
    assert await one.directory.keys("a") == sorted(keys, key=lambda key: key.id)
    assert len(await one.directory.keys()) == 4
    assert await one.directory.keys("b") == [other]
    assert await one.directory.keys("nul\0") == []


async def test_a_key_finds_its_user(one: Any) -> None:
    user = await one.directory.create_user("me", User("u"))
    key, text = await one.directory.create_key("me", "u", name="laptop", admin=True, models=frozenset({"m"}))
    assert (key.prefix, key.user_id, key.name, key.admin) == (text[:8], "u", "laptop", True)
    assert await one.directory.find(text) == (user, key)
    assert await one.directory.find(text) == (user, key)
    for other in ("", text[:-1], text + "x", text.swapcase(), text[3:], "gh-" + "é" * 43, "gh-" + "\udcff" * 43):
        assert await one.directory.find(other) is None


async def test_a_key_needs_a_user_and_a_future(one: Any) -> None:
    with pytest.raises(NotFound, match="no user 'nobody'"):
        await one.directory.create_key("me", "nobody")
    await one.directory.create_user("me", User("u"))
    for expires in (0, -1, 1, 10**15, True, 1.5, int(time.time() * 1000)):
        with pytest.raises(InvalidRequest) as caught:
            await one.directory.create_key("me", "u", expires=expires)
        assert caught.value.param == "expires"
    assert await one.directory.keys() == []


async def test_a_changed_key_is_changed_at_once(one: Any) -> None:
    await one.directory.create_user("me", User("u"))
    key, text = await one.directory.create_key("me", "u")
    assert (await one.directory.find(text))[1] == key
    changed = await one.directory.change_key("me", key.id, {"disabled": True, "limits": {"requests_per_minute": 1}})
    assert changed.disabled
    assert (await one.directory.find(text))[1] == changed
    with pytest.raises(InvalidRequest):
        await one.directory.change_key("me", key.id, {"user_id": "v"})
    with pytest.raises(NotFound):
        await one.directory.change_key("me", "key_none", {})


async def test_rotation_makes_a_key_like_the_old_one_which_ends_after_the_overlap(one: Any) -> None:
    await one.directory.create_user("me", User("u"))
    old, _ = await one.directory.create_key("me", "u", name="n", admin=True, limits=Limits(1))
    before = int(time.time() * 1000)
    new, text = await one.directory.rotate_key("me", old.id, overlap=3600)
    assert (await one.directory.find(text))[1] == new
    assert (new.name, new.admin, new.limits, new.expires) == ("n", True, Limits(1), None)
    assert new.id != old.id
    (ending,) = [key for key in await one.directory.keys() if key.id == old.id]
    assert before + 3_600_000 <= ending.expires <= time.time() * 1000 + 3_600_000
    again, _ = await one.directory.rotate_key("me", new.id, overlap=0)
    with pytest.raises(NotFound, match="has expired"):
        await one.directory.rotate_key("me", new.id, overlap=0)
    for overlap in (-1, float("nan"), float("inf"), 10**9):
        with pytest.raises(InvalidRequest):
            await one.directory.rotate_key("me", again.id, overlap=overlap)


async def test_rotation_never_makes_a_key_live_longer(one: Any) -> None:
    await one.directory.create_user("me", User("u"))
    soon = int(time.time() * 1000) + 5000
    old, _ = await one.directory.create_key("me", "u", expires=soon)
    new, _ = await one.directory.rotate_key("me", old.id, overlap=3600)
    assert {key.expires for key in await one.directory.keys()} == {soon}
    assert new.expires == soon


async def test_a_deleted_user_s_keys_stay_gone_also_when_the_id_is_given_again(one: Any) -> None:
    await one.directory.create_user("me", User("u"))
    _, text = await one.directory.create_key("me", "u")
    assert await one.directory.find(text)
    await one.directory.delete_user("me", "u")
    assert await one.directory.find(text) is None
    await one.directory.create_user("me", User("u"))
    _, other = await one.directory.create_key("me", "u")
    assert await one.directory.find(other)
    assert await one.directory.find(text) is None
    with pytest.raises(NotFound):
        await one.directory.delete_user("me", "nobody")


async def test_every_change_leaves_one_line_and_a_failed_one_none(one: Any) -> None:
    directory = one.directory
    await directory.create_user("anna", User("u"))
    key, _ = await directory.create_key("anna", "u", name="n")
    new, _ = await directory.rotate_key("ben", key.id, overlap=5)
    await directory.revoke_key("ben", key.id)
    with pytest.raises(NotFound):
        await directory.revoke_key("ben", key.id)
    await directory.change_user("anna", "u", {"models": frozenset({"b", "a"})})
    await directory.delete_user("a\nb" * 200, "u")
    lines = await directory.audit()
    assert [(line.id, line.action, line.subject) for line in reversed(lines)] == [
        (1, "user.create", "u"),
        (2, "key.create", key.id),
        (3, "key.rotate", key.id),
        (4, "key.revoke", key.id),
        (5, "user.change", "u"),
        (6, "user.delete", "u"),
    ]
    assert lines[-1].actor == "anna"
    assert lines[0].actor.startswith("a?ba?b")
    assert lines[3].detail["new"] == new.id
    assert lines[1].detail == {"models": ["a", "b"]}
    assert [line.id for line in await directory.audit(before=4, limit=2)] == [3, 2]


async def test_somebody_else_s_change_is_noted_in_its_transaction_or_not_at_all(one: Any) -> None:
    async with one.database.writing() as connection:
        assert await one.directory.note(connection, "me", "usage.correct", "u", {"tokens": 5}) == 1
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with one.database.writing() as connection:
            await one.directory.note(connection, "me", "usage.correct", "u", {})
            raise ZeroDivisionError
    assert [line.id for line in await one.directory.audit()] == [1]


async def test_audit_ids_are_in_the_order_of_the_commits_whoever_writes(two: Any) -> None:
    seen: list[int] = []

    async def watch() -> None:
        while len(seen) < 40:
            lines = await two[0].directory.audit(limit=1000)
            ids = [line.id for line in reversed(lines)]
            assert ids == list(range(1, len(ids) + 1)), "a number was seen before one below it"
            seen[:] = ids
            await asyncio.sleep(0)

    async def write(node: Any, name: str) -> None:
        for n in range(10):
            await node.directory.create_user("me", User(f"{name}{n}"))

    await asyncio.gather(watch(), *(write(two[n % 2], "abcd"[n]) for n in range(4)))
    assert len(await two[1].directory.users()) == 40


# --- other processes --------------------------------------------------------------------------------------------------


async def test_a_revoked_key_is_refused_everywhere_within_a_second(two: Any, soon: Any) -> None:
    here, there = two
    await here.directory.create_user("me", User("u"))
    key, text = await here.directory.create_key("me", "u")
    assert await there.directory.find(text)
    await here.directory.revoke_key("me", key.id)
    assert await here.directory.find(text) is None

    async def is_refused() -> bool:
        return await there.directory.find(text) is None

    assert await soon(is_refused)


async def test_a_changed_user_is_known_everywhere_within_a_second(two: Any, soon: Any) -> None:
    here, there = two
    told: list[tuple[str, str]] = []
    there.directory.subscribe(lambda *change: told.append(change))
    assert await there.directory.user("u") is None, "and that is remembered"
    await here.directory.create_user("me", User("u"))
    _, text = await here.directory.create_key("me", "u")

    async def is_known() -> bool:
        user = await there.directory.user("u")
        found = await there.directory.find(text)
        return user is not None and user.disabled and found is not None and found[0].disabled

    assert not await soon(is_known, 0.4)
    await here.directory.change_user("me", "u", {"disabled": True})
    assert await soon(is_known)
    assert ("user", "u") in told


async def test_a_flood_of_changes_is_told_as_one(two: Any, soon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook_plugins.database.trail._MOST", 3)
    here, there = two
    told: list[tuple[str, str]] = []
    there.directory.subscribe(lambda *change: told.append(change))
    await here.directory.create_user("me", User("u"))
    key, text = await here.directory.create_key("me", "u")
    assert await there.directory.find(text)

    async with here.database.writing() as connection:
        for n in range(9):
            await here.directory.note(connection, "me", "thing.change", str(n), {})

    async def is_told() -> bool:
        return ("", "") in told

    assert await soon(is_told)
    assert await there.directory.find(text)
    assert key.id


async def test_a_restored_backup_makes_everything_forgotten(one: Any, soon: Any) -> None:
    from sqlalchemy import text as sql

    await one.directory.create_user("me", User("u"))
    _, text = await one.directory.create_key("me", "u")
    assert await one.directory.find(text)
    await one.directory._feed.look()
    async with one.database.writing() as connection:
        for statement in ("DELETE FROM api_keys", "DELETE FROM audit", "UPDATE revision SET number = 0"):
            await connection.execute(sql(statement))

    async def is_refused() -> bool:
        return await one.directory.find(text) is None

    assert await soon(is_refused)


async def test_a_subscriber_that_fails_keeps_nobody_from_hearing(one: Any, caplog: Any) -> None:
    told: list[str] = []

    def fails(kind: str, id: str) -> None:
        raise ZeroDivisionError

    one.directory.subscribe(fails)
    one.directory.subscribe(lambda kind, name: told.append(name))
    await one.directory.create_user("me", User("u"))
    assert "u" in told
    assert "ZeroDivisionError" in caplog.text


async def test_without_a_serving_gateway_nothing_is_remembered(node_at: Callable[..., Any], database_url: str) -> None:
    one = node_at(database_url)
    async with one.database.opened():
        await one.directory.create_user("me", User("u"))
        _, text = await one.directory.create_key("me", "u")
        assert await one.directory.find(text)
        assert len(one.directory._memory._keys) == 0
    with pytest.raises(RuntimeError, match="not open"):
        await one.directory.users()


def test_a_key_s_repr_does_not_hold_it() -> None:
    assert "digest" not in Key.__struct_fields__
