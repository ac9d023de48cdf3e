"""Admits calls by the limits of their key, user, model and deployment, and settles what they really used."""

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from gatehook import Call, Catalog, Key, Limiter, Limits, Permit, Principal, Retry, Target, User, estimate
from gatehook_plugins.rate_limit.rules import Rule, rules
from gatehook_plugins.rate_limit.store import Store
from gatehook_plugins.rate_limit.told import headers, refusal

__all__ = ["RateLimiter"]

_REMEMBERED: Final = 10_000
"""Keys, users, models and deployments whose rules are kept ready."""
_UNLIMITED: Final = Limits()


class RateLimiter:
    """Decides by the rules that apply to a call; where there are none it says nothing."""

    def __init__(self, store: Store, catalog: Catalog, default: Limits, models: Mapping[str, Limits]) -> None:
        """`default` is for principals without limits of a user's own, `models` by public name."""
        self._store = store
        self._catalog = catalog
        self._default = default
        self._models = models
        self._rules = lru_cache(_REMEMBERED)(rules)
        self._callers: dict[str, _Caller] = {}

    async def admit(self, call: Call) -> Permit | None:
        """Reserve a request, and the tokens that it is expected to use, of all limits together.

        Raises:
            RateLimited: a limit refused. InvalidRequest: the body holds what cannot be decoded.
            Unavailable: Redis is gone, and the settings say to refuse then.
        """
        found = self._of_call(call)
        if not found:
            return None
        tokens = self._tokens(call, found)
        decision = await self._store.admit(found, tokens)
        call.answer_headers.update(headers(decision.readings, time.time()))
        if not decision.admitted:
            raise refusal(decision.readings, tokens)
        return decision.grant

    async def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """The same for the limits of one deployment; another one may still have room.

        Raises:
            RateLimited, InvalidRequest, Unavailable: as `admit`.
        """
        if target.rate_limit == _UNLIMITED:  # as most are
            return None
        found = self._rules("deployment", target.key, target.rate_limit)
        tokens = self._tokens(call, found)
        decision = await self._store.admit(found, tokens)
        if not decision.admitted:
            raise refusal(decision.readings, tokens, Retry.NEXT)
        return decision.grant

    def _of_call(self, call: Call) -> tuple[Rule, ...]:
        principal = call.principal
        name = principal.key_id or principal.id
        caller = self._callers.get(name)
        if caller is None or not caller.is_of(principal):
            if len(self._callers) >= _REMEMBERED:
                self._callers.clear()
            caller = self._callers[name] = self._caller(principal)
        if self._models:
            model = self._catalog.canonical(call.model)
            if (limits := self._models.get(model)) is not None:
                return caller.rules + self._rules("model", model, limits)
        return caller.rules

    def _caller(self, principal: Principal) -> "_Caller":
        key, user = principal.key, principal.user
        found = self._rules("key", key.id, key.limits) if key is not None else ()
        own = self._rules("user", user.id, user.limits) if user is not None else ()
        return _Caller(principal.id, key, user, found + (own or self._rules("user", principal.id, self._default)))

    def _tokens(self, call: Call, found: Sequence[Rule]) -> int:
        """What the call is expected to use; not worked out where no limit asks for it."""
        for rule in found:
            if rule.unit == "tokens":
                return estimate(call, self._catalog.group(call.model)).tokens
        return 0


class _Caller(Struct, frozen=True, gc=False):
    """Who was limited, and by which rules: ready for the next call."""

    id: str
    key: Key | None
    user: User | None
    rules: tuple[Rule, ...]

    def is_of(self, principal: Principal) -> bool:
        """Whether nothing has changed: whoever changes a key or a user makes a new one."""
        return self.key is principal.key and self.user is principal.user and self.id == principal.id


_guard: type[Limiter] = RateLimiter
