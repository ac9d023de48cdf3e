"""Who takes the next connection of a shared socket."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from gatehook.serving.accepting import Acceptor, Loads, SharedSocket


class Handler(asyncio.Protocol):
    """One connection, among those of its worker."""

    def __init__(self, house: "House") -> None:
        self._house = house

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._house.guests.add(transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._house.guests.discard(self._transport)
        self._house.door.left()


class House:
    """A worker: its door and who is in."""

    def __init__(self, shared: SharedSocket, worker: int) -> None:
        self.guests: set[asyncio.BaseTransport] = set()
        own = SharedSocket(shared.sock.dup(), shared.loads)  # as after a fork
        self.door = Acceptor(own, lambda: Handler(self), worker)
        self.door.open()

    async def end(self) -> None:
        if self.door._sock.fileno() >= 0:
            await self.door.close()
        for guest in self.guests:
            guest.close()


@pytest.fixture
def shared() -> Iterator[SharedSocket]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0), backlog=200)) as sock:
        yield SharedSocket(sock)


@pytest.fixture
async def house(shared: SharedSocket) -> AsyncIterator[Callable[[int], House]]:
    """Opens the door of a worker."""
    houses: list[House] = []

    def opened(worker: int) -> House:
        houses.append(House(shared, worker))
        return houses[-1]

    yield opened
    for one in houses:
        await one.end()


class Visitors:
    """Clients that stay."""

    def __init__(self, shared: SharedSocket) -> None:
        self._address = shared.sock.getsockname()
        self.writers: list[asyncio.StreamWriter] = []

    async def come(self, count: int) -> None:
        for _, writer in await asyncio.gather(*(asyncio.open_connection(*self._address) for _ in range(count))):
            self.writers.append(writer)

    async def go(self) -> None:
        for writer in self.writers:
            writer.close()
            await writer.wait_closed()
        self.writers = []


@pytest.fixture
async def visitors(shared: SharedSocket) -> AsyncIterator[Visitors]:
    made = Visitors(shared)
    yield made
    await made.go()


async def reached(condition: Callable[[], bool]) -> bool:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the doors tell nobody
            await asyncio.sleep(0.001)
    return True


async def test_connections_are_spread_evenly(house: Callable[[int], House], visitors: Visitors) -> None:
    houses = [house(worker) for worker in range(4)]
    await visitors.come(100)
    assert await reached(lambda: sum(len(one.guests) for one in houses) == 100)
    assert all(20 <= len(one.guests) <= 30 for one in houses)


async def test_whoever_comes_later_catches_up(house: Callable[[int], House], visitors: Visitors) -> None:
    first = house(0)
    await visitors.come(40)
    assert await reached(lambda: len(first.guests) == 40)
    second = house(1)
    await visitors.come(30)
    assert await reached(lambda: len(first.guests) + len(second.guests) == 70)
    assert len(second.guests) >= 20


async def test_a_worker_that_does_not_take_its_turn_holds_nobody_up(
    shared: SharedSocket, house: Callable[[int], House], visitors: Visitors
) -> None:
    shared.loads.join(7)
    only = house(0)
    await visitors.come(100)
    assert await reached(lambda: len(only.guests) == 100)


async def test_who_has_left_does_not_count(
    shared: SharedSocket, house: Callable[[int], House], visitors: Visitors
) -> None:
    only = house(0)
    await visitors.come(30)
    assert await reached(lambda: len(only.guests) == 30)
    await visitors.go()
    assert await reached(lambda: not only.guests)
    shared.loads.join(1)
    assert shared.loads.lead(0) == 0


def test_a_worker_that_is_away_has_no_lead_over_anybody() -> None:
    loads = Loads()
    loads.join(3)
    loads.change(3, 5)
    assert loads.lead(3) == 0
    loads.join(4)
    assert loads.lead(3) == 5
    loads.leave(4)
    assert loads.lead(3) == 0


async def test_a_closed_door_lets_nobody_in(
    shared: SharedSocket, house: Callable[[int], House], visitors: Visitors
) -> None:
    first, second = house(0), house(1)
    await first.door.close()
    await visitors.come(20)
    assert await reached(lambda: len(second.guests) == 20)
    assert first.guests == set()


async def test_without_file_descriptors_it_waits_and_goes_on(
    shared: SharedSocket,
    house: Callable[[int], House],
    visitors: Visitors,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("gatehook.serving.accepting._RECOVERY", 0.05)

    class Poor:
        """A socket of a process that has too many files open, at first."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock, self.refusals = sock, 3

        def accept(self) -> tuple[socket.socket, object]:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self._sock.accept()

        def fileno(self) -> int:
            return self._sock.fileno()

        def close(self) -> None:
            self._sock.close()

    one = house(0)
    monkeypatch.setattr(one.door, "_sock", Poor(one.door._sock))
    await visitors.come(5)
    assert await reached(lambda: len(one.guests) == 5)
    assert caplog.messages == ["connections cannot be accepted: Too many open files"] * 3
