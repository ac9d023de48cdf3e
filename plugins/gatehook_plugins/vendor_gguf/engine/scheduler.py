"""The thread that computes: each step gives a token to every running text, and reads a part of the prompts."""

import asyncio
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import Final

from msgspec import Struct

from gatehook_plugins.vendor_gguf.engine.cores import cores
from gatehook_plugins.vendor_gguf.engine.costs import StepCosts
from gatehook_plugins.vendor_gguf.engine.errors import Busy, EngineError
from gatehook_plugins.vendor_gguf.engine.jobs import Job, Mail, News, joined
from gatehook_plugins.vendor_gguf.engine.llama import Context, Model
from gatehook_plugins.vendor_gguf.engine.sampling import GrammarEnded, TokenChance, chances
from gatehook_plugins.vendor_gguf.engine.slots import Slot, Slots

__all__ = ["Scheduler", "Status"]

_WAITING: Final = 64
"""So many jobs may wait for each slot."""
_PAUSE: Final = 0.1
"""The seconds of a step that reads prompts beside other jobs: so long it may hold up the others."""
_ALONE: Final = 0.5
"""The seconds of a step that reads a prompt alone: after each it is seen whether the client has left."""
_SMALLEST: Final = 16
"""The fewest tokens of a prompt that are worth a step."""
_WEIGHT: Final = 0.2
"""The weight of the last measurement in the moving averages."""
_NO_ROOM: Final = 1

_PACE: Final = 0.016
"""News of so many seconds is delivered together: nobody reads faster, and a delivery wakes two or three processes."""
_PACE_ON_ALL: Final = 0.1
"""The same where the computing has all cores: each delivery halts it for about a millisecond."""
_SLOW: Final = 0.04
"""The tokens of a step that takes longer are delivered at once: they come no faster than people read."""


class Status(Struct):
    """How busy the engine is."""

    active: int
    """Jobs that have a slot."""
    queued: int
    """Jobs that wait for one."""
    kv_used: int
    """Cells of the key-value cache that hold a token."""
    kv_total: int
    tokens_per_second: float
    """Tokens written per second, in the last seconds."""


