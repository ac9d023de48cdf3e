"""A hit with ledger, budgets and rate limits on: it is counted as a request, and as nothing else."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gatehook import LEDGER, QUOTAS

Gateway = Callable[..., AbstractAsyncContextManager[Any]]

ACCOUNTS = """
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.ledger]
directory = "{folder}"
[plugins.quota]
tokens = 1000000
[plugins.rate_limit]
requests_per_minute = {requests}
tokens_per_minute = 100000
[plugins.metrics]
"""


async def left(answer: Any) -> tuple[int, int]:
    """Requests and tokens that the rate limit leaves."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return int(headers["x-ratelimit-remaining-requests"]), int(headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hit_is_a_request_without_tokens_or_cost(
    gateway: Gateway, database_url: str, tmp_path: Path, stream: bool
) -> None:
    settings = ACCOUNTS.format(url=database_url, folder=tmp_path / "ledger", requests=4)
    async with gateway("", settings) as client:
        answers = []
        for number in range(5):
            answers.append(await client.ask(stream=stream, max_tokens=200))
            await client.stage.until(lambda: len(client.stage.outcomes) >= len(answers))
            if number == 0:
                used = await client.gateway.services[QUOTAS].used("ann")
        rows = await client.gateway.services[LEDGER].rows()
        assert await client.gateway.services[QUOTAS].used("ann") == used
        async with client.session.get(f"{client.url}/metrics") as page:
            metrics = await page.text()
    assert [one.cache for one in answers] == ["miss", "hit", "hit", "hit", None]
    assert [one.status for one in answers] == [200, 200, 200, 200, 429]
    assert [row.outcome for row in reversed(rows)] == ["complete", "cached", "cached", "cached", "rejected"]
    assert [row.tokens for row in reversed(rows)] == [100, 0, 0, 0, 0]
    assert [row.cost > 0 for row in reversed(rows)] == [True, False, False, False, False]
    assert used["all"][0] == 100
    requests, tokens = zip(*[await left(one) for one in answers[:4]], strict=True)
    assert requests == (3, 2, 1, 0)
    # Each shows what is left while it is running itself: all that is used up is the first one's.
    assert tokens[1] == tokens[2] == tokens[3] == tokens[0] - 100
    assert 'outcome="cached"' in metrics or 'status="cached"' in metrics


async def test_nobody_can_read_what_the_quota_forbids_but_a_hit_is_free(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    settings = ACCOUNTS.format(url=database_url, folder=tmp_path / "ledger", requests=1000)
    settings = settings.replace("tokens = 1000000", "tokens = 350")
    async with gateway("", settings) as client:
        marks = []
        for number in range(20):
            answer = await client.ask(max_tokens=200)
            await client.stage.until(lambda wanted=number + 1: len(client.stage.outcomes) >= wanted)
            marks.append(answer.cache)
        assert marks == ["miss"] + ["hit"] * 19
        assert (await client.gateway.services[QUOTAS].used("ann"))["all"][0] == 100
