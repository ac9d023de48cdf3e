"""One text to be written, and what is told about it while it is."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Literal

from msgspec import Struct

from gatehook_plugins.vendor_gguf.engine.errors import EngineError
from gatehook_plugins.vendor_gguf.engine.llama import Model
from gatehook_plugins.vendor_gguf.engine.sampling import Sampler, TokenChance
from gatehook_plugins.vendor_gguf.engine.text import Withheld

__all__ = ["Chance", "Job", "Mail", "News", "Reason", "joined"]

Reason = Literal["stop", "length"]
_UNREAD: Final = 256
"""Tokens that nobody has taken yet, after which no more are written."""


class Chance(Struct):
    """A token of the answer, its chance, and what else was likely."""

    at: int
    """The character of the answer it begins at."""
    chosen: TokenChance
    likeliest: list[TokenChance]


class News(Struct):
    """What a few steps brought."""

    text: str = ""
    chances: Sequence[Chance] = ()
    reason: Reason | None = None
    """Why it is over, if it is."""
    failure: EngineError | None = None

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return self.reason is not None or self.failure is not None


def joined(news: Sequence[News]) -> News:
    """All of them as one, in their order; at least one."""
    if len(news) == 1:
        return news[0]
    chances = [chance for each in news for chance in each.chances]
    return News("".join(each.text for each in news), chances, news[-1].reason, news[-1].failure)


class Job:
    """Asked for on the event loop, written by the thread that computes."""

    def __init__(
        self,
        prompt: list[int],
        most: int,
        sampler: Sampler,
        *,
        stops: Sequence[str] = (),
        special: bool = False,
        top: int | None = None,
        whole: bool = False,
    ) -> None:
        """Nothing is begun by this.

        Args:
            prompt: its tokens, at least one.
            most: tokens of the answer, at least one; with the prompt no more than the context has.
            sampler: of this job alone.
            stops: texts that end the answer, and are no part of it.
            special: whether control tokens show in the text.
            top: how many likely tokens to tell beside each; None for no chances at all.
            whole: whether nobody wants to hear of it before it is over.
        """
        self.prompt = prompt
        self.most = most
        self.special = special
        self.whole = whole
        self.begun = False
        """Whether there was anything to tell of it."""
        self.cached = 0
        """Tokens of the prompt that did not have to be computed."""
        self.written = 0
        """Tokens of the answer."""
        self.cancelled = False
        self._sampler = sampler
        self._top = top
        self._text = Withheld(stops)
        self._chances: list[Chance] = []
        self.unread = 0
        """Tokens that were told since somebody listened last."""
        self.mail: Mail
        """Where its news goes."""
        self.placed_at = 0.0
        """When it was given a slot, in the seconds of `time.monotonic`."""

    @property
    def stalled(self) -> bool:
        """Whether nobody reads it, so that writing more is of no use now."""
        return self.unread >= _UNREAD

    @property
    def sampler(self) -> Sampler:
        """What chooses its tokens."""
        return self._sampler

    @property
    def top(self) -> int | None:
        """See `__init__`."""
        return self._top

    def take(self, model: Model, token: int, chance: tuple[TokenChance, list[TokenChance]] | None) -> News:
        """Go on by a token."""
        reason: Reason | None = None
        piece = b""
        if model.ends(token):
            reason = "stop"
        else:
            self.written += 1
            piece = model.piece(token, special=self.special)
            if chance is not None:
                self._chances.append(Chance(self._text.length, *chance))
            if self.written >= self.most:
                reason = "length"
        said = self._text.push(piece, last=reason is not None)
        if self._text.stopped:
            reason = "stop"
        news = News(said, self._released(all_of_it=reason is not None), reason)
        self.unread += bool(said) and not self.whole  # only what is told: taking it is what makes this 0 again
        return news

    def _released(self, *, all_of_it: bool) -> list[Chance]:
        """The chances of the tokens whose text was said; what was cut off has none."""
        if not self._chances:
            return []
        over = all_of_it and not self._text.stopped
        said = [each for each in self._chances if over or each.at < self._text.said]
        self._chances = [] if all_of_it else self._chances[len(said) :]
        return said


class Mail:
    """The news about the jobs of one request, for who waits for them on the event loop."""

    def __init__(self, jobs: Sequence[Job], wake: Callable[[], None]) -> None:
        """`wake` is called when jobs that were stalled can go on."""
        self._jobs = jobs
        self._wake = wake
        self._news: list[tuple[Job, News]] = []
        self._come = asyncio.Event()
        for job in jobs:
            job.mail = self

    def put(self, job: Job, news: News) -> None:
        """Something is new."""
        self._news.append((job, news))
        self._come.set()

    async def take(self) -> list[tuple[Job, News]]:
        """All that is new, at least one thing. After a reason or a failure a job has no news any more."""
        await self._come.wait()
        self._come.clear()
        news, self._news = self._news, []
        stalled = any(job.stalled for job in self._jobs)
        for job in self._jobs:
            job.unread = 0
        if stalled:
            self._wake()
        return news
