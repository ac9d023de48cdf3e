"""The test kit itself: a stub ends whenever its test does, and what is installed is found."""

import asyncio
import contextlib
from collections.abc import Callable

from gatehook.testing import Reply, StubUpstream, available


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


def test_a_distribution_is_found_that_is_put_on_the_path_after_others_were_looked_up(
    distribution: Callable[..., None],
) -> None:
    assert "acme" not in available({})
    distribution("gatehook-acme", {"acme": "specimen_acme:Plugin"})
    assert available({})["acme"].value == "specimen_acme:Plugin"
