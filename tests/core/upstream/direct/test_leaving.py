"""However a request ends, nothing of it stays."""

import asyncio
import contextlib
import importlib.util
import socket
from typing import Any

import pytest
from aiohttp import ClientError

from gatehook.upstream import direct

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class TestLeaving:
    """However a request ends, nothing of it stays: no task, no open connection, nothing half read in the pool."""

    @pytest.fixture(params=["http", "https"])
    def rig(self, request: pytest.FixtureRequest, rigs: Any) -> Any:
        return rigs[request.param]

    @staticmethod
    async def cancelled(work: asyncio.Task[Any]) -> None:
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    async def test_cancelled_while_connecting(self, pool: direct.Pool, rig: Any) -> None:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):  # fill its queue: further connections get no answer
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            work = asyncio.create_task(rig.get(pool, f"http://127.0.0.1:{listener.getsockname()[1]}/"))
            await asyncio.sleep(0.05)
            assert not work.done()
            await self.cancelled(work)
        assert not pool._open

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 100 C\r\n\r\n", OK[:20]])
    async def test_cancelled_while_waiting_for_the_head(self, said: bytes, pool: direct.Pool, rig: Any) -> None:
        asked = asyncio.Event()
        gone = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await rig.head_of(reader)
            writer.write(said)
            asked.set()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            gone.set()

        async with rig.server(silent) as url:
            work = asyncio.create_task(rig.get(pool, url))
            await asyncio.wait_for(asked.wait(), 5)
            await self.cancelled(work)
            await asyncio.wait_for(gone.wait(), 5)
            await rig.until(lambda: not pool._open)

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_cancelled_at_any_step_of_the_loop(self, loop: str, rig: Any) -> None:
        if loop == "uvloop" and not importlib.util.find_spec("uvloop"):
            pytest.skip("uvloop is not installed")
        seen = 0

        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            seen += 1
            try:
                await rig.saying(OK, then="next")(reader, writer)
            finally:
                seen -= 1

        async def work() -> None:
            pool, finished = rig.pool(), 0
            async with rig.server(counted) as url:
                for steps in range(60):
                    task = asyncio.create_task(rig.ask(pool, url))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        finished += await task == b"ok"
                    await rig.until(lambda: seen == len(pool._open) == rig.idle(pool))
                    assert await rig.ask(pool, url) == b"ok"
                    if steps % 2:  # half the time there is none to be used again
                        pool.close()
                assert finished < 60
                pool.close()
                await rig.until(lambda: not pool._open)

        if loop == "uvloop":
            import uvloop

            uvloop.run(work())
        else:
            asyncio.run(work())

    async def test_a_server_that_never_reads_does_not_hold_the_connection(self, pool: direct.Pool, rig: Any) -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            work = asyncio.create_task(
                rig.get(pool, f"http://127.0.0.1:{listener.getsockname()[1]}/", bytes(20_000_000))
            )
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            with accepted:
                await rig.until(lambda: len(pool._open) == 1)
                await asyncio.sleep(0.01)
                await self.cancelled(work)
                await rig.until(lambda: not pool._open)

    async def test_a_connection_in_use_when_the_server_goes_is_told_as_such(self, pool: direct.Pool, rig: Any) -> None:
        async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await rig.head_of(reader)

        async with rig.server(leaves) as url:
            with pytest.raises((ClientError, OSError)):
                await rig.get(pool, url)
            await rig.until(lambda: not pool._open)

    async def test_connecting_has_its_limit(self, monkeypatch: pytest.MonkeyPatch, rig: Any) -> None:
        async def never(*args: Any, **rest: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr("gatehook.upstream.dialing.start_connection", never)
        with pytest.raises(TimeoutError):
            await rig.get(rig.pool(0.02), "http://127.0.0.1:1/")
