"""A gateway is killed while ComfyUI runs its job: whoever makes the job again takes the run over, or stops it."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Call, Target
from gatehook.testing import serving
from gatehook_plugins.vendor_comfyui.traces import Trace, trace_of

Comfy = Any
Open = Callable[..., AbstractAsyncContextManager[Any]]

SETTINGS = """
[server]
port = 0
[database]
url = "sqlite+aiosqlite:///{folder}/gatehook.db"
secret = "a secret of more than thirty-two letters, for tests"
[failover]
retries = 0
[plugins.database]
[plugins.images_api]
[plugins.route_models]
[plugins.vendor_comfyui]
[plugins.jobs]
poll = 0.05
lease = 1
backoff = 0
"""
MODEL = """
[[models]]
name = "m"
vendor = "comfyui"
base_url = "{url}"
priority = {priority}
[models.options]
workflow = "{folder}/workflow.json"
poll = 0.05
[models.options.inputs]
prompt = "3.filename_prefix"
seed = {{ node = "2.seed", min = 0, max = 1000000 }}
steps = {{ node = "2.steps", max = 50 }}
"""
WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 0}},
    "2": {"class_type": "Steps", "inputs": {"image": ["1", 0], "steps": 4, "preview": False, "seed": 7}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "made"}},
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Settings of a gateway in front of these servers, of which `first` is asked; `rule` is one more line for jobs."""
    (tmp_path / "workflow.json").write_text(json.dumps(WORKFLOW))

    def text(servers: Sequence[str], first: str, rule: str = "") -> str:
        made = f"{SETTINGS.format(folder=tmp_path)}{rule}\n"
        return made + "".join(
            MODEL.format(folder=tmp_path, url=url, priority=1 if url == first else 2) for url in servers
        )

    return text


@pytest.fixture
def killed(written: Callable[..., str], tmp_path: Path) -> Callable[..., Any]:
    """Submits a job to a gateway in a process of its own, and kills that in mid-run; gives the job's id."""

    async def kill(comfy: Comfy, servers: Sequence[str], **asked: Any) -> str:
        comfy.held = True
        (tmp_path / "settings.toml").write_text(written(servers, comfy.url))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gatehook", "serve", "--config", str(tmp_path / "settings.toml"),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            async with aiohttp.ClientSession() as http:
                async for line in process.stderr:
                    if found := re.search(rb"http://127\.0\.0\.1:(\d+)", line):
                        break
                else:
                    raise AssertionError("it does not start")
                body = {"model": "m", "prompt": "a cat", "async": True, **asked}
                url = f"http://127.0.0.1:{int(found[1])}/v1/images/generations"
                async with http.post(url, json=body) as answer:
                    assert answer.status == 202, await answer.text()
                    job_id = str((await answer.json())["job_id"])
            await comfy.reached.wait()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
        comfy.reached.clear()
        return job_id

    return kill


@pytest.fixture
def again(written: Callable[..., str]) -> Callable[..., AbstractAsyncContextManager[Callable[..., Any]]]:
    """Another gateway on the same database; gives what tells of a job, once that has ended."""

    @contextlib.asynccontextmanager
    async def opened(servers: Sequence[str], first: str, rule: str = "") -> AsyncIterator[Callable[..., Any]]:
        async with serving(written(servers, first, rule)) as served, aiohttp.ClientSession() as http:

            async def ended(job_id: str, *, delete: bool = False) -> Any:
                if delete:
                    async with http.delete(f"{served.url}/v1/jobs/{job_id}") as answer:
                        assert answer.status in (200, 202)
                async with http.get(f"{served.url}/v1/jobs/{job_id}/events") as answer:
                    await answer.read()
                async with http.get(f"{served.url}/v1/jobs/{job_id}") as answer:
                    return await answer.json()

            yield ended

    return opened


def submitted(comfy: Comfy) -> list[str]:
    """The ids of all runs that the server was given."""
    return [body["prompt_id"] for method, path, _, body in comfy.asked if (method, path) == ("POST", "/prompt")]


async def asked_for(comfy: Comfy, path: str) -> None:
    """Wait until somebody has asked the server for this, from now on."""
    before = len(comfy.asked)
    while not any(one[1].startswith(path) for one in comfy.asked[before:]):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_run_that_goes_on_is_taken_over(comfy: Comfy, killed: Any, again: Any) -> None:
    job_id = await killed(comfy, [comfy.url])
    async with again([comfy.url], comfy.url) as ended:
        await asked_for(comfy, "/queue")
        comfy.go.set()
        job = await ended(job_id)
    assert (job["status"], len(job["result"]["data"]), job["attempts"]) == ("succeeded", 1, 2)
    assert len(submitted(comfy)) == 1
    assert (comfy.steps, comfy.history) == (4, {})


async def test_a_run_that_has_ended_meanwhile_is_not_made_again(comfy: Comfy, killed: Any, again: Any) -> None:
    job_id = await killed(comfy, [comfy.url])
    comfy.go.set()
    while not comfy.history:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with again([comfy.url], comfy.url) as ended:
        job = await ended(job_id)
    assert (job["status"], len(job["result"]["data"])) == ("succeeded", 1)
    assert len(submitted(comfy)) == 1
    assert comfy.history == {}


async def test_one_of_several_pictures_that_was_under_way_is_made_once(comfy: Comfy, killed: Any, again: Any) -> None:
    job_id = await killed(comfy, [comfy.url], n=2, seed=5)
    async with again([comfy.url], comfy.url) as ended:
        await asked_for(comfy, "/queue")
        comfy.go.set()
        job = await ended(job_id)
    assert (job["status"], len(job["result"]["data"])) == ("succeeded", 2)
    seeds = [body["prompt"]["2"]["inputs"]["seed"] for _, path, _, body in comfy.asked if path == "/prompt" and body]
    assert seeds == [5, 6]


