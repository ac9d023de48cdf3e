"""Admits calls by the limits of their key, user, model and deployment, and settles what they really used."""

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from gatehook import Call, Catalog, Limiter, Limits, Outcome, Permit, Retry, Target, estimate
from gatehook_plugins.rate_limit.rules import Rule, rules
from gatehook_plugins.rate_limit.store import Grant, Store
from gatehook_plugins.rate_limit.told import headers, refusal

__all__ = ["RateLimiter"]

_REMEMBERED: Final = 10_000
"""Keys, users, models and deployments whose rules are kept ready."""


class RateLimiter:
    """Decides by the rules that apply to a call; where there are none it says nothing."""

    def __init__(self, store: Store, catalog: Catalog, default: Limits, models: Mapping[str, Limits]) -> None:
        """`default` is for principals without limits of a user's own, `models` by public name."""
        self._store = store
        self._catalog = catalog
        self._default = default
        self._models = models
        self._rules = lru_cache(_REMEMBERED)(rules)

    async def admit(self, call: Call) -> Permit | None:
        """Reserve a request, and the tokens that it is expected to use, of all limits together.

        Raises:
            RateLimited: a limit refused. InvalidRequest: the body holds what cannot be decoded.
            Unavailable: Redis is gone, and the settings say to refuse then.
        """
        found = self._of_caller(call)
        if not found:
            return None
        tokens = self._tokens(call, found)
        decision = await self._store.admit(found, tokens)
        call.answer_headers.update(headers(decision.readings, time.time()))
        if not decision.admitted:
            raise refusal(decision.readings, tokens)
        return _permit(decision.grant)

    async def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """The same for the limits of one deployment; another one may still have room.

        Raises:
            RateLimited, InvalidRequest, Unavailable: as `admit`.
        """
        found = self._rules("deployment", target.key, target.rate_limit)
        if not found:
            return None
        tokens = self._tokens(call, found)
        decision = await self._store.admit(found, tokens)
        if not decision.admitted:
            raise refusal(decision.readings, tokens, Retry.NEXT)
        return _permit(decision.grant)

    def _of_caller(self, call: Call) -> tuple[Rule, ...]:
        principal, key, user = call.principal, call.principal.key, call.principal.user
        found: tuple[Rule, ...] = ()
        if key is not None:
            found = self._rules("key", key.id, key.limits)
        own = self._rules("user", user.id, user.limits) if user is not None else ()
        found += own or self._rules("user", principal.id, self._default)
        if (limits := self._models.get(call.model)) is not None:
            found += self._rules("model", call.model, limits)
        return found

    def _tokens(self, call: Call, found: Sequence[Rule]) -> int:
        """What the call is expected to use; not worked out where no limit asks for it."""
        for rule in found:
            if rule.unit == "tokens":
                return max(1, estimate(call, self._catalog.group(call.model)).tokens)
        return 0


class Held:
    """The permit of an admitted call, or of one attempt."""

    __slots__ = ("_grant", "immediate")

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self.immediate = grant.store.immediate

    async def settle(self, outcome: Outcome) -> None:
        """Charge the tokens that were used. The request itself stays counted, unless no vendor was ever tried."""
        tokens = 0 if outcome.usage is None else outcome.usage.total_tokens
        await self._grant.store.settle(self._grant, int(outcome.status != "rejected"), tokens)


def _permit(grant: Grant | None) -> Permit | None:
    return None if grant is None else Held(grant)


_guards: tuple[type[Limiter], type[Permit]] = (RateLimiter, Held)
