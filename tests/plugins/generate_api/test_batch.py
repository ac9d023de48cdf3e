"""Many prompts in one request: side by side, in order, and each for itself."""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gatehook.testing import Reply, StubUpstream

Api = Callable[..., AbstractAsyncContextManager[Any]]

MODELS = """
[[models]]
name = "echo"
vendor = "mock"
options = { mode = "echo" }
[[models]]
name = "slow"
vendor = "mock"
options = { mode = "echo", first_delay = 0.3 }
[[models]]
name = "broken"
vendor = "mock"
options = { fault = { kind = "status", status = 500 } }
[failover]
retries = 0
"""
BATCH = "/batch/generate"
ADMIN = "sk-admin-0123456789abcdef"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
KEPT = f"""
[database]
url = "sqlite+aiosqlite:///{{}}"
[plugins.auth_keys]
admin_keys = ["{ADMIN}"]
[plugins.database]
[plugins.ledger]
[plugins.llm_api]
"""


async def test_results_come_in_the_order_of_the_requests_and_one_that_fails_leaves_the_others(api: Api) -> None:
    async with api(MODELS) as ask:
        requests: list[Any] = [{"prompt": f"number {number}", "max_tokens": 20} for number in range(20)]
        requests[3] = {"prompt": "x", "model": "broken"}
        requests[5] = {"prompt": "x", "max_tokens": 0}
        requests[7] = "no object"
        requests[9] = {"prompt": "x", "model": "none"}
        requests[11]["stream"] = True
        answer = await ask("POST", BATCH, {"requests": requests})
        assert answer.status == 200
        assert set(answer.json) == {"results"}
        results = answer.json["results"]
        assert len(results) == 20
        codes = {3: "MODEL_UNAVAILABLE", 5: "INVALID_REQUEST", 7: "INVALID_REQUEST", 9: "MODEL_NOT_FOUND"}
        for number, result in enumerate(results):
            if number in codes:
                assert result["error"]["code"] == codes[number]
            else:
                assert set(result) == {"text", "usage"}
                assert result["text"] == f"number {number}"
                assert result["usage"]["total_tokens"] > 0


async def test_they_run_side_by_side(api: Api) -> None:
    async with api(MODELS) as ask:
        began = time.monotonic()
        answer = await ask("POST", BATCH, {"requests": [{"prompt": "x", "model": "slow"}] * 10})
        assert [result["text"] for result in answer.json["results"]] == ["x"] * 10
        assert time.monotonic() - began < 10 * 0.3, "one after another would take longer than this"


@pytest.mark.parametrize(
    "body", [{}, {"requests": []}, {"requests": {}}, {"requests": [{"prompt": "x"}] * 101}, b"[", b"", b"[]"]
)
async def test_a_batch_that_is_none_is_refused(api: Api, body: Any) -> None:
    async with api(MODELS) as ask:
        (await ask("POST", BATCH, body)).error(400, "INVALID_REQUEST")


@pytest.mark.parametrize("path", [BATCH, "/models/echo/load", "/generate"])
async def test_what_is_no_json_or_too_large_is_an_invalid_request_at_every_path(api: Api, path: str) -> None:
    """This API's clients know no 413 and no 415."""
    async with api(MODELS, more='[server]\nmax_body = "1KB"\n') as ask:
        typed = await ask("POST", path, {"prompt": "x"}, **{"Content-Type": "text/plain"})
        assert typed.error(400, "INVALID_REQUEST")["details"]["reason"] == "unsupported_media_type"
        large = (await ask("POST", path, {"prompt": "x" * 2000})).error(400, "INVALID_REQUEST")
        assert large["details"]["reason"] == "request_too_large"


