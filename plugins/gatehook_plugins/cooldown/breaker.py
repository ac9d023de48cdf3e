"""The circuit breaker: passes over deployments that rest, and learns from every attempt how they do."""

import logging
import random
import time
from collections.abc import Callable
from typing import Final

from gatehook import (
    AttemptLimiter,
    Call,
    Catalog,
    DeploymentHealth,
    GatewayError,
    Limiter,
    Observer,
    Outcome,
    Permit,
    RateLimited,
    Retry,
    Target,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
    Vitality,
)
from gatehook_plugins.cooldown.book import Book, Step
from gatehook_plugins.cooldown.condition import Condition
from gatehook_plugins.cooldown.thresholds import Thresholds

__all__ = ["Breaker", "blames"]

log: Final = logging.getLogger("gatehook.cooldown")

_TRIAL_SECONDS: Final = 30.0
"""Seconds after which another request may try a deployment though the first has not ended: it may be a long one."""
_REMEMBERED: Final = 10_000


class Breaker(Observer):
    """Admits attempts at deployments that do not rest, and tells how all do."""

    def __init__(self, book: Book, thresholds: Thresholds, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives epoch seconds: nodes share when a rest ends."""
        self._book = book
        self._thresholds = thresholds
        self._clock = clock
        self._catalog: Catalog | None = None
        self._permits: dict[str, _Attempt] = {}

    def follow(self, catalog: Catalog) -> None:
        """Learn from this catalog which deployments are a model's only one: they get no rest without a fallback."""
        self._catalog = catalog

    @property
    def failure_threshold(self) -> int:
        """Failures in a row after which a deployment is given a rest."""
        return self._thresholds.rules.failure_threshold

    @property
    def recovery_threshold(self) -> int:
        """Answers in a row after which it is trusted again."""
        return self._thresholds.rules.recovery_threshold

    @property
    def health_check_interval(self) -> float:
        """Seconds between two checks of a deployment; 0 for none."""
        return self._thresholds.health_check_interval

    def of(self, target: Target) -> Vitality:
        """How a deployment does."""
        condition = self._book.get(target.key)
        if condition is None:
            return _HEALTHY
        now = self._clock()
        resting = condition.is_resting(now)
        return Vitality(
            "unavailable" if resting else "degraded" if condition.on_trial or condition.strikes else "healthy",
            condition.strikes,
            condition.until - now if resting else 0.0,
            condition.checked or None,
            condition.all_rests,
        )

    def admit(self, call: Call) -> None:
        """Nothing to say before a deployment is chosen."""

    def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """Let it through, unless the deployment rests, or another request is just trying whether it does better.

        Raises:
            Unavailable: it is passed over.
        """
        key = target.key
        condition = self._book.get(key)
        if condition is not None and (condition.on_trial or condition.until):
            trial = self._trial(target, condition)
            if trial is not None:
                return trial
        known = self._permits.get(key)
        if known is None or known.target is not target:
            if len(self._permits) >= _REMEMBERED:
                self._permits.clear()
            known = self._permits[key] = _Attempt(self, target)
        return known

    def _trial(self, target: Target, condition: Condition) -> "_Trial | None":
        """The right to be the one request that tries a deployment; None if any request may call it.

        Raises:
            Unavailable: it rests, or another request has that right.
        """
        now = self._clock()
        if not (condition.on_trial or condition.is_resting(now)) or self._is_alone(target):
            return None
        before, after = self._book.change(target.key, lambda one: one.tried(now, _TRIAL_SECONDS))
        if after is not before:
            return _Trial(self, target, after.tried_until)
        if before.on_trial or before.is_resting(now):
            raise _passed_over(target, before, now)
        return None

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """See `Observer`."""
        self.failed(target, error)

    def failed(self, target: Target, error: GatewayError, *, checked: bool = False) -> None:
        """An attempt failed; or a check, if it was `checked`."""
        if not blames(error):
            return
        now, rules = self._clock(), self._thresholds.rules
        if self._is_alone(target):
            self._change(target, lambda one: one.kept_on(now))
        elif isinstance(error, RateLimited) and error.retry_after:
            wait = error.retry_after
            self._change(target, lambda one: one.told_to_wait(wait, now, rules), error.message)
        else:
            jitter = random.uniform(0.9, 1.1)  # noqa: S311  # not all nodes shall come back at once
            fail = Condition.checked_badly if checked else Condition.failed
            self._change(target, lambda one: fail(one, now, rules, jitter), error.message)

    def answered(self, target: Target) -> None:
        """An attempt succeeded."""
        condition = self._book.get(target.key)
        if condition is not None and not condition.is_sound:
            now, rules = self._clock(), self._thresholds.rules
            self._change(target, lambda one: one.answered(now, rules))

    def checked_well(self, target: Target) -> None:
        """A check succeeded."""
        now, rules = self._clock(), self._thresholds.rules
        self._change(target, lambda one: one.checked_well(now, rules))

    def ended(self, target: Target, outcome: Outcome) -> None:
        """The call of an attempt is over. Nothing is learnt of one that failed: of that `attempt_failed` tells."""
        if outcome.status == "complete":
            self.answered(target)
        elif outcome.status == "partial" and outcome.code.startswith(("upstream_", "vendor_plugin_")):
            self.failed(target, UpstreamError(f"its stream broke ({outcome.code})"))

    def let_go(self, target: Target, tried_until: float) -> None:
        """The request that tried it until then has ended."""
        condition = self._book.get(target.key)
        if condition is not None and condition.tried_until == tried_until:
            self._book.change(target.key, lambda one: one.let_go(tried_until))

    def _is_alone(self, target: Target) -> bool:
        if self._catalog is None or target.fallbacks:
            return False
        return sum(not other.unavailable for other in self._catalog.group(target.name)) <= 1

    def _change(self, target: Target, step: Step, why: str = "") -> None:
        before, after = self._book.change(target.key, step)
        if after.all_rests > before.all_rests:  # not for each of many requests that prolong one
            seconds = after.until - after.checked
            log.warning("deployment %s is given a rest of %.0f s: %s", target.key, seconds, why)
        elif before.on_trial and not after.on_trial:
            log.info("deployment %s answers again", target.key)


class _Attempt:
    """The permit of attempts at a deployment that does well: one for all of them, as nothing has to be given back."""

    __slots__ = ("_breaker", "target")

    def __init__(self, breaker: Breaker, target: Target) -> None:
        self._breaker = breaker
        self.target = target

    def settle(self, outcome: Outcome) -> None:
        """It is over."""
        self._breaker.ended(self.target, outcome)


class _Trial(_Attempt):
    """The permit of the one attempt that tries a deployment which has rested."""

    __slots__ = ("_until",)

    def __init__(self, breaker: Breaker, target: Target, until: float) -> None:
        """`until` is when, in epoch seconds, another attempt may try it too."""
        super().__init__(breaker, target)
        self._until = until

    def settle(self, outcome: Outcome) -> None:
        """It is over; another one may try the deployment, if nothing was learnt from this one."""
        self._breaker.ended(self.target, outcome)
        self._breaker.let_go(self.target, self._until)


def blames(error: GatewayError) -> bool:
    """Whether an error is the deployment's fault, and neither the caller's nor the gateway's."""
    if isinstance(error, RateLimited):
        # One that is final and names no time was larger than the limit: smaller ones are answered.
        return not error.final or error.retry_after is not None
    return isinstance(error, UpstreamError | UpstreamTimeout)


def _passed_over(target: Target, condition: Condition, now: float) -> Unavailable:
    wait = (condition.until if condition.is_resting(now) else condition.tried_until) - now
    strikes = condition.strikes
    why = f"after {strikes} failure{'' if strikes == 1 else 's'}" if strikes else "as its vendor asks"
    return Unavailable(
        f"deployment {target.key!r} is given a rest {why}; try again in {max(1, round(wait))} s",
        code="deployment_resting",
        retry=Retry.NEXT,
        retry_after=max(wait, 1.0),
    )


_HEALTHY: Final = Vitality()

_implements: tuple[type[Limiter], type[AttemptLimiter], type[DeploymentHealth], type[Permit]] = (
    Breaker,
    Breaker,
    Breaker,
    _Trial,
)