async def test_a_run_that_ended_badly_is_made_anew(comfy: Comfy, killed: Any, again: Any) -> None:
    job_id = await killed(comfy, [comfy.url])
    comfy._interrupted = True  # somebody at the server
    comfy.go.set()
    while not comfy.history:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with again([comfy.url], comfy.url) as ended:
        job = await ended(job_id)
    assert job["status"] == "succeeded"
    assert len(submitted(comfy)) == len(set(submitted(comfy))) == 2


async def test_a_run_that_the_server_lost_is_made_anew(comfy: Comfy, killed: Any, again: Any) -> None:
    job_id = await killed(comfy, [comfy.url])
    await comfy.restart()
    comfy.go.set()
    async with again([comfy.url], comfy.url) as ended:
        assert (await ended(job_id))["status"] == "succeeded"
    assert len(submitted(comfy)) == 2


async def test_a_job_that_is_cancelled_stops_what_was_left(comfy: Comfy, killed: Any, again: Any) -> None:
    job_id = await killed(comfy, [comfy.url], n=2)
    async with again([comfy.url], comfy.url) as ended:
        await asked_for(comfy, "/queue")
        await ended(job_id, delete=True)
        async with asyncio.timeout(5):
            while comfy.remaining:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert (len(submitted(comfy)), comfy.steps, comfy.history) == (1, 1, {})


async def test_a_run_at_another_server_is_stopped_and_nobody_else_s(
    comfy: Comfy, other_comfy: Comfy, killed: Any, again: Any
) -> None:
    job_id, both = await killed(comfy, [comfy.url, other_comfy.url]), [comfy.url, other_comfy.url]
    foreign = {"prompt": WORKFLOW, "prompt_id": str(uuid.uuid4()), "client_id": "somebody"}
    async with aiohttp.ClientSession() as http, http.post(f"{comfy.url}/prompt", json=foreign) as answer:
        assert answer.status == 200
    async with again(both, other_comfy.url) as ended:
        assert (await ended(job_id))["status"] == "succeeded"
        async with asyncio.timeout(5):
            while comfy.remaining:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert comfy.ran == [submitted(comfy)[0], foreign["prompt_id"]]
    assert list(comfy.history) == [foreign["prompt_id"]]
    assert len(submitted(other_comfy)) == 1


@pytest.mark.parametrize("rule", ["repeat = false", "max_attempts = 1"])
async def test_a_run_of_a_job_that_may_not_run_again_is_stopped(
    comfy: Comfy, killed: Any, again: Any, rule: str
) -> None:
    job_id = await killed(comfy, [comfy.url], n=2)
    async with again([comfy.url], comfy.url, rule) as ended:
        job = await ended(job_id)
        assert (job["status"], job["error"]["code"]) == ("failed", "worker_lost")
        async with asyncio.timeout(5):
            while comfy.remaining:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert (len(submitted(comfy)), comfy.steps, comfy.history) == (1, 1, {})


async def test_a_run_of_a_job_that_is_cancelled_while_it_waits_again_is_stopped(
    comfy: Comfy, killed: Any, again: Any, tmp_path: Path
) -> None:
    job_id = await killed(comfy, [comfy.url])
    with contextlib.closing(sqlite3.connect(tmp_path / "gatehook.db", isolation_level=None)) as file:
        file.execute("UPDATE jobs SET status = 'queued', owner = NULL, lease = NULL, due = due + 500000")
    async with again([comfy.url], comfy.url) as ended:
        assert (await ended(job_id, delete=True))["status"] == "cancelled"
        async with asyncio.timeout(5):
            while comfy.remaining:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert (len(submitted(comfy)), comfy.steps, comfy.history) == (1, 1, {})


# --- ids ------------------------------------------------------------------------------------------------------------

TARGETS = [Target("m", "m", "comfyui", "m"), Target("m#1", "m", "comfyui", "m")]


@given(job=st.text(min_size=1), run=st.integers(2, 5000), target=st.sampled_from(TARGETS), part=st.integers(0, 9))
def test_a_run_s_id_is_found_by_the_next_one_and_by_no_other_job(job: str, run: int, target: Target, part: int) -> None:
    before, now, other = Trace(job, run - 1), Trace(job, run), Trace(job + "x", run)
    names = [before.fresh(target, part) for _ in range(3)]
    assert len({*names, now.fresh(target, part)}) == 4
    assert set(names) <= set(now.earlier(target, part))
    assert all(now.is_left(name) and not before.is_left(name) and not other.is_left(name) for name in names)
    assert not set(names) & {*now.earlier(target, part + 1), *other.earlier(target, part)}
    assert all(str(uuid.UUID(name)) == name and uuid.UUID(name).version == 4 for name in names)


@pytest.mark.parametrize(
    ("name", "reservation"),
    [
        ("req_1", ""),
        ("job_1.2", ""),
        ("job_2.2", "job_1"),
        ("job_1.x", "job_1"),
        ("job_1", "job_1"),
        ("job_1.²", "job_1"),
    ],
)
def test_a_call_that_is_no_job_has_nothing_before_it(name: str, reservation: str) -> None:
    trace = trace_of(Call("images", "openai", {}, id=name, reservation=reservation))
    assert not trace.is_again
    assert trace.earlier(TARGETS[0], 0) == ()
    assert trace.fresh(TARGETS[0], 0) != trace.fresh(TARGETS[0], 0)
    assert not trace.is_left(trace.fresh(TARGETS[0], 0))
