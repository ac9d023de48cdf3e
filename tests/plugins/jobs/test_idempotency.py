"""Idempotency-Key: a submission that is made again, for its answer was lost, is the same job."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatehook import DIRECTORY, QUOTAS, Caps, User

KEYS = '[plugins.auth_keys]\nkeys = ["alice-0123456789abcdef", "bob-0123456789abcdef"]\n'
ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
BODY = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}], "async": True}


async def ask(at: Any, idempotency_key: str, key: str = "", **changes: Any) -> tuple[int, Any]:
    answer: tuple[int, Any] = await at.ask(
        "POST", "/v1/chat/completions", BODY | changes, key, Idempotency_Key=idempotency_key
    )
    return answer


async def test_the_same_key_of_the_same_user_gives_the_same_job_whatever_comes_at_once(
    house: Callable[..., Any],
) -> None:
    async with house() as one, house(stage=one.stage) as two:
        answers = await asyncio.gather(*(ask(at, "k-1") for at in (one, two) * 10))
        assert {status for status, _ in answers} == {202}
        (job_id,) = {said["job_id"] for _, said in answers}
        await one.ended(job_id)
        assert (await ask(two, "k-1"))[1]["job_id"] == job_id, "also when it has ended"
        assert len(one.stage.calls) == 1


async def test_a_key_is_its_user_s_own(lite: Callable[..., Any]) -> None:
    async with lite(more=KEYS) as at:
        mine, theirs = await ask(at, "k", ALICE), await ask(at, "k", BOB)
        assert mine[1]["job_id"] != theirs[1]["job_id"]


async def test_without_a_key_each_submission_is_a_job(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        assert await at.submit() != await at.submit()


@pytest.mark.parametrize("change", [{"max_tokens": 11}, {"model": "other"}])
async def test_a_key_that_belongs_to_another_request_is_refused(
    house: Callable[..., Any], change: dict[str, Any]
) -> None:
    async with house() as at:
        _, first = await ask(at, "k")
        status, said = await ask(at, "k", **change)
        assert (status, said["error"]["code"]) == (409, "idempotency_key_reused")
        assert first["job_id"] in said["error"]["message"]


async def test_a_key_is_free_again_when_its_job_is_purged(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        _, first = await ask(at, "k")
        await at.ended(first["job_id"])
        await at.ask("DELETE", f"/v1/jobs/{first['job_id']}?purge=true")
        assert (await ask(at, "k"))[1]["job_id"] != first["job_id"]


@pytest.mark.parametrize("wrong", ["", "x" * 256, "\u00e9"])
async def test_a_key_that_is_none_is_refused(lite: Callable[..., Any], wrong: str) -> None:
    async with lite() as at:
        status, said = await ask(at, wrong)
        assert (status, said["error"]["param"]) == (400, "Idempotency-Key")


async def test_a_repeated_submission_reserves_nothing_and_needs_no_room(
    house: Callable[..., Any], tmp_path: Path
) -> None:
    more = f'[plugins.auth_keys]\n[plugins.ledger]\ndirectory = "{tmp_path / "ledger"}"\n[plugins.quota]\n'
    async with house(jobs="max_queued = 1", more=more) as at:
        directory = at.gateway.services[DIRECTORY]
        await directory.create_user("test", User("u", caps=Caps(tokens=1000)))
        _, key = await directory.create_key("test", "u")
        at.stage.held = True
        answers = [await ask(at, "k", key) for _ in range(3)]
        assert len({said["job_id"] for _, said in answers}) == 1
        (await at.stage.plays.get()).answer.set_result("ok")
        await at.ended(answers[0][1]["job_id"], key)
        assert int((await at.gateway.services[QUOTAS].used("u"))["all"][0]) == 20
