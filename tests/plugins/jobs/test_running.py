"""How jobs are run: in which order, how many at a time, for whom, and what becomes of them when a process goes."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import DATABASE, DIRECTORY, JOBS, RateLimited, UpstreamError
from gatehook_plugins.jobs.tables import jobs

KEYED = """
[plugins.auth_keys]
admin_keys = ["admin-0123456789abcdef"]
"""
ADMIN = "admin-0123456789abcdef"


async def change(at: Any, **values: Any) -> None:
    """Change all jobs, behind the plugin's back."""
    async with at.gateway.services[DATABASE].writing() as connection:
        await connection.execute(sa.update(jobs).values(**values))


async def user(at: Any, name: str) -> tuple[str, str]:
    """A new user's key: its id, and the key."""
    directory = at.gateway.services[DIRECTORY]
    from gatehook import User

    await directory.create_user("test", User(name))
    key, text = await directory.create_key("test", name)
    return key.id, text


async def test_an_idle_process_picks_a_job_up_at_once(lite: Callable[..., Any]) -> None:
    async with lite(poll=10) as at:
        at.stage.held = True
        await at.submit()
        async with asyncio.timeout(5):  # long before it would have looked at the queue by itself
            await at.stage.plays.get()


async def test_parameters_that_were_dropped_are_told_with_the_job(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        job_ids = [await at.submit(), await at.submit()]
        told: list[list[str]] = [["seed", "odd\0" + "x" * 300, *(f"name {number}" for number in range(200))], []]
        for names in told:
            play = await at.stage.plays.get()
            for name in names:
                play.attempt.note(name)
            play.answer.set_result("ok")
        first, second = [await at.ended(job_id) for job_id in job_ids]
        assert first["dropped_params"][:3] == ["seed", "odd?" + "x" * 252, "name 0"]
        assert (len(first["dropped_params"]), first["dropped_params"][-1]) == (101, "...")
        assert "dropped_params" not in second
        _, page = await at.ask("GET", "/v1/jobs")
        assert [job.get("dropped_params") for job in page["data"]] == [None, first["dropped_params"]]


async def test_an_idle_process_asks_the_database_once_a_look(
    lite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    execute, scalars = AsyncConnection.execute, AsyncConnection.scalars

    async def executing(self: AsyncConnection, statement: Any, *more: Any, **options: Any) -> Any:
        asked.append(str(statement))
        return await execute(self, statement, *more, **options)

    async def asking(self: AsyncConnection, statement: Any, *more: Any, **options: Any) -> Any:
        asked.append(str(statement))
        return await scalars(self, statement, *more, **options)

    async def nothing(self: Any) -> None: ...

    monkeypatch.setattr("gatehook_plugins.jobs.upkeep.Upkeep.tend", nothing)
    async with lite(poll=0.02, jobs='webhook_secret = "a secret of the receiver and us"') as at:
        await at.ended(await at.submit())
        monkeypatch.setattr(AsyncConnection, "execute", executing)
        monkeypatch.setattr(AsyncConnection, "scalars", asking)
        async with asyncio.timeout(10):
            while len(asked) < 20:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        monkeypatch.undo()
        idle = [one for one in asked[5:] if "jobs" in one]  # the first ones may see to what has just ended
        assert len(idle) >= 10
        assert len(set(idle)) == 1, "each look is one statement, and nobody else looks"


async def test_the_most_urgent_runs_first_then_the_oldest(house: Callable[..., Any]) -> None:
    async with house(jobs="concurrency = 1") as at:
        at.stage.held = True
        ids = [await at.submit("first")]
        play = await at.stage.plays.get()
        for text, priority in (("a", "0"), ("b", "5"), ("c", "-3"), ("d", "+5"), ("e", "0")):
            ids.append(await at.submit(text, X_Gatehook_Priority=priority))
        at.stage.held = False
        play.answer.set_result("ok")
        for job_id in ids:
            await at.ended(job_id)
        said = [call.payload["messages"][0]["content"] for call in at.stage.calls]
        assert said == ["first", "b", "d", "a", "e", "c"]


@pytest.mark.parametrize("wrong", ["11", "-11", "x", "1.5", "", "9" * 5000])
async def test_a_priority_out_of_bounds_is_refused(lite: Callable[..., Any], wrong: str) -> None:
    async with lite() as at:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "async": True}
        headers = {"X_Gatehook_Priority": wrong}
        status, said = await at.ask("POST", "/v1/chat/completions", body, **headers)
        assert (status, said["error"]["param"]) == (400, "X-Gatehook-Priority")


async def test_of_one_user_only_so_many_run_in_all_processes_and_others_do_not_wait_for_them(
    house: Callable[..., Any],
) -> None:
    keys = '[plugins.auth_keys]\nkeys = ["alice-0123456789abcdef", "bob-0123456789abcdef"]\n'
    async with (
        house(jobs="per_user = 2", more=keys) as one,
        house(jobs="per_user = 2", more=keys, stage=one.stage) as two,
    ):
        one.stage.held = True
        ids = [await at.submit("alice", key="alice-0123456789abcdef") for at in (one, two) * 4]
        plays = [await one.stage.plays.get() for _ in range(2)]
        bob = await two.submit("bob", key="bob-0123456789abcdef")
        assert [play.text for play in plays] == ["alice", "alice"]
        play = await one.stage.plays.get()
        assert play.text == "bob"
        one.stage.held, one.stage.delay = False, 0.01
        for held in (*plays, play):
            held.answer.set_result("ok")
        await two.ended(bob, key="bob-0123456789abcdef")
        for job_id in ids:
            assert (await two.ended(job_id, key="alice-0123456789abcdef"))["status"] == "succeeded"
        assert one.stage.most == 3


async def test_of_one_vendor_only_so_many_run(lite: Callable[..., Any]) -> None:
    async with lite(jobs="per_vendor = { stage = 1 }") as at:
        at.stage.delay = 0.01
        ids = [await at.submit() for _ in range(8)]
        for job_id in ids:
            await at.ended(job_id)
        assert at.stage.most == 1


async def test_a_limit_of_the_gateway_s_own_makes_jobs_wait_and_not_fail(lite: Callable[..., Any]) -> None:
    limit = "[plugins.rate_limit]\nconcurrent_requests = 1\n"
    async with lite(more=limit) as at:
        at.stage.delay = 0.01
        ids = [await at.submit() for _ in range(4)]
        done = [await at.ended(job_id) for job_id in ids]
        assert [(job["status"], job["attempts"]) for job in done] == [("succeeded", 1)] * 4


async def test_a_job_that_no_limit_will_ever_let_through_fails(lite: Callable[..., Any]) -> None:
    async with lite(more="[plugins.rate_limit]\ntokens_per_minute = 5\n") as at:
        job = await at.ended(await at.submit())
        assert (job["status"], job["error"]["code"]) == ("failed", "request_too_large_for_limit")


async def test_a_vendor_s_429_is_a_try_and_its_retry_after_is_honoured(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.script = [RateLimited("slowly", retry_after=0.3)]
        begun = asyncio.get_running_loop().time()
        job = await at.ended(await at.submit())
        assert (job["status"], job["attempts"]) == ("succeeded", 2)
        assert asyncio.get_running_loop().time() - begun >= 0.3


async def test_a_job_that_waits_too_long_fails(lite: Callable[..., Any]) -> None:
    async with lite(jobs="concurrency = 1\nmax_wait = 0.1") as at:
        at.stage.held = True
        first = await at.submit()
        await at.stage.plays.get()
        job = await at.ended(await at.submit())
        assert (job["status"], job["error"]["code"]) == ("failed", "job_expired")
        assert (await at.job(first))["status"] == "running"


async def test_ended_jobs_are_deleted_after_their_time(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        job_id = await at.submit()
        await at.ended(job_id)
        await change(at, finished=1)
        async with asyncio.timeout(5):
            while (await at.ask("GET", f"/v1/jobs/{job_id}"))[0] != 404:  # noqa: ASYNC110  # nobody announces it
                await asyncio.sleep(0.02)


async def test_a_job_whose_process_is_silent_is_run_by_another_and_the_first_counts_for_nothing(
    house: Callable[..., Any],
) -> None:
    # Its only place is taken: it looks at the queue like any other, and may not take the job itself.
    async with house(jobs="concurrency = 1", lease=600) as dead:
        dead.stage.held = True
        job_id = await dead.submit()
        play = await dead.stage.plays.get()
        await change(dead, lease=1)
        async with house() as at:
            job = await at.ended(job_id)
            assert (job["status"], job["attempts"]) == ("succeeded", 2)
            play.answer.set_result("too late")
            await dead.ended(job_id)
            assert (await dead.job(job_id))["result"]["choices"][0]["message"]["content"] == "ok"


@pytest.mark.parametrize(("setting", "code"), [("repeat = false", "worker_lost"), ("max_attempts = 1", "worker_lost")])
async def test_what_may_not_be_repeated_fails_when_its_process_dies(
    lite: Callable[..., Any], setting: str, code: str
) -> None:
    async with lite(jobs=setting, lease=600) as at, lite(jobs=setting, stage=at.stage):
        at.stage.held = True
        job_id = await at.submit()
        await at.stage.plays.get()
        await change(at, lease=1)
        job = await at.ended(job_id)
        assert (job["status"], job["error"]["code"]) == ("failed", code)


async def test_a_cancelled_job_whose_process_dies_is_cancelled(lite: Callable[..., Any]) -> None:
    async with lite(lease=600) as at, lite(stage=at.stage):
        at.stage.held = True
        job_id = await at.submit()
        await at.stage.plays.get()
        await change(at, lease=1, owner="dead", cancelling=True)
        assert (await at.ended(job_id))["status"] == "cancelled"


async def test_a_clock_that_is_put_forward_kills_no_process(lite: Callable[..., Any]) -> None:
    async with lite(jobs="max_attempts = 1", lease=30) as at:
        at.stage.held = True
        job_id = await at.submit()
        play = await at.stage.plays.get()
        await change(at, lease=1)
        for _ in range(2):
            await at.gateway.services[JOBS]._bound.upkeep.tend()
        play.answer.set_result("ok")
        job = await at.ended(job_id)
        assert (job["status"], job["attempts"]) == ("succeeded", 1)


async def test_a_process_that_is_never_idle_hears_what_is_cancelled_elsewhere(lite: Callable[..., Any]) -> None:
    async with lite(poll=0.5) as at, lite(poll=10) as other:
        at.stage.held = True
        job_id = await at.submit()
        await at.stage.plays.get()
        at.stage.held = False

        async def keep_busy() -> None:
            while True:
                await at.submit()

        busy = asyncio.create_task(keep_busy())
        try:
            assert (await other.ask("DELETE", f"/v1/jobs/{job_id}"))[0] == 202
            async with asyncio.timeout(20):
                assert (await at.ended(job_id))["status"] == "cancelled"
        finally:
            busy.cancel()
            await asyncio.wait([busy])


async def test_a_process_whose_lease_another_has_taken_breaks_its_run_off(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        await at.submit()
        play = await at.stage.plays.get()
        await change(at, owner="another", runs=7, lease=2**50)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(play.answer), 5)


async def test_jobs_that_run_at_a_stop_run_again_and_it_is_no_try_of_theirs(lite: Callable[..., Any]) -> None:
    async with lite(jobs="max_attempts = 1") as at:
        at.stage.held = True
        job_id = await at.submit()
        await at.stage.plays.get()
    async with lite(jobs="max_attempts = 1") as at:
        job = await at.ended(job_id)
        assert (job["status"], job["attempts"]) == ("succeeded", 1)


async def test_a_stop_leaves_running_jobs_their_time(lite: Callable[..., Any]) -> None:
    async with lite(grace=5) as at:
        at.stage.held = True
        job_id = await at.submit()
        play = await at.stage.plays.get()
        asyncio.get_running_loop().call_later(0.2, play.answer.set_result, "in time")
    async with lite() as at:
        job = await at.job(job_id)
        assert job["result"]["choices"][0]["message"]["content"] == "in time"


async def test_what_may_not_be_repeated_fails_at_a_stop(lite: Callable[..., Any]) -> None:
    async with lite(jobs="repeat = false") as at:
        at.stage.held = True
        job_id = await at.submit()
        await at.stage.plays.get()
    async with lite() as at:
        job = await at.job(job_id)
        assert (job["status"], job["error"]["code"]) == ("failed", "interrupted")


@pytest.mark.parametrize(
    ("deed", "code"),
    [
        (lambda directory, key: directory.change_user("test", "u", {"disabled": True}), "user_disabled"),
        (lambda directory, key: directory.delete_user("test", "u"), "user_deleted"),
        (lambda directory, key: directory.change_key("test", key, {"disabled": True}), "key_disabled"),
        (lambda directory, key: directory.revoke_key("test", key), "key_revoked"),
        (lambda directory, key: directory.change_key("test", key, {"models": ["other"]}), "model_not_allowed"),
    ],
)
async def test_who_may_no_longer_call_has_no_jobs_run(
    lite: Callable[..., Any], deed: Callable[..., Any], code: str
) -> None:
    async with lite(jobs="concurrency = 1", more=KEYED) as at:
        key_id, key = await user(at, "u")
        at.stage.held = True
        await at.submit("first", key=ADMIN)
        play = await at.stage.plays.get()
        job_id = await at.submit(key=key)
        await deed(at.gateway.services[DIRECTORY], key_id)
        play.answer.set_result("ok")
        job = await at.ended(job_id, key=ADMIN)
        assert (job["status"], job["error"]["code"]) == ("failed", code)
        assert len(at.stage.calls) == 1


async def test_what_a_vendor_plugin_raises_is_not_told(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.script = [ZeroDivisionError("secret")] * 3
        job = await at.ended(await at.submit())
        assert (job["status"], job["error"]["code"]) == ("failed", "vendor_plugin_error")
        assert "secret" not in str(job)


async def test_each_job_ends_once_whatever_three_processes_and_their_failures_do(house: Callable[..., Any]) -> None:
    async with house() as one, house() as two, house() as three:
        for at in (one, two, three):
            at.stage.script = [UpstreamError("away")] * 5
        ids = [await (one, two, three)[number % 3].submit(str(number)) for number in range(60)]
        done = [await one.ended(job_id) for job_id in ids]
        assert {job["status"] for job in done} <= {"succeeded", "failed"}
        for job_id in ids:
            async with one.session.get(f"{one.url}/v1/jobs/{job_id}/events") as answer:
                text = await answer.text()
            assert sum(text.count(f"event: {kind}\n") for kind in ("succeeded", "failed", "cancelled")) == 1


async def test_metrics_tell_how_many_jobs_there_are(lite: Callable[..., Any]) -> None:
    async with lite(jobs="concurrency = 1", more="[plugins.metrics]") as at:
        await at.ended(await at.submit())
        at.stage.held = True
        for _ in range(3):
            await at.submit()
        await at.stage.plays.get()
        wanted = {"queued": 2, "running": 1, "succeeded": 1, "failed": 0, "cancelled": 0}
        async with asyncio.timeout(5):
            while True:
                async with at.session.get(f"{at.url}/metrics") as answer:
                    text = await answer.text()
                if all(f'gateway_jobs{{status="{status}"}} {count}.0' in text for status, count in wanted.items()):
                    break
                await asyncio.sleep(0.02)
