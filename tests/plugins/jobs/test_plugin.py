"""Jobs over HTTP: taken, run, told of, cancelled."""

from collections.abc import Callable
from typing import Any

import pytest


async def test_an_async_chat_is_taken_at_once_and_its_answer_is_the_job_s_result(house: Callable[..., Any]) -> None:
    async with house() as open_house:
        job_id = await open_house.submit()
        job = await open_house.ended(job_id)
        assert job["job_id"] == job_id
        assert job["status"] == "succeeded"
        assert job["progress"] == 1.0
        assert job["model"] == "m"
        assert job["error"] is None
        assert job["result"]["choices"][0]["message"]["content"] == "ok"
        assert job["created_at"] <= job["started_at"] <= job["finished_at"]
