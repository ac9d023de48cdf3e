"""GET /v1/jobs/ID/events: all that happens, once, in order, and from wherever a client left off."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gatehook import decode

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


async def events(answer: Any) -> AsyncIterator[tuple[int, str, Any]]:
    """Events as they come: number, kind, data."""
    block: dict[str, str] = {}
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            block[name] = value
        elif "event" in block:
            yield int(block["id"]), block["event"], decode(block["data"])
            block = {}


async def test_it_tells_all_that_happens_and_ends_with_the_job(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        job_id = await at.submit()
        async with at.session.get(f"{at.url}/v1/jobs/{job_id}/events") as answer:
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            feed = events(answer)
            assert [(await anext(feed))[1] for _ in range(2)] == ["queued", "running"]
            play = await at.stage.plays.get()
            play.progress(0.5, message="step 10 of 20", queue_position=3, preview=PNG)
            number, kind, data = await anext(feed)
            assert (number, kind) == (3, "progress")
            assert data == {
                "status": "running", "progress": 0.5, "message": "step 10 of 20", "queue_position": 3,
                "preview": "data:image/png;base64," + base64.b64encode(PNG).decode(),
            }  # fmt: skip
            assert (await at.job(job_id))["progress"] == 0.5
            play.answer.set_result("ok")
            rest = [event async for event in feed]
            assert [(number, kind, data["status"]) for number, kind, data in rest] == [(4, "succeeded", "succeeded")]


@pytest.mark.parametrize("last", [0, 1, 2, 3])
async def test_a_client_goes_on_after_the_event_it_has_seen(lite: Callable[..., Any], last: int) -> None:
    async with lite() as at:
        job_id = await at.submit()
        await at.ended(job_id)
        path, headers = f"{at.url}/v1/jobs/{job_id}/events", {"Last-Event-ID": str(last)}
        async with at.session.get(path, headers=headers) as answer:
            assert [event[0] async for event in events(answer)] == list(range(last + 1, 4))


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", "9" * 20])
async def test_what_is_no_event_s_number_is_refused(lite: Callable[..., Any], wrong: str) -> None:
    async with lite() as at:
        job_id = await at.submit()
        status, said = await at.ask("GET", f"/v1/jobs/{job_id}/events", Last_Event_ID=wrong)
        assert (status, said["error"]["param"]) == (400, "Last-Event-ID")


async def test_progress_is_throttled_and_only_the_newest_word_and_preview_are_kept(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        job_id = await at.submit()
        play = await at.stage.plays.get()
        async with at.session.get(f"{at.url}/v1/jobs/{job_id}/events") as answer:
            feed = events(answer)
            for _ in range(2):
                await anext(feed)
            for step in range(1000):
                play.progress(step / 1000, preview=PNG)
            play.progress(0.9995)
            _, _, newest = await anext(feed)
            assert (newest["progress"], "preview" in newest) == (0.9995, True), "a word hides no preview"
            play.progress(2, preview=PNG)
            assert (await anext(feed))[2]["progress"] == 1.0
        async with at.session.get(f"{at.url}/v1/jobs/{job_id}/events") as answer:
            feed = events(answer)
            again = [await anext(feed) for _ in range(4)]
            assert ["preview" in data for _, _, data in again] == [False, False, False, True]
            play.answer.set_result("ok")


async def test_a_stop_ends_the_feed_without_a_clean_end_and_a_client_goes_on_elsewhere(
    lite: Callable[..., Any],
) -> None:
    from aiohttp import ClientError

    async with lite() as stays:
        async with lite() as at:
            at.stage.held = stays.stage.held = True
            job_id = await at.submit()
            answer = await stays.session.get(f"{at.url}/v1/jobs/{job_id}/events")
            feed = events(answer)
            assert (await anext(feed))[1] == "queued"

        async def rest() -> None:
            async for _ in feed:
                pass

        with pytest.raises(ClientError):
            async with answer:
                await asyncio.wait_for(rest(), 5)
        stays.stage.held = False
        while not stays.stage.plays.empty():
            stays.stage.plays.get_nowait().answer.set_result("ok")
        assert (await stays.ended(job_id))["status"] == "succeeded"


async def test_a_client_that_leaves_leaves_nothing_behind(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        job_id = await at.submit()
        await at.stage.plays.get()
        before = asyncio.all_tasks()
        async with at.session.get(f"{at.url}/v1/jobs/{job_id}/events") as answer:
            await anext(events(answer))
            answer.close()
        async with asyncio.timeout(5):
            while asyncio.all_tasks() - before:  # noqa: ASYNC110  # nobody announces it
                await asyncio.sleep(0.02)


async def test_head_of_a_feed_answers_at_once(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        at.stage.held = True
        job_id = await at.submit()
        async with at.session.head(f"{at.url}/v1/jobs/{job_id}/events") as answer:
            assert answer.status == 200


async def test_the_feed_of_a_job_that_is_purged_ends(lite: Callable[..., Any]) -> None:
    async with lite() as at:
        job_id = await at.submit()
        await at.ended(job_id)
        async with at.session.get(f"{at.url}/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "3"}) as answer:
            assert await answer.read() == b""
