"""Workflows as jobs: progress and previews as events, pictures in a real file store, and a cancel that really stops."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gatehook import DATABASE, decode
from gatehook_plugins.jobs.tables import jobs

Comfy = Any
OpenHome = Callable[..., AbstractAsyncContextManager[Any]]

TABLES = """
[database]
url = "sqlite+aiosqlite:///{folder}/gatehook.db"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.files]
directory = "{folder}/files"
keep = 1000
url_lifetime = 500
max_bytes = {room}
[plugins.jobs]
poll = 0.05
lease = 1
"""


@pytest.fixture
def home(house: Any, tmp_path: Path) -> OpenHome:
    """Opens a house that keeps jobs and `room` bytes of files; `jobs` are settings of [plugins.jobs], `more` tables."""

    @asynccontextmanager
    async def opened(*servers: str, jobs: str = "", more: str = "", room: int = 1 << 20) -> AsyncIterator[Any]:
        async with house(*servers, tables=TABLES.format(folder=tmp_path, room=room) + jobs + more) as at:
            yield at

    return opened


async def submit(at: Any, path: str = "/v1/images/generations", **body: Any) -> str:
    status, said = await at.ask(path, **{"async": True}, **body)
    assert status == 202, said
    return str(said["job_id"])


async def events(at: Any, job_id: str) -> list[tuple[str, Any]]:
    """All events, once the job has ended."""
    async with at.http.get(f"{at.url}/v1/jobs/{job_id}/events") as answer:
        blocks = (await answer.text()).strip().split("\n\n")
    lines = [dict(line.split(": ", 1) for line in block.split("\n") if line) for block in blocks]
    return [(line["event"], decode(line["data"])) for line in lines if "event" in line]


async def job_of(at: Any, job_id: str) -> Any:
    async with at.http.get(f"{at.url}/v1/jobs/{job_id}") as answer:
        return await answer.json()


async def ended(at: Any, job_id: str) -> Any:
    await events(at, job_id)
    return await job_of(at, job_id)


def stored(folder: Path) -> list[Path]:
    """What the file store holds."""
    return list(folder.glob("files/data/*/*/content"))


async def test_a_picture_is_made_as_a_job_and_its_progress_and_previews_are_events(
    home: OpenHome, comfy: Comfy, dot: Any
) -> None:
    comfy.held = True
    async with home(comfy.url) as at:
        job_id = await submit(at, steps=4)
        async with at.http.get(f"{at.url}/v1/jobs/{job_id}/events") as answer:
            async for line in answer.content:
                if b'"preview"' in line:
                    break
        running = await job_of(at, job_id)
        seen = decode(line.removeprefix(b"data: "))
        assert seen["preview"].startswith("data:image/jpeg;base64,")
        assert base64.b64decode(seen["preview"].partition(",")[2]).startswith(b"\xff\xd8\xff")
        assert 0 < seen["progress"] < 1
        assert seen["message"] == "Sampler: step 1 of 4"
        assert (running["status"], running["progress"]) == ("running", seen["progress"])
        comfy.go.set()
        done = await ended(at, job_id)
        told = await events(at, job_id)
    kinds = [kind for kind, _ in told]
    assert (kinds[:2], kinds[-1]) == (["queued", "running"], "succeeded")
    fractions = [data["progress"] for kind, data in told if kind == "progress"]
    assert fractions == sorted(fractions)
    assert all("preview" not in data for _, data in told), "what is over needs no previews"
    assert [base64.b64decode(one["b64_json"]) for one in done["result"]["data"]] == [dot()]


async def test_who_waits_behind_others_is_told_its_place(home: OpenHome, comfy: Comfy) -> None:
    comfy.held = True
    async with home(comfy.url) as at:
        first = await submit(at)
        await comfy.reached.wait()
        second = await submit(at)
        async with at.http.get(f"{at.url}/v1/jobs/{second}/events") as answer:
            async for line in answer.content:
                if b"queue_position" in line:
                    break
        assert decode(line.removeprefix(b"data: "))["queue_position"] == 1
        comfy.go.set()
        assert [(await ended(at, one))["status"] for one in (first, second)] == ["succeeded", "succeeded"]


async def test_a_cancelled_job_stops_at_the_server(home: OpenHome, comfy: Comfy) -> None:
    comfy.held = True
    async with home(comfy.url) as at:
        running = await submit(at, seed=1, steps=50)
        await comfy.reached.wait()  # two that are queued at once may reach the server in any order
        waiting = await submit(at, seed=2, steps=50)
        async with asyncio.timeout(5):
            while len(comfy.pending) < 1:  # noqa: ASYNC110  # the second is on its way
                await asyncio.sleep(0.01)
        for job_id in (waiting, running):
            async with at.http.delete(f"{at.url}/v1/jobs/{job_id}") as answer:
                assert answer.status == 202
        assert [(await ended(at, one))["status"] for one in (running, waiting)] == ["cancelled", "cancelled"]
        async with asyncio.timeout(5):
            while comfy.running or comfy.pending:  # noqa: ASYNC110  # nobody announces it
                await asyncio.sleep(0.01)
    assert comfy.steps < 50
    assert comfy.history == {}


async def test_a_chat_with_a_workflow_is_a_job_like_any_other(home: OpenHome, comfy: Comfy, dot: Any) -> None:
    async with home(comfy.url) as at:
        job_id = await submit(at, "/v1/chat/completions", messages=[{"role": "user", "content": "a cat"}])
        job = await ended(at, job_id)
        (shown,) = job["result"]["choices"][0]["message"]["images"]
        async with at.http.get(at.url + shown["image_url"]["url"]) as answer:
            assert await answer.read() == dot()


async def test_pictures_by_url_are_kept_as_long_as_their_job_and_go_with_it(
    home: OpenHome, comfy: Comfy, dot: Any, tmp_path: Path
) -> None:
    async with home(comfy.url, jobs="retention = 5000\n") as at:
        job_id = await submit(at, n=2, response_format="url")
        job = await ended(at, job_id)
        urls = [at.url + one["url"] for one in job["result"]["data"]]
        for url in urls:
            assert int(url.partition("expires=")[2].partition("&")[0]) >= job["finished_at"] + 4990
            async with at.http.get(url) as answer:
                assert await answer.read() == dot()
        async with at.http.delete(f"{at.url}/v1/jobs/{job_id}?purge=true") as answer:
            assert answer.status == 200
        for url in urls:
            async with at.http.get(url) as answer:
                assert answer.status == 404
    assert stored(tmp_path) == []


async def test_a_large_result_is_a_file_that_its_owner_fetches_and_retention_deletes(
    home: OpenHome, comfy: Comfy, dot: Any, tmp_path: Path
) -> None:
    async with home(comfy.url, jobs="max_inline = 10\n") as at:
        whole, named = await submit(at), await submit(at, response_format="url")
        job = await ended(at, whole)
        assert job["result"] is None
        async with at.http.get(at.url + job["result_url"]) as answer:
            assert answer.content_type == "application/json"
            assert base64.b64decode((await answer.json())["data"][0]["b64_json"]) == dot()
        await ended(at, named)
        assert len(stored(tmp_path)) == 3, "two results, and the picture that one of them names"
        async with at.gateway.services[DATABASE].writing() as connection:
            await connection.execute(sa.update(jobs).values(finished=1))
        async with asyncio.timeout(5):
            while stored(tmp_path):  # noqa: ASYNC110  # nobody announces it
                await asyncio.sleep(0.02)
        async with at.http.get(f"{at.url}/v1/jobs/{whole}") as answer:
            assert answer.status == 404


async def test_a_full_file_store_fails_no_job_whose_result_a_row_can_take(home: OpenHome, comfy: Comfy) -> None:
    async with home(comfy.url, jobs="max_inline = 10\n", room=1) as at:
        job = await ended(at, await submit(at))
        assert (job["status"], len(job["result"]["data"])) == ("succeeded", 1)


async def test_what_a_server_refuses_fails_the_job_and_names_the_field(home: OpenHome, comfy: Comfy) -> None:
    async with home(comfy.url) as at:
        job = await ended(at, await submit(at, size="20000x64"))
        assert (job["status"], job["attempts"], job["error"]["param"]) == ("failed", 1, "width")


async def test_a_server_that_is_down_fails_the_job_after_its_tries_naming_the_vendor(home: OpenHome) -> None:
    async with home("http://127.0.0.1:9", jobs="max_attempts = 2\nbackoff = 0\n") as at:
        job = await ended(at, await submit(at))
        assert (job["status"], job["attempts"]) == ("failed", 2)
        assert job["error"]["message"].startswith("comfyui: ")


async def test_an_answer_that_names_files_is_not_kept_by_a_cache(home: OpenHome, comfy: Comfy) -> None:
    async with home(comfy.url, more="[plugins.cache]\n") as at:
        first, second = [(await at.chat())[1]["choices"][0]["message"]["content"] for _ in range(2)]
        assert first != second
