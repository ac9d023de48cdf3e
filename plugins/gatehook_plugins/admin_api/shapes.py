"""How users, keys, models and usage are written in answers, and how changes reach the directory.

Times are epoch seconds, money is dollars.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web
from msgspec import UNSET

from gatehook import (
    Caps,
    Change,
    InvalidRequest,
    Key,
    Limits,
    ModelSettings,
    ModelUsage,
    Pricing,
    Target,
    UsageRow,
    User,
    dollars,
    encode,
    total_dollars,
)
from gatehook_plugins.admin_api.requests import Limited
from gatehook_plugins.admin_api.values import iso, moment, nano_dollars

__all__ = [
    "BUDGETS",
    "TOKEN_QUOTAS",
    "answer",
    "change_of",
    "changes",
    "key_of",
    "limits_of",
    "page",
    "row_of",
    "settings_model",
    "stored_model",
    "usage_of",
    "user_of",
]

LIMITS: Final = {
    "rpm_limit": "requests_per_minute",
    "tpm_limit": "tokens_per_minute",
    "concurrent_limit": "concurrent_requests",
}
TOKEN_QUOTAS: Final = {
    "token_quota": "tokens",
    "token_quota_per_day": "tokens_per_day",
    "token_quota_per_month": "tokens_per_month",
}
BUDGETS: Final = {"budget": "budget", "budget_per_day": "budget_per_day", "budget_per_month": "budget_per_month"}
"""Fields of the API, and what `Limits` and `Caps` call them."""

_MODEL: Final = ModelSettings(name="-", vendor="-").model_dump(exclude={"name", "vendor", "model", "api_key"})
"""The fields of a model at their defaults."""


def answer(value: Mapping[str, Any], status: int = 200) -> web.Response:
    """JSON that no cache may keep: it is for one admin, and may show a key this once."""
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return web.Response(status=status, body=encode(value), headers=headers)


def page(data: Sequence[Mapping[str, Any]], limit: int) -> web.Response:
    """The first `limit` of `data`, which has one more if there are more."""
    return answer({"object": "list", "data": data[:limit], "has_more": len(data) > limit})


def changes(body: Limited, now: int) -> dict[str, Any]:
    """The fields that a request names, as `gatehook.services.Directory` takes them.

    Raises:
        InvalidRequest: an amount or a time is out of bounds, or two fields contradict each other.
    """
    changed: dict[str, Any] = {}
    for field in body.__struct_fields__:
        value = getattr(body, field)
        if value is UNSET or field == "user_id":
            continue
        if field in LIMITS:
            changed.setdefault("limits", {})[LIMITS[field]] = value
        elif field in TOKEN_QUOTAS:
            changed.setdefault("caps", {})[TOKEN_QUOTAS[field]] = value
        elif field in BUDGETS:
            changed.setdefault("caps", {})[BUDGETS[field]] = None if value is None else nano_dollars(value, field)
        elif field == "models":
            changed["models"] = None if value is None else frozenset(value)
        elif field in ("expires_in", "expires_at"):
            if "expires" in changed:
                raise InvalidRequest("expires_at: give this or expires_in, not both", param="expires_at")
            changed["expires"] = None if value is None else _expiry(field, value, now)
        else:
            changed[field] = value
    return changed


def _expiry(field: str, value: float | str, now: int) -> int:
    if field == "expires_in":
        return now + int(value) * 1000
    at = moment(value, field, end=True) if isinstance(value, str) else int(value * 1000)
    if at <= now:
        raise InvalidRequest("expires_at: lies in the past; DELETE ends a key", param=field)
    return at


def limits_of(limits: Limits) -> dict[str, int | None]:
    """Limits, by the API's names."""
    return {field: getattr(limits, name) for field, name in LIMITS.items()}


def user_of(user: User) -> dict[str, Any]:
    """A user."""
    return {
        "user_id": user.id,
        "name": user.name,
        "admin": user.admin,
        "disabled": user.disabled,
        "models": _names(user.models),
        **limits_of(user.limits),
        **_caps(user.caps),
        "created_at": user.created // 1000,
        "updated_at": user.updated // 1000,
    }


def _caps(caps: Caps) -> dict[str, Any]:
    tokens = {field: getattr(caps, name) for field, name in TOKEN_QUOTAS.items()}
    return tokens | {field: _dollars(getattr(caps, name)) for field, name in BUDGETS.items()}


