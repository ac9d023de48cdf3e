"""Who calls: what `register_authenticators` promises, end to end."""

from typing import Any

import pytest

from gatehook import AuthenticationFailed, Call, Observer, Outcome, Principal


async def test_hook_register_authenticators_none_means_not_mine_and_the_first_that_answers_decides(kit: Any) -> None:
    first, second = kit.Door(ann=Principal("ann")), kit.Door(ann=Principal("other"), bob=Principal("bob"))
    seen: list[str] = []

    class Seeing(Observer):
        def finished(self, call: Call, outcome: Outcome) -> None:
            seen.append(call.principal.id)

    doors = {"a": kit.specimen(register_authenticators=[first]), "b": kit.specimen(register_authenticators=[second])}
    async with kit.client(**doors, see=kit.specimen(register_observers=[Seeing()])) as ask:
        assert (await ask.chat({"X-API-Key": "ann"})).status == 200
        assert (await ask.chat({"X-API-Key": "bob"})).status == 200
    assert seen == ["ann", "bob"]
    assert (first.asked, second.asked) == (["ann", "bob"], ["bob"])


async def test_hook_register_authenticators_are_asked_in_the_operator_s_order(kit: Any) -> None:
    plugins = {
        name: kit.specimen(register_authenticators=[kit.Door(key=Principal(name, models=frozenset({name})))])
        for name in "ab"
    }
    async with kit.client(None, "[plugins.a]\norder = 1\n", **plugins) as ask:
        answer = await ask.chat({"X-API-Key": "key"}, model="a")
    assert answer.status == 403  # "b" was asked first, and its principal may only use "b"


async def test_hook_register_authenticators_a_failure_ends_it_at_once(kit: Any) -> None:
    first, second = kit.Door(ann=AuthenticationFailed("revoked last week")), kit.Door(ann=Principal("ann"))
    doors = {"a": kit.specimen(register_authenticators=[first]), "b": kit.specimen(register_authenticators=[second])}
    async with kit.client(**doors) as ask:
        answer = await ask.chat({"X-API-Key": "ann"})
    assert (answer.status, second.asked) == (401, [])
    assert answer.error["message"] == "revoked last week"


@pytest.mark.parametrize(("headers", "says"), [({}, "no API key given"), ({"X-API-Key": "eve"}, "is not valid")])
async def test_hook_register_authenticators_nobody_s_credential_is_a_401_in_the_surface_s_shape(
    kit: Any, headers: dict[str, str], says: str
) -> None:
    vendor = kit.Vendor()
    async with kit.client(vendor, door=kit.specimen(register_authenticators=[kit.Door()])) as ask:
        answer = await ask.chat(headers)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert says in answer.error["message"]
    assert sorted(answer.error) == ["code", "message", "param", "type"]
    assert (answer.error["type"], answer.error["param"]) == ("authentication_error", None)
    assert answer.error["code"] == "invalid_api_key"
    assert answer.headers["X-Request-ID"].startswith("req_")
    assert vendor.attempts == []


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Authorization": "Bearer k1"}, "k1"),
        ({"authorization": "bEaReR   k1 "}, "k1"),
        ({"x-api-key": " k1 "}, "k1"),
        ({"Authorization": "Bearer k1", "X-API-Key": "k2"}, "k1"),
        ({"Authorization": "Basic dTpw", "X-API-Key": "k2"}, "k2"),
        ({"Authorization": "Basic dTpw"}, ""),
        ({"Authorization": "Bearer", "X-API-Key": "k2"}, "k2"),
        ({"Authorization": "k1"}, ""),
    ],
)
async def test_a_credential_s_token_is_the_bearer_or_the_api_key(kit: Any, headers: dict[str, str], token: str) -> None:
    door = kit.Door()
    async with kit.client(door=kit.specimen(register_authenticators=[door])) as ask:
        await ask.chat(headers)
    assert door.asked == [token]


async def test_nothing_of_the_body_is_looked_at_before_the_caller_is_known(kit: Any) -> None:
    async with kit.client(door=kit.specimen(register_authenticators=[kit.Door()])) as ask:
        assert (await ask.chat(data=b"{ this is no JSON")).status == 401


async def test_a_principal_s_models_are_all_it_may_use_and_see(kit: Any) -> None:
    door = kit.Door(few=Principal("few", models=frozenset({"other"})), all=Principal("all"))
    async with kit.client(door=kit.specimen(register_authenticators=[door])) as ask:
        refused = await ask.chat({"X-API-Key": "few"})
        assert (await ask.chat({"X-API-Key": "all"})).status == 200
        async with ask.session.get(f"{ask.url}/v1/models", headers={"X-API-Key": "few"}) as response:
            assert (await response.json())["data"] == []
    assert refused.status == 403
    assert refused.error["code"] == "model_not_allowed"


@pytest.mark.parametrize("broken", [RuntimeError("dsn=postgres://secret"), ConnectionRefusedError("secret")])
async def test_an_authenticator_that_breaks_lets_nobody_in_and_tells_no_secret(kit: Any, broken: Exception) -> None:
    vendor, watch = kit.Vendor(), kit.Watching()
    plugins = {
        "door": kit.specimen(register_authenticators=[kit.Door(ann=broken)]),
        "w": kit.specimen(register_observers=[watch]),
    }
    async with kit.client(vendor, **plugins) as ask:
        answer = await ask.chat({"X-API-Key": "ann"})
    assert (answer.status, vendor.attempts) == (500, [])
    assert b"secret" not in answer.body
    assert watch.moments[-1] == "finished rejected 500 server_error"
