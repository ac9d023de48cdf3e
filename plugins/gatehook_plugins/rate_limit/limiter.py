"""Admits calls by the limits of their key, user, model and deployment, and settles what they really used."""

import time
from collections.abc import Awaitable, Mapping
from functools import lru_cache
from typing import Final

from gatehook import (
    AttemptLimiter,
    Call,
    Catalog,
    Estimate,
    Limiter,
    Limits,
    Permit,
    Principal,
    Retry,
    Target,
    TellingLimiter,
    awaited,
    estimate,
)
from gatehook_plugins.rate_limit.rules import Rule, rules
from gatehook_plugins.rate_limit.store import Decision, Store
from gatehook_plugins.rate_limit.told import headers, refusal

__all__ = ["RateLimiter"]

_REMEMBERED: Final = 10_000
"""So many callers, and so many deployments, have their checkpoints kept ready."""
_UNLIMITED: Final = Limits()


class RateLimiter:
    """Decides by the rules that apply to a call; where there are none it says nothing."""

    def __init__(self, store: Store, catalog: Catalog, default: Limits, models: Mapping[str, Limits]) -> None:
        """`default` is for principals without limits of a user's own, `models` by public name."""
        self._store = store
        self._catalog = catalog
        self._default = default
        self._models = {name: limits for name, limits in models.items() if limits != _UNLIMITED}
        self._callers: dict[str, _Caller] = {}
        """By the id of their key, if the directory knows it, or their own."""
        self._of_deployment = lru_cache(_REMEMBERED)(self._deployment)

    def admit(self, call: Call) -> Awaitable[Permit | None] | Permit | None:
        """Reserve a request, and the tokens that it is expected to use, of all limits together.

        Raises:
            RateLimited: a limit refused. InvalidRequest: the body holds what cannot be decoded.
            Unavailable: Redis is gone, and the settings say to refuse then.
        """
        principal = call.principal
        key = principal.key
        caller = self._callers.get(principal.id if key is None else key.id)
        if caller is None or caller.principal is not principal:
            caller = self._caller(principal)
        checkpoint = self._of_model(caller, call) if self._models else caller.checkpoint
        if checkpoint is None:
            return None
        tokens = 0
        if checkpoint.counts_tokens:
            size = call.size or self._size(call)
            tokens = size.prompt + size.completion
        decision = checkpoint.gate.admit(tokens)
        if not isinstance(decision, Decision):
            return self._waited(call, checkpoint, decision, tokens)
        if decision.lines:  # mostly: it is admitted, and what to tell is written
            call.answer_lines += decision.lines
            return decision.grant
        return checkpoint.decided(call, decision, tokens)

    async def _waited(
        self, call: Call, checkpoint: "_Checkpoint", decision: Awaitable[Decision], tokens: int
    ) -> Permit | None:
        return checkpoint.decided(call, await decision, tokens)

    async def standing(self, principal: Principal) -> Mapping[str, str]:
        """The headers for a caller who makes no call: without the limits of models, which calls of these tell.

        Raises:
            Unavailable: the limits cannot be looked up at the moment.
        """
        checkpoint = self._caller(principal).checkpoint
        if checkpoint is None:
            return {}
        lines = checkpoint.headers.of(await awaited(checkpoint.gate.peek()), time.time())
        return dict(line.split(": ", 1) for line in lines.splitlines())

    def admit_attempt(self, call: Call, target: Target) -> Awaitable[Permit | None] | None:
        """The same for the limits of one deployment; another one may still have room.

        Raises:
            RateLimited, InvalidRequest, Unavailable: as `admit`.
        """
        return None if target.rate_limit == _UNLIMITED else self._admit_attempt(call, target)  # as most are

    async def _admit_attempt(self, call: Call, target: Target) -> Permit | None:
        checkpoint = self._of_deployment(target.key, target.rate_limit)
        tokens = 0
        if checkpoint.counts_tokens:
            size = call.size or self._size(call)
            tokens = size.prompt + size.completion
        decision = await awaited(checkpoint.gate.admit(tokens))
        if decision.waits:
            raise refusal(checkpoint.rules, decision, tokens, Retry.NEXT)
        return decision.grant

    def _caller(self, principal: Principal) -> "_Caller":
        """The caller that is kept for this principal, if its limits have not changed; else a new one."""
        # Not by `key_id`: many may have come in by the same.
        name = principal.id if principal.key is None else principal.key.id
        known = self._callers.get(name)
        if known is not None and known.is_limited_as(principal):
            known.principal = principal  # mostly it comes with the same object again
            return known
        if len(self._callers) >= _REMEMBERED:
            self._callers.clear()
        caller = self._callers[name] = _Caller(principal, self._checkpoint(principal, ""))
        return caller

    def _of_model(self, caller: "_Caller", call: Call) -> "_Checkpoint | None":
        """The checkpoint of a call, where some models have limits."""
        model = self._catalog.canonical(call.model)
        if model not in self._models:
            return caller.checkpoint
        checkpoint = caller.of_models.get(model)
        if checkpoint is None:
            checkpoint = caller.of_models[model] = self._checkpoint(caller.principal, model)
        return checkpoint

    def _checkpoint(self, principal: Principal, model: str) -> "_Checkpoint | None":
        """The checkpoint for the limits of a caller, and those of `model` unless that is ""; None without limits."""
        key, user = principal.key, principal.user
        found = rules("key", key.id, key.limits) if key is not None else ()
        own = rules("user", user.id, user.limits) if user is not None else ()
        found += own or rules("user", principal.id, self._default)
        if model:
            found += rules("model", model, self._models[model])
        return _Checkpoint(self._store, found) if found else None

    def _deployment(self, key: str, limits: Limits) -> "_Checkpoint":
        return _Checkpoint(self._store, rules("deployment", key, limits))

    def _size(self, call: Call) -> Estimate:
        return estimate(call, self._catalog.group(call.model))


class _Checkpoint:
    """The limits that a call has to pass, kept ready for the next call."""

    __slots__ = ("counts_tokens", "gate", "headers", "rules")

    def __init__(self, store: Store, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.gate = store.gate(rules)
        self.headers = headers(rules)
        self.counts_tokens = any(rule.unit == "tokens" for rule in rules)

    def decided(self, call: Call, decision: Decision, tokens: int) -> Permit | None:
        """Add the headers to the answer; gives the permit.

        Raises:
            RateLimited: a limit refused.
        """
        call.answer_lines += decision.lines or self.headers.of(decision, time.time())
        if decision.waits:
            raise refusal(self.rules, decision, tokens)
        return decision.grant


class _Caller:
    """A principal, and the checkpoints that its calls have to pass."""

    __slots__ = ("checkpoint", "of_models", "principal")

    def __init__(self, principal: Principal, checkpoint: _Checkpoint | None) -> None:
        self.principal = principal
        self.checkpoint = checkpoint
        """For calls of models without limits of their own; None if the caller has no limits."""
        self.of_models: dict[str, _Checkpoint | None] = {}
        """For calls of models with limits of their own."""

    def is_limited_as(self, other: Principal) -> bool:
        """Whether key and user are the same objects: whoever changes one makes a new object."""
        mine = self.principal
        return mine.key is other.key and mine.user is other.user and mine.id == other.id


_implements: tuple[type[Limiter], type[AttemptLimiter], type[TellingLimiter]] = (RateLimiter, RateLimiter, RateLimiter)
