"""The test kit itself: a stub ends whenever its test does."""

import asyncio
import contextlib

from gatehook.testing import Reply, StubUpstream


async def test_a_stub_ends_at_whatever_step_of_an_answer_it_is_left() -> None:
    for steps in range(40):
        async with asyncio.timeout(5), StubUpstream(Reply(body=b"x")) as stub:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(stub.url.rpartition(":")[2]))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            for _ in range(steps):
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)  # to its end: the stub has closed it
        assert stub.open == 0
        writer.close()
