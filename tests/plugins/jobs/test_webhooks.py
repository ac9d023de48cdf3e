"""Webhooks: signed, at least once, behind the guard, and never in a worker's way."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from gatehook import DATABASE, StartupError
from gatehook.testing import Reply, StubUpstream
from gatehook_plugins.jobs.signing import key_of, signed
from gatehook_plugins.jobs.tables import jobs

SECRET = "a secret of the receiver and us"
HOOKS = f'webhook_secret = "{SECRET}"'
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "async": True}


async def told(at: Any, job_id: str, state: str) -> Any:
    """The job, once its webhook has come to this."""
    async with asyncio.timeout(10):
        while (job := await at.job(job_id))["webhook"] != state:  # noqa: ASYNC110  # nobody announces it
            await asyncio.sleep(0.02)
    return job


async def test_whoever_asked_is_told_how_the_job_ended_signed(lite: Callable[..., Any]) -> None:
    async with StubUpstream(Reply(status=202)) as receiver, lite(jobs=HOOKS) as at:
        job_id = await at.submit(X_Gatehook_Webhook=f"{receiver.url}/ended?x=1")
        await told(at, job_id, "delivered")
        (request,) = receiver.requests
        assert (request.method, request.path) == ("POST", "/ended?x=1")
        assert request.json["type"] == "job.succeeded"
        assert (request.json["data"]["job_id"], request.json["data"]["status"]) == (job_id, "succeeded")
        assert "result" not in request.json["data"]
        assert request.headers["webhook-id"] == job_id
        text = f"{job_id}.{request.headers['webhook-timestamp']}.".encode() + request.body
        right = base64.b64encode(hmac.digest(SECRET.encode(), text, hashlib.sha256)).decode()
        assert request.headers["webhook-signature"] == f"v1,{right}"


async def test_a_receiver_that_fails_is_told_again(lite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook_plugins.jobs.webhooks._FIRST_BACKOFF", 0.02)
    replies = [
        Reply(status=500),
        Reply(status=302, headers={"Location": "/elsewhere"}),
        Reply(status=0, end="reset"),
        Reply(),
    ]
    async with StubUpstream(*replies) as receiver, lite(jobs=HOOKS) as at:
        job_id = await at.submit(X_Gatehook_Webhook=receiver.url)
        await told(at, job_id, "delivered")
        assert len(receiver.requests) == 4
        assert {request.path for request in receiver.requests} == {"/"}
        assert {request.headers["webhook-id"] for request in receiver.requests} == {job_id}


@pytest.mark.parametrize("end", ["", "reset"])
async def test_who_never_listens_is_given_up_and_the_log_tells_so_without_its_address(
    lite: Callable[..., Any], caplog: pytest.LogCaptureFixture, end: Any
) -> None:
    reply = Reply(status=0, end=end) if end else Reply(status=307, headers={"Location": "/there?token=hidden"})
    async with StubUpstream(reply) as receiver, lite(jobs=f"{HOOKS}\nwebhook_attempts = 1") as at:
        job_id = await at.submit(X_Gatehook_Webhook=f"{receiver.url}/here?token=hidden")
        await told(at, job_id, "failed")
        assert len(receiver.requests) == 1
    assert f"{job_id}: its webhook is given up" in caplog.text
    assert "hidden" not in caplog.text
    assert SECRET not in caplog.text


async def test_a_receiver_that_is_silent_holds_up_no_job(lite: Callable[..., Any]) -> None:
    async with StubUpstream(Reply(end="silence", status=0)) as receiver, lite(jobs=f"{HOOKS}\nconcurrency = 1") as at:
        for _ in range(3):
            job_id = await at.submit(X_Gatehook_Webhook=receiver.url)
            assert (await at.ended(job_id))["webhook"] == "pending"


async def test_who_has_many_dead_receivers_does_not_keep_others_waiting(
    lite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook_plugins.jobs.webhooks._AT_ONCE", 4)
    monkeypatch.setattr("gatehook_plugins.jobs.webhooks._OF_ONE_USER", 2)
    alice, bob = "alice-0123456789abcdef", "bob-0123456789abcdef"
    keys = f'[plugins.auth_keys]\nkeys = ["{alice}", "{bob}"]\n'
    async with (
        StubUpstream(Reply(end="silence", status=0)) as dead,
        StubUpstream(Reply()) as receiver,
        lite(jobs=HOOKS, more=keys) as at,
    ):
        for _ in range(7):
            await at.ended(await at.submit(key=alice, X_Gatehook_Webhook=dead.url), alice)
        ids = [await at.submit(key=bob, X_Gatehook_Webhook=receiver.url) for _ in range(5)]
        async with asyncio.timeout(10):
            for job_id in ids:
                while (await at.job(job_id, bob))["webhook"] != "delivered":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert len(dead.requests) == 2


@pytest.mark.parametrize("due", [1, int(time.time() + 86_400) * 1000], ids=["its minute is over", "clock put back"])
async def test_a_delivery_that_a_crash_broke_off_is_made_again(house: Callable[..., Any], due: int) -> None:
    async with StubUpstream(Reply(end="silence", status=0)) as receiver, house(jobs=HOOKS) as at:
        job_id = await at.submit(X_Gatehook_Webhook=receiver.url)
        await at.ended(job_id)
        async with asyncio.timeout(5):
            while not receiver.requests:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        receiver.script(Reply())
        async with at.gateway.services[DATABASE].writing() as connection:
            await connection.execute(sa.update(jobs).values(webhook_due=due))
        await told(at, job_id, "delivered")
        assert len(receiver.requests) == 2


async def test_failed_and_cancelled_jobs_are_told_of_too(lite: Callable[..., Any]) -> None:
    async with StubUpstream(Reply()) as receiver, lite(jobs=f"{HOOKS}\nconcurrency = 1") as at:
        at.stage.held = True
        running = await at.submit(X_Gatehook_Webhook=receiver.url)
        play = await at.stage.plays.get()
        queued = await at.submit(X_Gatehook_Webhook=receiver.url)
        await at.ask("DELETE", f"/v1/jobs/{queued}")
        play.answer.set_exception(ZeroDivisionError())
        at.stage.held = False
        at.stage.script = [ZeroDivisionError()] * 3
        for job_id in (running, queued):
            await told(at, job_id, "delivered")
        assert {request.json["type"] for request in receiver.requests} == {"job.failed", "job.cancelled"}


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "example.com", "http://", "https://me:pw@example.com/", "http://[::1", "x" * 3000,
        "http://127.0.0.1:1/", "http://169.254.169.254/latest", "http://2130706433/", "http://[::ffff:10.0.0.1]/",
    ],
)  # fmt: skip
async def test_what_may_not_be_called_is_refused_at_submission(lite: Callable[..., Any], url: str) -> None:
    async with lite(jobs=HOOKS, private=False) as at:
        status, said = await at.ask("POST", "/v1/chat/completions", BODY, X_Gatehook_Webhook=url)
        assert (status, said["error"]["param"]) == (400, "X-Gatehook-Webhook")
        assert (await at.ask("GET", "/v1/jobs"))[1]["data"] == []


async def test_a_name_of_a_private_address_is_never_connected_to(lite: Callable[..., Any]) -> None:
    async with StubUpstream(Reply()) as receiver, lite(jobs=f"{HOOKS}\nwebhook_attempts = 1", private=False) as at:
        job_id = await at.submit(X_Gatehook_Webhook=receiver.url.replace("127.0.0.1", "localhost"))
        await told(at, job_id, "failed")
        assert receiver.requests == []


async def test_without_a_secret_webhooks_are_refused_naming_the_setting(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        status, said = await at.ask("POST", "/v1/chat/completions", BODY, X_Gatehook_Webhook="https://example.com/")
        assert status == 400
        assert "webhook_secret" in said["error"]["message"]


@pytest.mark.parametrize(("secret", "words"), [("short", "24 characters"), ("whsec_" + "!" * 30, "base64")])
async def test_a_bad_secret_stops_the_start_and_is_not_shown(lite: Callable[..., Any], secret: str, words: str) -> None:
    with pytest.raises(StartupError, match=words) as caught:
        async with lite(jobs=f'webhook_secret = "{secret}"'):
            pass
    assert secret not in str(caught.value)


def test_signatures_are_those_of_standard_webhooks() -> None:
    # The example of the specification's reference library.
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
