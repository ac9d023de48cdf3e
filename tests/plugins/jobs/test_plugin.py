"""Jobs over HTTP: taken, run, told of, listed, cancelled, purged; and who may see them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import InvalidRequest, UpstreamError, decode
from gatehook.testing import Reply, StubUpstream, serving

KEYS = """
[plugins.auth_keys]
keys = ["alice-0123456789abcdef", "bob-0123456789abcdef"]
admin_keys = ["admin-0123456789abcdef"]
"""
ALICE, BOB, ADMIN = "alice-0123456789abcdef", "bob-0123456789abcdef", "admin-0123456789abcdef"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def test_an_async_chat_is_taken_at_once_and_its_answer_is_the_job_s_result(house: Callable[..., Any]) -> None:
    async with house() as at:
        job_id = await at.submit()
        job = await at.ended(job_id)
        assert job["job_id"] == job_id
        assert (job["status"], job["progress"], job["model"], job["error"]) == ("succeeded", 1.0, "m", None)
        assert job["result"]["choices"][0]["message"]["content"] == "ok"
        assert job["created_at"] <= job["started_at"] <= job["finished_at"]


PROMISED = {"job_id", "status", "progress", "model", "created_at", "started_at", "finished_at", "error"}


async def test_a_job_is_told_in_full_from_its_first_moment_to_its_last(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        status, taken = await at.ask("POST", "/v1/chat/completions", CHAT | {"async": True})
        assert status == 202
        assert taken == {"status": "async_started", "job_id": taken["job_id"], "model": "m"}
        play = await at.stage.plays.get()
        running = await at.job(taken["job_id"])
        assert running.keys() >= PROMISED | {"result"}
        assert (running["status"], running["finished_at"], running["result"]) == ("running", None, None)
        assert 0 <= running["progress"] < 1
        play.answer.set_result("done")
        ended = await at.ended(taken["job_id"])
        assert ended.keys() == running.keys()
        listed = (await at.ask("GET", "/v1/jobs"))[1]
        assert (listed["object"], listed["has_more"]) == ("list", False)
        assert listed["data"] == [{name: value for name, value in ended.items() if name != "result"}]


async def test_the_vendor_never_sees_the_field_async(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        await at.ended(await at.submit())
        status, _ = await at.ask("POST", "/v1/chat/completions", CHAT | {"async": False})
        assert status == 200
        assert ["async" in call.payload for call in at.stage.calls] == [False, False]


async def test_a_run_s_id_is_the_job_s_and_its_number(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.script = [UpstreamError("away")]
        job_id = await at.submit()
        await at.ended(job_id)
        assert [call.call.id for call in at.stage.calls] == [f"{job_id}.1", f"{job_id}.2"]


async def test_embeddings_can_be_jobs_too(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        status, said = await at.ask("POST", "/v1/embeddings", {"model": "m", "input": "x", "async": True})
        assert status == 202
        assert (await at.ended(said["job_id"]))["status"] == "succeeded"


@pytest.mark.parametrize(
    ("change", "param", "status"),
    [
        ({"stream": True}, "stream", 400),
        ({"async": "yes"}, "async", 400),
        ({"model": "nobody"}, "model", 404),
        ({"messages": []}, "messages", 400),
    ],
)
async def test_what_cannot_be_a_job_is_refused_at_once(
    lite: Callable[..., Any], change: dict[str, Any], param: str, status: int
) -> None:
    async with lite() as at:
        answered, said = await at.ask("POST", "/v1/chat/completions", CHAT | {"async": True} | change)
        assert (answered, said["error"]["param"]) == (status, param)
        assert (await at.ask("GET", "/v1/jobs"))[1]["data"] == []


async def test_without_the_plugin_a_job_is_refused_naming_it() -> None:
    settings = (
        "[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_mock]\n[[models]]\nname='m'\nvendor='mock'\n"
    )
    async with serving(settings) as served, ClientSession() as session:
        async with session.post(f"{served.url}/v1/chat/completions", json=CHAT | {"async": True}) as answer:
            said = (await answer.json())["error"]
        assert (answer.status, said["code"], said["param"]) == (400, "jobs_disabled", "async")
        assert "[plugins.jobs]" in said["message"]


async def test_an_error_that_will_not_pass_fails_the_job_at_once(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.script = [InvalidRequest("no such thing", param="seed")]
        job = await at.ended(await at.submit())
        assert (job["status"], job["attempts"], job["result"]) == ("failed", 1, None)
        assert job["error"] == {
            "message": "no such thing", "type": "invalid_request_error", "param": "seed", "code": None
        }  # fmt: skip


async def test_an_error_that_may_pass_is_tried_again_a_few_times(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.script = [UpstreamError("away"), UpstreamError("away")]
        assert (await at.ended(await at.submit()))["status"] == "succeeded"
        at.stage.script = [UpstreamError("away")] * 3
        job = await at.ended(await at.submit())
        assert (job["status"], job["attempts"], job["error"]["code"]) == ("failed", 3, "upstream_error")


async def test_a_vendor_s_failure_names_the_vendor_and_never_its_key(
    lite: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-of-the-vendor-0123456789"
    said = Reply.of_json({"error": {"message": f"Bearer {secret} is out of order"}}, status=500)
    async with StubUpstream(said) as upstream:
        model = f'[[models]]\nname = "far"\nvendor = "openai"\nbase_url = "{upstream.url}"\napi_key = "{secret}"\n'
        async with lite(jobs="max_attempts = 2", more=f"[plugins.vendor_openai]\n{model}") as at:
            job = await at.ended(await at.submit(model="far"))
            assert (job["status"], job["attempts"]) == ("failed", 2)
            assert job["error"]["message"].startswith("openai: ")
            async with at.session.get(f"{at.url}/v1/jobs/{job['job_id']}/events") as answer:
                told = await answer.text()
    assert secret in upstream.requests[0].headers["authorization"]
    assert secret not in str(job) + told + caplog.text


async def test_a_queued_job_is_cancelled_at_once_and_never_runs(house: Callable[..., Any]) -> None:
    async with house(jobs="concurrency = 1") as at:
        at.stage.held = True
        running, queued = await at.submit("first"), await at.submit("second")
        play = await at.stage.plays.get()
        assert await at.ask("DELETE", f"/v1/jobs/{queued}") == (200, {"job_id": queued, "status": "cancelled"})
        assert await at.ask("DELETE", f"/v1/jobs/{queued}") == (200, {"job_id": queued, "status": "cancelled"})
        play.answer.set_result("ok")
        assert (await at.ended(running))["status"] == "succeeded"
        assert (await at.job(queued))["status"] == "cancelled"
        assert [call.payload["messages"][0]["content"] for call in at.stage.calls] == ["first"]


async def test_a_running_job_is_cancelled_and_its_call_broken_off(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        job_id = await at.submit()
        play = await at.stage.plays.get()
        assert await at.ask("DELETE", f"/v1/jobs/{job_id}") == (202, {"job_id": job_id, "status": "running"})
        job = await at.ended(job_id)
        assert (job["status"], job["result"], job["error"]) == ("cancelled", None, None)
        assert play.answer.cancelled()


async def test_a_job_that_runs_in_another_process_is_cancelled_when_that_looks_next(house: Callable[..., Any]) -> None:
    async with house() as runs, house() as asks:
        runs.stage.held = asks.stage.held = True
        job_id = await runs.submit()
        await asyncio.wait(
            [asyncio.ensure_future(one.stage.plays.get()) for one in (runs, asks)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        other = asks if runs.stage.running else runs
        assert (await other.ask("DELETE", f"/v1/jobs/{job_id}"))[0] == 202
        async with asyncio.timeout(10):
            assert (await other.ended(job_id))["status"] == "cancelled"


async def test_an_ended_job_is_not_cancelled_but_can_be_purged(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        job_id = await at.submit()
        await at.ended(job_id)
        status, said = await at.ask("DELETE", f"/v1/jobs/{job_id}")
        assert (status, said["error"]["code"]) == (409, "job_ended")
        assert (await at.job(job_id))["result"] is not None
        assert await at.ask("DELETE", f"/v1/jobs/{job_id}?purge=true") == (200, {"job_id": job_id, "deleted": True})
        assert (await at.ask("GET", f"/v1/jobs/{job_id}"))[0] == 404


async def test_what_has_not_ended_cannot_be_purged(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        job_id = await at.submit()
        status, said = await at.ask("DELETE", f"/v1/jobs/{job_id}?purge=true")
        assert (status, said["error"]["code"]) == (409, "job_not_ended")


async def test_foreign_and_unknown_jobs_are_the_same_404(house: Callable[..., Any]) -> None:
    async with house(more=KEYS) as at:
        job_id = await at.submit(key=ALICE)
        await at.ended(job_id, key=ALICE)
        for method, path in (("GET", ""), ("DELETE", ""), ("DELETE", "?purge=true"), ("GET", "/events")):
            foreign = await at.ask(method, f"/v1/jobs/{job_id}{path}", key=BOB)
            unknown_id = "job_" + "0" * 32
            unknown = await at.ask(method, f"/v1/jobs/{unknown_id}{path}", key=BOB)
            assert foreign[0] == unknown[0] == 404
            assert str(foreign[1]).replace(job_id, "") == str(unknown[1]).replace(unknown_id, "")
        assert (await at.job(job_id, key=ADMIN))["status"] == "succeeded"
        assert (await at.ask("GET", "/v1/jobs"))[0] == 401


@pytest.mark.parametrize("wrong", ["x", "job_", "job_%00", "job_" + "0" * 31, "%F0%9F%98%80", "job_" + "G" * 32])
async def test_what_can_be_no_job_s_id_is_a_404(lite: Callable[..., Any], wrong: str) -> None:
    async with lite() as at:
        assert (await at.ask("GET", f"/v1/jobs/{wrong}"))[0] == 404


async def test_jobs_are_listed_by_page_the_newest_first_each_user_its_own(house: Callable[..., Any]) -> None:
    async with house(more=KEYS) as at:
        mine = [await at.submit(key=ALICE) for _ in range(5)]
        theirs = await at.submit(key=BOB)
        for job_id in mine:
            await at.ended(job_id, key=ALICE)
        seen: list[str] = []
        path = "/v1/jobs?limit=2"
        while True:
            _, said = await at.ask("GET", path, key=ALICE)
            seen += [job["job_id"] for job in said["data"]]
            assert all("result" not in job for job in said["data"])
            if not said["has_more"]:
                break
            path = f"/v1/jobs?limit=2&after={seen[-1]}"
        assert seen == sorted(mine, reverse=True)
        await at.ended(theirs, key=BOB)
        everybody = (await at.ask("GET", "/v1/jobs?user=*&status=succeeded", key=ADMIN))[1]["data"]
        assert {job["job_id"] for job in everybody} == {*mine, theirs}
        owner = next(job["user_id"] for job in everybody if job["job_id"] == theirs)
        bob = (await at.ask("GET", f"/v1/jobs?user={owner}", key=ADMIN))[1]["data"]
        assert [job["job_id"] for job in bob] == [theirs]
        assert (await at.ask("GET", f"/v1/jobs?user={owner}", key=ALICE))[0] == 403
        assert (await at.ask("GET", "/v1/jobs?status=failed", key=ALICE))[1]["data"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "status=gone", "after=x", "colour=red"])
async def test_a_wrong_parameter_of_the_list_is_named(lite: Callable[..., Any], query: str) -> None:
    async with lite() as at:
        status, said = await at.ask("GET", f"/v1/jobs?{query}")
        assert (status, said["error"]["param"]) == (400, query.partition("=")[0])


async def test_no_more_jobs_of_a_user_are_queued_than_may_be(house: Callable[..., Any]) -> None:
    async with house(jobs="max_queued = 2", more=KEYS) as at:
        at.stage.held = True
        for _ in range(2):
            await at.submit(key=ALICE)
        status, said = await at.ask("POST", "/v1/chat/completions", CHAT | {"async": True}, key=ALICE)
        assert (status, said["error"]["code"]) == (429, "too_many_jobs")
        await at.submit(key=BOB)


async def test_texts_that_no_database_keeps_do_no_harm(house: Callable[..., Any]) -> None:
    async with house() as at:
        raw = b'{"model":"m","messages":[{"role":"user","content":"\\ud83d \\u0000"}],"async":true}'
        headers = {"Content-Type": "application/json", "Cache-Control": "no-\u00e9"}
        async with at.session.post(f"{at.url}/v1/chat/completions", data=raw, headers=headers) as answer:
            said = decode(await answer.read())
            assert answer.status == 202, said
        assert (await at.ended(said["job_id"]))["status"] == "succeeded"
        assert at.stage.calls[0].payload["messages"][0]["content"] == "\ud83d \x00"