def key_of(key: Key) -> dict[str, Any]:
    """A key, without the key itself."""
    return {
        "key_id": key.id,
        "user_id": key.user_id,
        "prefix": key.prefix,
        "name": key.name,
        "admin": key.admin,
        "disabled": key.disabled,
        "models": _names(key.models),
        **limits_of(key.limits),
        "expires_at": None if key.expires is None else key.expires // 1000,
        "created_at": key.created // 1000,
    }


def stored_model(row: Mapping[str, Any]) -> dict[str, Any]:
    """A model of the directory, which never gives its key; what it does not name has its default."""
    named = {name: value for name, value in row.items() if name not in ("id", "api_key")}
    head = {"model_id": row["id"], "source": "database", "vendor_type": row["vendor"], "model": row["name"]}
    return head | _MODEL | named


def settings_model(target: Target) -> dict[str, Any]:
    """A deployment of the settings. Its options stay there: secrets may have been looked up in them."""
    limit = target.rate_limit
    return {
        "model_id": target.key,
        "source": "settings",
        "vendor_type": target.vendor,
        "name": target.name,
        "aliases": target.aliases,
        "vendor": target.vendor,
        "model": target.model,
        "base_url": target.base_url,
        "has_api_key": target.api_key is not None,
        "weight": target.weight,
        "priority": target.priority,
        "timeout": target.timeout,
        "fallbacks": target.fallbacks,
        "rate_limit": {name: getattr(limit, name) for name in LIMITS.values()},
        "pricing": None if target.pricing is None else _prices(target.pricing),
        "limits": {"max_tokens": target.max_tokens, "context_window": target.context_window},
        "capabilities": target.capabilities,
        "strict": target.strict,
        "enabled": True,
    }


def _prices(pricing: Pricing) -> dict[str, float | None]:
    return {
        "input_per_1k_tokens": dollars(pricing.input),
        "output_per_1k_tokens": dollars(pricing.output),
        "cached_input_per_1k_tokens": _dollars(pricing.cached_input),
        "cache_write_per_1k_tokens": _dollars(pricing.cache_write),
        "cache_write_1h_per_1k_tokens": _dollars(pricing.cache_write_1h),
        "per_image": dollars(pricing.image) if pricing.image else None,
    }


def usage_of(used: Sequence[ModelUsage], *, by_model: bool) -> dict[str, Any]:
    """Usage in all and, perhaps, of each model."""
    prompt, completion = sum(one.prompt_tokens for one in used), sum(one.completion_tokens for one in used)
    whole: dict[str, Any] = {
        "total_requests": sum(one.requests for one in used),
        "total_tokens": prompt + completion,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_cost": total_dollars(one.cost for one in used),
    }
    if by_model:
        whole["by_model"] = {
            one.model: {
                "requests": one.requests,
                "tokens": one.prompt_tokens + one.completion_tokens,
                "prompt_tokens": one.prompt_tokens,
                "completion_tokens": one.completion_tokens,
                "cost": total_dollars([one.cost]),
            }
            for one in used
        }
    return whole


def row_of(row: UsageRow) -> dict[str, Any]:
    """One request; costs are null where nobody knows a price."""
    return {
        "request_id": row.request_id,
        "at": iso(row.at),
        "user_id": row.user_id,
        "key_id": row.key_id,
        "operation": row.operation,
        "surface": row.surface,
        "model": row.model,
        "deployment": row.deployment,
        "vendor": row.vendor,
        "outcome": row.outcome,
        "http_status": row.http_status,
        "code": row.code,
        "provenance": row.provenance,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "total_tokens": row.tokens,
        "cached_tokens": row.cached_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "input_cost": _dollars(row.input_cost),
        "output_cost": _dollars(row.output_cost),
        "total_cost": None if row.input_cost is None and row.output_cost is None else dollars(row.cost),
        "latency_ms": row.latency,
        "first_token_ms": row.first_token,
        "attempts": row.attempts,
    }


def change_of(change: Change) -> dict[str, Any]:
    """A line of the audit."""
    return {
        "id": change.id,
        "at": iso(change.at),
        "actor": change.actor,
        "action": change.action,
        "subject": change.subject,
        "detail": change.detail,
    }


def _names(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _dollars(amount: int | None) -> float | None:
    return None if amount is None else dollars(amount)
