"""The state machine of a circuit breaker, for one deployment: plain values, no clock and no I/O.

A deployment that has failed too often in a row is given a rest (the breaker is open). After it the deployment is on
trial (half open): requests try it one at a time, and enough of them in a row have to be answered before it is trusted
again (closed); one failure, and it rests anew, longer each time. A vendor that asks to be left alone gets that rest at
once, and no trial after it.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

__all__ = ["SKEW", "SOUND", "Condition", "Rules"]

_MOST_DOUBLINGS: Final = 30
SKEW: Final = 30.0
"""Seconds by which the clocks of nodes may differ. One that is further behind was put back, and then no rest that was
timed by it goes on: nobody shall wait for an hour that comes twice."""


class Rules(Struct, frozen=True, gc=False):
    """When a deployment is given a rest, and for how long. Times are in seconds."""

    failure_threshold: int
    """Failures in a row, from 1 on."""
    recovery_threshold: int
    """Answers in a row, from 1 on."""
    rest: float
    """The first; each that follows without an answer between is twice as long."""
    longest_rest: float


class Condition(Struct, frozen=True, array_like=True, gc=False):
    """What is known of one deployment. Times are epoch seconds."""

    failures: int = 0
    """Of requests, in a row."""
    missed: int = 0
    """Checks in a row that failed. Counted apart: a check that is answered does not undo the failures of requests."""
    rests: int = 0
    """In a row: with no request answered between them."""
    until: float = 0.0
    """It rests until then; 0 if it does not."""
    on_trial: bool = False
    """It has to prove itself when it has rested."""
    proofs: int = 0
    """Answers in a row on trial."""
    tried_until: float = 0.0
    """A request is trying it; no other one may before then, in case that one is never heard of again."""
    changed: float = 0.0
    """When it last was given a rest, or trusted again."""
    checked: float = 0.0
    """When something was last learnt."""
    all_rests: int = 0
    """Rests since the beginning; `rests` counts anew after an answer."""
    claimed: float = 0.0
    """When a worker last took it upon itself to check it."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is held against it, so that another answer changes nothing."""
        return not (self.strikes or self.rests or self.on_trial)

    @property
    def strikes(self) -> int:
        """Failures in a row, of requests and checks together."""
        return self.failures + self.missed

    def is_resting(self, now: float) -> bool:
        """Whether it is to be left alone."""
        return self.changed - SKEW <= now < self.until

    def failed(self, now: float, rules: Rules, jitter: float = 1.0) -> "Condition":
        """A request failed. While it rests that is no news: the request began before.

        `jitter`, about 1, is what the rest is multiplied by.
        """
        if self.is_resting(now):
            return self
        return self._struck(self.failures + 1, self.missed, now, rules, jitter)

    def checked_badly(self, now: float, rules: Rules, jitter: float = 1.0) -> "Condition":
        """A check failed; while it rests the proofs before it are void. `jitter` as in `failed`."""
        if self.is_resting(now):
            return replace(self, proofs=0, checked=now)
        return self._struck(self.failures, self.missed + 1, now, rules, jitter)

    def kept_on(self, now: float) -> "Condition":
        """A request or a check failed, and it is given no rest for that: there is no other one to answer."""
        return replace(self, failures=self.failures + 1, proofs=0, checked=now)

    def _struck(self, failures: int, missed: int, now: float, rules: Rules, jitter: float) -> "Condition":
        if not self.on_trial and failures + missed < rules.failure_threshold:
            return replace(self, failures=failures, missed=missed, checked=now)
        pause = min(rules.rest * 2 ** min(self.rests, _MOST_DOUBLINGS), rules.longest_rest)
        return replace(
            self,
            failures=failures,
            missed=missed,
            rests=self.rests + 1,
            until=now + pause * jitter,
            on_trial=True,
            proofs=0,
            tried_until=0.0,
            changed=now,
            checked=now,
            all_rests=self.all_rests + 1,
        )

    def told_to_wait(self, seconds: float, now: float, rules: Rules) -> "Condition":
        """Its vendor asks to be left alone for so long. That is no failure."""
        until = now + min(seconds, rules.longest_rest)
        begins = not self.is_resting(now)
        if until <= now or (until <= self.until and not begins):
            return self
        return replace(
            self,
            until=until,
            tried_until=0.0,
            changed=now if begins else self.changed,
            checked=now,
            all_rests=self.all_rests + begins,
        )

    def answered(self, now: float, rules: Rules) -> "Condition":
        """A request was answered. While it rests that is no news: the request began before."""
        if self.is_resting(now):
            return self
        if not self.on_trial:
            return replace(self, failures=0, missed=0, rests=0, checked=now)
        return self._proved(now, rules, rests=0)

    def checked_well(self, now: float, rules: Rules) -> "Condition":
        """A check was answered: a proof, also while it rests; no more than that, as no request was answered."""
        return self._proved(now, rules, rests=self.rests) if self.on_trial else replace(self, missed=0, checked=now)

    def tried(self, now: float, seconds: float) -> "Condition":
        """A request tries it, for so long at most; the same condition if it may not.

        It need not prove itself, or not yet, or another one tries it already.
        """
        if not self.on_trial or self.is_resting(now) or now < self.tried_until <= now + seconds + SKEW:
            return self
        return replace(self, tried_until=now + seconds)

    def let_go(self, tried_until: float) -> "Condition":
        """The request that tried it until then has ended. It may have lasted longer, and another one have followed."""
        return replace(self, tried_until=0.0) if self.tried_until == tried_until else self

    def _proved(self, now: float, rules: Rules, rests: int) -> "Condition":
        proofs = self.proofs + 1
        if proofs < rules.recovery_threshold:
            return replace(self, proofs=proofs, checked=now)
        return Condition(rests=rests, changed=now, checked=now, all_rests=self.all_rests, claimed=self.claimed)


SOUND: Final = Condition()
"""The condition of a deployment of which nothing is known."""
