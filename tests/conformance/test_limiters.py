"""The limiters that are shipped keep to everything the suite asks of a limiter."""

from pathlib import Path

import pytest

from gatehook.testing.conformance import LimiterConformance

ONLY = "\n[plugins.rate_limit]\n"


class TestConcurrency(LimiterConformance):
    plugin = "rate_limit"
    label = "rate_limit: at once"
    settings = ONLY + "concurrent_requests = 3\n"


class TestTokens(LimiterConformance):
    plugin = "rate_limit"
    label = "rate_limit: tokens"
    settings = ONLY + "tokens_per_minute = 90\n"


class TestRequests(LimiterConformance):
    plugin = "rate_limit"
    label = "rate_limit: requests"
    settings = ONLY + "requests_per_minute = 3\n"
    frees = False


class TestConcurrencyInRedis(LimiterConformance):
    plugin = "rate_limit"
    label = "rate_limit: at once, Redis"

    @pytest.fixture(autouse=True)
    def _in_redis(self, redis_url: str) -> None:
        self.settings = f'[redis]\nurl = "{redis_url}"\ntimeout = 10\n{ONLY}concurrent_requests = 3\n'


class TestTokensInRedis(LimiterConformance):
    plugin = "rate_limit"
    label = "rate_limit: tokens, Redis"

    @pytest.fixture(autouse=True)
    def _in_redis(self, redis_url: str) -> None:
        self.settings = f'[redis]\nurl = "{redis_url}"\ntimeout = 10\n{ONLY}tokens_per_minute = 90\n'


class TestQuota(LimiterConformance):
    plugin = "quota"

    @pytest.fixture(autouse=True)
    def _with_a_database(self, tmp_path: Path) -> None:
        database = f'[database]\nurl = "sqlite+aiosqlite:///{tmp_path}/gatehook.db"\n'
        ledger = f'[plugins.database]\n[plugins.ledger]\ndirectory = "{tmp_path}/ledger"\n'
        self.settings = f"{database}{ledger}[plugins.quota]\ntokens = 318\n"