class Scheduler:
    """Continuous batching on one context."""

    def __init__(self, model: Model, context: Context, *, slots: int, length: int) -> None:
        """Start the thread; call it on the event loop.

        Args:
            model: the context's model.
            context: belongs to the thread from now on.
            slots: sequences of the context.
            length: the most tokens of a sequence.
        """
        self.length = length
        self._model = model
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._slots = Slots(context, slots)
        self._costs = StepCosts(slots)
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._room = _WAITING * slots
        self._queued = 0
        """Jobs that were submitted so far; only the event loop counts here."""
        self._placed = 0
        """Jobs of these that no longer wait; only the thread counts here."""
        self._reading = 0.0
        """Tokens of prompts that are read in a second; 0 if none was measured yet."""
        self._took = 0.0
        """Seconds that a job takes, on average."""
        self._steps = 0
        self._news: dict[Job, list[News]] = {}
        """News that was not delivered yet."""
        self._pace = _PACE if context.threads < cores() else _PACE_ON_ALL
        self._urgent = False
        """Whether the first or the last news of a job is among it, which does not wait for the pace."""
        self._told_at = 0.0
        self._rate = _Rate()
        self._closing = False
        self._resting = False
        """Whether the thread has nothing to do."""
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    # The event loop's side.

    def submit(self, jobs: Sequence[Job]) -> Mail:
        """Queue jobs, all or none; gives their mail.

        Raises:
            Busy: too many wait.
        """
        waiting = self._queued - self._placed
        if waiting and waiting + len(jobs) > self._room:
            raise Busy(waiting, max(1, min(60, round(waiting * self._took / len(self._slots.all)))))
        self._queued += len(jobs)
        mail = Mail(jobs, self._wake)
        for job in jobs:
            self._inbox.put(job)
        return mail

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Stop jobs before the next step; there is no more news of them."""
        for job in jobs:
            job.cancelled = True
        self._wake()

    def status(self) -> Status:
        """How busy the engine is just now."""
        return Status(
            active=len(self._slots.busy),
            queued=self._queued - self._placed,
            kv_used=self._slots.used,
            kv_total=self.length * len(self._slots.all),
            tokens_per_second=round(self._rate.now(), 1),
        )

    @property
    def progress(self) -> int | None:
        """How many steps were computed; None if there is nothing to do."""
        return None if self._resting else self._steps

    async def close(self) -> None:
        """End the thread; running jobs are not finished."""
        self._closing = True
        self._wake()
        await asyncio.to_thread(self._thread.join)

    def _wake(self) -> None:
        self._inbox.put(None)

    # The thread's side.

    def _run(self) -> None:
        while not self._closing:
            self._resting = not self._step()
            self._receive(wait=self._resting)

    def _receive(self, *, wait: bool) -> None:
        """Take submitted jobs from the inbox; with `wait`, wait for something to come."""
        try:
            while True:
                job = self._inbox.get(block=wait)
                self._resting = False
                if job is not None:
                    self._waiting.append(job)
                wait = False
        except Empty:
            pass

    def _step(self) -> bool:
        """Compute one step, and deliver what it brings; False if there is nothing to compute."""
        self._drop_cancelled()
        self._place()
        chosen, took = self._choose()
        if len(chosen) < len(took) or not took:  # prompts take long to read
            self._tell()
        if not took:
            return False
        self._steps += 1
        began = time.monotonic()
        try:
            self._compute(chosen, took)
        except Exception as error:  # noqa: BLE001  # a fault of ours ends these answers, not the engine
            traceback.print_exc(file=sys.stderr)
            self._fail(took, EngineError(f"the engine failed: {type(error).__name__}: {error}"))
        now = time.monotonic()
        if self._urgent or now - self._told_at >= self._pace or now - began >= _SLOW:
            self._tell()
        return True

    def _tell(self) -> None:
        """Deliver what is new; of answers that are wanted whole, only when they are complete."""
        self._urgent = False
        if due := [job for job, news in self._news.items() if not job.whole or news[-1].last]:
            told = [(job, joined(self._news.pop(job))) for job in due]
            self._told_at = time.monotonic()
            self._loop.call_soon_threadsafe(_deliver, told)

    def _note(self, job: Job, news: News) -> None:
        """Keep news to be delivered, with what else is new about the job."""
        self._news.setdefault(job, []).append(news)
        self._urgent |= news.last or not (job.begun or job.whole)
        job.begun = True

    def _drop_cancelled(self) -> None:
        for slot in self._slots.busy:
            if slot.job is not None and slot.job.cancelled:
                self._news.pop(slot.job, None)
                self._end(slot)
        if any(job.cancelled for job in self._waiting):
            before = len(self._waiting)
            self._waiting = deque(job for job in self._waiting if not job.cancelled)  # asked once: more leave meanwhile
            self._placed += before - len(self._waiting)

    def _place(self) -> None:
        """Give slots to waiting jobs in their order; one that waits for another's prompt lets others pass."""
        if self._waiting:
            before = len(self._waiting)
            self._waiting = deque(job for job in self._waiting if not self._slots.place(job, time.monotonic()))
            self._placed += before - len(self._waiting)

    def _choose(self) -> tuple[list[Slot], list[tuple[Slot, int]]]:
        """The slots that get a token in the next step; and all of its slots, each with how many tokens are computed."""
        ready = [slot for slot in self._slots.busy if slot.job is not None and not slot.job.stalled]
        writers = [slot for slot in ready if not slot.reading]
        size = self._costs.choose(len(writers))
        chosen = sorted(writers, key=lambda slot: slot.turn)[:size]
        took = [(slot, 1) for slot in chosen]
        room = self._chunk(_ALONE if len(ready) == 1 else _PAUSE) - len(took)
        took += _shares([slot for slot in ready if slot.reading], room)
        return chosen, sorted(took, key=lambda each: each[0].sequence)

    def _chunk(self, seconds: float) -> int:
        """How many tokens of prompts can be read in so many seconds, within bounds."""
        size = self._context.size
        if not self._reading:
            return min(size, 4 * _SMALLEST + len(self._slots.all))
        return max(min(size, _SMALLEST + len(self._slots.all)), min(size, int(self._reading * seconds)))

    def _compute(self, chosen: Sequence[Slot], took: Sequence[tuple[Slot, int]]) -> None:
        filled = 0
        outputs: list[tuple[Slot, int]] = []
        for slot, tokens in took:
            last = tokens == len(slot.pending)
            filled = self._context.put(filled, slot.sequence, len(slot.cells), slot.pending[:tokens], output=last)
            if last:
                outputs.append((slot, filled - 1))
        began = time.perf_counter()
        code = self._context.compute(filled)
        if code == _NO_ROOM:
            self._slots.forget([slot for slot in self._slots.all if slot.job is None])
            code = self._context.compute(filled)
        if code:
            why = "no room is left in its memory" if code == _NO_ROOM else f"llama_decode gave {code}"
            self._fail(took, EngineError(f"the step could not be computed: {why}"))
            return
        self._measure(time.perf_counter() - began, len(chosen), filled)
        for slot, tokens in took:
            slot.cells += slot.pending[:tokens]
            slot.pending = slot.pending[tokens:]
            slot.turn = self._steps
        for slot, index in outputs:
            self._write(slot, index)
        self._rate.add(len(outputs))

    def _measure(self, seconds: float, writers: int, tokens: int) -> None:
        """Learn what steps cost: those of texts alone by the number of texts, prompts by the token."""
        if tokens == writers:
            self._costs.record(writers, seconds)
        elif (read := tokens - writers) >= _SMALLEST:
            rate = read / max(seconds - (self._costs.seconds(writers) or 0.0 if writers else 0.0), seconds / 4)
            self._reading += (rate - self._reading) * (_WEIGHT if self._reading else 1.0)

    def _write(self, slot: Slot, index: int) -> None:
        """Choose the next token of a slot's text, and note what it brings."""
        job, chance = slot.job, None
        assert job is not None  # noqa: S101
        try:
            token = job.sampler.choose(self._context, index)
        except GrammarEnded:
            news = News(reason="stop")
        else:
            if job.top is not None:
                chance = self._chances(job.top, index, token)
            news = job.take(self._model, token, chance)
            slot.pending = [token]
        if news.text or news.chances or news.last:
            self._note(job, news)
        if news.last:
            self._end(slot)

    def _chances(self, top: int, index: int, token: int) -> tuple[TokenChance, list[TokenChance]]:
        return chances(self._context, index, token, self._model.tokens, top)

    def _end(self, slot: Slot) -> None:
        assert slot.job is not None  # noqa: S101
        took = time.monotonic() - slot.job.placed_at
        self._took += (took - self._took) * (_WEIGHT if self._took else 1.0)
        self._slots.release(slot)

    def _fail(self, took: Sequence[tuple[Slot, int]], failure: EngineError) -> None:
        for slot, _ in took:
            if slot.job is not None:
                self._note(slot.job, News(failure=failure))
                self._end(slot)
        self._slots.forget([slot for slot, _ in took])


