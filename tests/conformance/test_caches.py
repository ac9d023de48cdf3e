"""The cache that is shipped keeps to everything the suite asks of a cache, in memory and in Redis."""

import pytest

from gatehook.testing.conformance import CacheConformance


class TestMemory(CacheConformance):
    plugin = "cache"
    label = "cache: memory"
    settings = "[plugins.cache]\nttl = 1\nmax_entry = 4096\n"
    ttl = 1


class TestShared(CacheConformance):
    plugin = "cache"
    label = "cache: shared by all"
    settings = '[plugins.cache]\nscope = "all"\n'
    shared = True


class TestRedis(CacheConformance):
    plugin = "cache"
    label = "cache: Redis"
    ttl = 1

    @pytest.fixture(autouse=True)
    def _in_redis(self, redis_url: str) -> None:
        table = '[plugins.cache]\nbackend = "redis"\nttl = 1\nmax_entry = 4096\n'
        self.settings = f'[redis]\nurl = "{redis_url}"\ntimeout = 5\n{table}'
