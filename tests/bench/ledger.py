"""How fast the ledger is: what one request costs the event loop, and rows a second into the database, sustained.

python tests/bench/ledger.py [ROWS] [DATABASE_URL]; by default 100,000 rows into a new SQLite file.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from gatehook import Call, Document, Outcome, Principal, SecretStr, Services, Target, Usage, encode
from gatehook.accounts import Pricing
from gatehook.catalog import LiveCatalog
from gatehook.services import DATABASE
from gatehook_plugins.database.address import backend_of
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.ledger.recorder import Recorder
from gatehook_plugins.ledger.service import GroupLedger

TARGET = Target("gpt#1", "gpt", "openai", "gpt-2024", pricing=Pricing(2_500_000, 10_000_000))
BODY = encode({"model": "gpt", "messages": [{"role": "user", "content": "How do I boil an egg? " * 10}]})
OUTCOME = Outcome("complete", 200, Usage(123, 456, cached_tokens=100), duration=1.234, first_token=0.2)
ANN = Principal("ann", key_id="key_1")
AT_ONCE = 100
"""Requests that are under way together."""


def call() -> Call:
    """A request that has been answered."""
    made = Call("chat", "openai", {}, principal=ANN, model="gpt", body=Document(raw=BODY))
    made.target, made.attempts = TARGET, 1
    return made


async def main(count: int, url: str, folder: Path) -> None:
    """Measure and print."""
    database = SqlDatabase(backend_of(SecretStr(url), folder, pool_size=5, timeout=5.0), 5.0)
    services = Services()
    services.provide(DATABASE, database, "bench")
    ledger = GroupLedger(services)
    recorder = Recorder(LiveCatalog([TARGET]), ledger)
    async with database.opened(), ledger.lifespan(folder / "journal", 0.05, lambda: False):
        calls = [call() for _ in range(count)]
        for one in calls:
            _ = one.payload  # decoded by the surface or the vendor, not by the ledger
        spent, began, cpu = 0.0, time.perf_counter(), time.process_time()
        for place in range(0, count, AT_ONCE):
            group = calls[place : place + AT_ONCE]
            start = time.perf_counter()
            for one in group:
                recorder.admit(one)
            for one in group:
                recorder.finished(one, OUTCOME)
            spent += time.perf_counter() - start
            await asyncio.sleep(0)
        await ledger.flush()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        (total,) = await ledger.usage(0, 1 << 60)
    assert total.requests == count
    print(f"admit and finished:    {spent / count * 1e6:8.1f} us a request, two lines of the journal included")
    print(f"all, until committed:  {cpu / count * 1e6:8.1f} us of CPU a row")
    print(f"sustained:             {count / took:8.0f} rows/s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
        address = sys.argv[2] if len(sys.argv) > 2 else "sqlite+aiosqlite:///bench.db"
        asyncio.run(main(rows, address, Path(made)))
