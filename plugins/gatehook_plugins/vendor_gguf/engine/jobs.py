"""A job: one text to be written; and the news about it while it is."""

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
"""When so many tokens of a job wait to be taken, no more are written."""


class Chance(Struct):
    """A token of the answer with its log probability, and the likeliest tokens in its place."""

    at: int
    """The character of the answer at which the token begins."""
    chosen: TokenChance
    likeliest: list[TokenChance]


class News(Struct):
    """What one or more steps brought to a job."""

    text: str = ""
    chances: Sequence[Chance] = ()
    reason: Reason | None = None
    """Why the text has ended, if it has."""
    failure: EngineError | None = None

    @property
    def last(self) -> bool:
        """Whether no news of the job comes after this."""
        return self.reason is not None or self.failure is not None


def joined(news: Sequence[News]) -> News:
    """Join news of one job, at least one piece, in their order."""
    if len(news) == 1:
        return news[0]
    chances = [chance for each in news for chance in each.chances]
    return News("".join(each.text for each in news), chances, news[-1].reason, news[-1].failure)


class Job:
    """One text to be written: asked for on the event loop, written by the scheduler's thread."""

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
        """Describe the job; `Scheduler.submit` begins it.

        Args:
            prompt: its tokens, at least one.
            most: the most tokens of the answer, at least one; with the prompt no more than the context has.
            sampler: belongs to this job alone.
            stops: texts that end the answer, and are no part of it.
            special: whether control tokens show in the text.
            top: how many of the likeliest tokens to tell beside each; None for no log probabilities at all.
            whole: whether the news is wanted only when all of it is there.
        """
        self.prompt = prompt
        self.most = most
        self.special = special
        self.whole = whole
        self.begun = False
        """Whether there was any news of it yet."""
        self.cached = 0
        """Tokens of the prompt that were taken from a slot, and not computed again."""
        self.written = 0
        """Tokens of the answer."""
        self.cancelled = False
        self._sampler = sampler
        self._top = top
        self._text = Withheld(stops)
        self._chances: list[Chance] = []
        self.unread = 0
        """Tokens in news that was not taken yet."""
        self.mail: Mail
        """Gets its news."""
        self.placed_at = 0.0
        """When it was given a slot, in the seconds of `time.monotonic`."""

    @property
    def stalled(self) -> bool:
        """Whether its reader is so slow that writing more is of no use now."""
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
        """Add a token to the text; gives what is new."""
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
        self.unread += bool(said) and not self.whole  # only with news, as taking that makes this 0 again
        return news

    def _released(self, *, all_of_it: bool) -> list[Chance]:
        """The chances of the tokens whose text was given out; those of text that was cut off are dropped."""
        if not self._chances:
            return []
        over = all_of_it and not self._text.stopped
        said = [each for each in self._chances if over or each.at < self._text.said]
        self._chances = [] if all_of_it else self._chances[len(said) :]
        return said


class Mail:
    """Brings the news about the jobs of one request to its handler on the event loop."""

    def __init__(self, jobs: Sequence[Job], wake: Callable[[], None]) -> None:
        """`wake` is called when jobs that were stalled can go on."""
        self._jobs = jobs
        self._wake = wake
        self._news: list[tuple[Job, News]] = []
        self._come = asyncio.Event()
        for job in jobs:
            job.mail = self

    def put(self, job: Job, news: News) -> None:
        """Add news of a job."""
        self._news.append((job, news))
        self._come.set()

    async def take(self) -> list[tuple[Job, News]]:
        """Wait for news, and take all there is. After a reason or a failure there is no more news of a job."""
        await self._come.wait()
        self._come.clear()
        news, self._news = self._news, []
        stalled = any(job.stalled for job in self._jobs)
        for job in self._jobs:
            job.unread = 0
        if stalled:
            self._wake()
        return news