async def test_each_of_them_counts_against_the_limits_of_its_caller(api: Api, tmp_path: Path) -> None:
    more = '[plugins.auth_keys]\nkeys = ["sk-0123456789abcdef"]\n[plugins.rate_limit]\nrequests_per_minute = 3\n'
    async with api(MODELS, more=more) as ask:
        (await ask("POST", BATCH, {"requests": [{"prompt": "x"}]})).error(401, "UNAUTHORIZED")
        answer = await ask(
            "POST", BATCH, {"requests": [{"prompt": "x"}] * 5}, Authorization="Bearer sk-0123456789abcdef"
        )
        codes = [result.get("error", {}).get("code") for result in answer.json["results"]]
        assert codes == [None, None, None, "RATE_LIMIT_EXCEEDED", "RATE_LIMIT_EXCEEDED"]


async def test_what_a_limit_of_requests_at_the_same_time_refuses_is_tried_again_when_another_has_ended(
    api: Api,
) -> None:
    async with api(MODELS, more="[plugins.rate_limit.models.slow]\nconcurrent_requests = 3\n") as ask:
        requests = [{"prompt": f"number {number}", "model": "slow"} for number in range(12)]
        results = (await ask("POST", BATCH, {"requests": requests})).json["results"]
        assert [result.get("text") for result in results] == [request["prompt"] for request in requests]
        told = (await ask("GET", "//metrics")).body.decode()
        counted = re.findall(r'requests_total{.*outcome="rejected".*} (\d+)', told)
        assert counted == ["9"], "once it is known how many may run, no more are tried"


async def test_what_is_reserved_by_others_of_the_batch_is_waited_for(api: Api, tmp_path: Path) -> None:
    more = KEPT.format(tmp_path / "g.db") + "[plugins.quota]\ntokens = 700\n"
    async with api(MODELS, more=more) as ask:
        requests = [{"prompt": "x", "model": "slow", "max_tokens": 300}] * 6
        results = (await ask("POST", BATCH, {"requests": requests}, **AS_ADMIN)).json["results"]
        assert [result.get("text") for result in results] == ["x"] * 6, results


async def test_requests_of_others_are_not_waited_for(api: Api) -> None:
    more = '[plugins.auth_keys]\nkeys = ["sk-0123456789abcdef"]\n[plugins.rate_limit]\nconcurrent_requests = 1\n'
    async with api(MODELS, more=more) as ask:
        key = {"Authorization": "Bearer sk-0123456789abcdef"}
        other = asyncio.create_task(ask("POST", "/generate", {"prompt": "x", "model": "slow"}, **key))
        await asyncio.sleep(0.1)
        results = (await ask("POST", BATCH, {"requests": [{"prompt": "x"}] * 20}, **key)).json["results"]
        assert {result["error"]["code"] for result in results} == {"RATE_LIMIT_EXCEEDED"}
        assert (await other).status == 200


async def test_each_of_them_tells_which_parameters_were_dropped(api: Api) -> None:
    message = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    async with StubUpstream(Reply.of_json(message)) as upstream:
        claude = f'[[models]]\nname = "c"\nvendor = "anthropic"\nbase_url = "{upstream.url}"\napi_key = "sk-ant"\n'
        async with api(MODELS + claude, more="[plugins.vendor_anthropic]\n") as ask:
            requests = [{"prompt": "x", "model": "c", "seed": 1, "no_such": 2}, {"prompt": "x", "model": "c"}]
            first, second = (await ask("POST", BATCH, {"requests": requests})).json["results"]
    assert (first["text"], first["dropped_params"]) == ("Hi", ["seed", "no_such"])
    assert (second["text"], "dropped_params" in second) == ("Hi", False)


async def test_each_of_them_is_a_row_of_the_ledger(api: Api, tmp_path: Path) -> None:
    async with api(MODELS, more=KEPT.format(tmp_path / "g.db")) as ask:
        requests = [{"prompt": "x"}, {"prompt": "y"}, {"prompt": "x", "model": "broken"}]
        assert (await ask("POST", BATCH, {"requests": requests}, **AS_ADMIN)).status == 200
        usage = (await ask("GET", "//api/llm/stats/usage", **AS_ADMIN)).json
        assert usage["total_requests"] == 3, usage
