"""What a vendor of pictures makes of servers that are away, slow, cut off, or send nonsense."""

import socket

from gatehook.testing.conformance.bench import Answer
from gatehook.testing.conformance.image_vendor import ImageSuite
from gatehook.testing.conformance.images import Fate
from gatehook.testing.conformance.suite import check, expect, within

__all__ = ["ImageLines"]

_SHORT = 0.5
"""The deployment's `timeout` where the server is to take too long."""
_TOLD = frozenset({502, 503, 504})


class ImageLines(ImageSuite):
    """No fault of a connection passes for a picture, and nothing is waited for without end."""

    @check("servers away")
    async def test_a_server_that_is_not_there_is_told(self) -> None:
        self.needs_a_server()
        async with self.bench(url=_nowhere()) as bench:
            self._told(await bench.draw(), "a server that is not there")

    @check("servers lost")
    async def test_a_server_that_goes_away_in_the_middle_is_told(self) -> None:
        await self._tell("dead", "a server that went away")

    @check("cut upstreams")
    async def test_half_a_picture_is_never_taken_for_a_whole_one(self) -> None:
        await self._tell("cut", "a picture that was cut off")

    @check("odd answers")
    async def test_what_is_no_answer_of_its_dialect_is_no_picture(self) -> None:
        await self._tell("nonsense", "what is not its dialect")

    @check("no pictures")
    async def test_an_answer_without_a_picture_is_an_error(self) -> None:
        await self._tell("empty", "a job without a picture")

    async def _tell(self, fate: Fate, what: str) -> None:
        async with self.bench(fate) as bench:
            self._told(await bench.draw(), what)
            if self.shows_in_chats:
                for stream in (None, True):
                    answer = await bench.chat(stream=stream)
                    expect(not answer.ended_well, f"{what}: a chat ends as if nothing were wrong")
                    self._named(answer, what)

    def _told(self, answer: Answer, what: str) -> None:
        expect(answer.status in _TOLD, f"{what}: the client gets {answer.status} {answer.body[:200]!r}, not 502")
        self._named(answer, what)

    def _named(self, answer: Answer, what: str) -> None:
        told, code = str(answer.error.get("message")), answer.error.get("code")
        expect(self.claimed.name in told, f"{what}: the vendor is not named: {told!r}")
        expect(code != "vendor_plugin_error", f"{what}: the vendor's plugin itself falls over it")

    @check("slow upstreams")
    async def test_a_slow_server_is_waited_for_and_not_beyond_its_time(self) -> None:
        """The deployment's `timeout` holds; when it is over, the server is told to stop."""
        async with self.bench("slow") as bench:
            pictures = self.drawn(await bench.draw())
            expect(pictures == bench.made(), "what arrives is not what the server has made")
        async with self.bench("held", timeout=_SHORT) as bench:
            answer = await bench.draw()
            expect(answer.status == 504, f"the client gets {answer.status}, not 504, when the time is up")
            rested = await within(self.patience, bench.server.rested())
            expect(rested, "the server still works when the time is up: nobody told it to stop")


def _nowhere() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