def _shares(readers: Sequence[Slot], room: int) -> list[tuple[Slot, int]]:
    """How many tokens are read of which prompts.

    The shortest come first, so that most texts begin soon; the oldest always gets a part, so that it is never left out.
    """
    if not readers:
        return []
    oldest = min(readers, key=_age)
    shares = dict.fromkeys(readers, 0)
    shares[oldest] = min(len(oldest.pending), max(1, room // 4))
    for slot in sorted(readers, key=lambda slot: (len(slot.pending), _age(slot))):
        left = max(0, room - sum(shares.values()))
        shares[slot] += min(len(slot.pending) - shares[slot], left)
    return [(slot, tokens) for slot, tokens in shares.items() if tokens]


def _age(slot: Slot) -> float:
    return slot.job.placed_at if slot.job else 0.0


class _Rate:
    """Counts tokens per second, over the last seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=5)

    def add(self, tokens: int) -> None:
        now = int(time.monotonic())
        if self._seconds and self._seconds[-1][0] == now:
            tokens += self._seconds.pop()[1]
        self._seconds.append((now, tokens))

    def now(self) -> float:
        """The average of the whole seconds before this one."""
        now = int(time.monotonic())
        recent = [tokens for second, tokens in list(self._seconds) if now - 5 < second < now]
        return sum(recent) / max(1, len(recent))


def _deliver(told: Iterable[tuple[Job, News]]) -> None:
    for job, news in told:
        job.mail.put(job, news)
