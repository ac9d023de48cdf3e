"""The list of models for Anthropic's clients, which ask for it at the same path (`anthropic.types.ModelInfo`)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gatehook import Target

__all__ = ["asks_for_it", "listed", "model"]


def asks_for_it(request: web.Request) -> bool:
    """Whether a request comes from such a client: all of them name the version of their API."""
    return "anthropic-version" in request.headers


def listed(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All models, on one page."""
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {"first_id": None, "last_id": None}
    return {"data": models, "has_more": False, **ends}


def model(name: str, group: Sequence[Target], created: int) -> dict[str, Any]:
    """One model, as its first deployment has it; `created` is in epoch seconds."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": group[0].context_window,
        "max_tokens": group[0].max_tokens,
    }
