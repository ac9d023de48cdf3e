"""/config: who may see and change it, and what it is without a database."""

from collections.abc import Callable
from typing import Any

import pytest

from gatehook import DIRECTORY, Unavailable

ADMIN = "admin-key-0123456789abcdef"
USER = "ordinary-key-0123456789abcdef"


async def test_only_administrators_see_and_change_the_configuration(admin: Any) -> None:
    for path in ("load-balancing", "models/m"):
        for key, status, code in ((USER, 403, "FORBIDDEN"), ("", 401, "UNAUTHORIZED")):
            (await admin.get(path, key=key)).error(status, code)
            (await admin.put(path, {}, key=key)).error(status, code)
        refused = await admin.gateway.request("DELETE", f"/api/llm/config/{path}", key=ADMIN)
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD, PUT")
    assert await admin.audit() == []


async def test_without_a_database_what_holds_is_shown_and_changes_say_what_is_missing(
    opened_without: Callable[..., Any],
) -> None:
    async with opened_without() as admin:
        shared = (await admin.get("load-balancing")).json
        assert (shared["strategy"], shared["failure_threshold"], shared["weights"]) == ("weighted", 3, {})
        first = (await admin.get("models/m%231")).json
        assert (first["enabled"], first["priority"], first["fallback_models"]) == (True, 2, ["spare"])
        for path, body in (("load-balancing", {"strategy": "priority"}), ("models/m", {"priority": 1})):
            error = (await admin.put(path, body)).error(503, "SERVICE_UNAVAILABLE")
            assert "enable [plugins.database]" in error["message"]


async def test_what_one_gateway_has_changed_is_shown_by_the_next_one_at_once(
    opened_on_sqlite: Callable[..., Any],
) -> None:
    async with opened_on_sqlite() as one, opened_on_sqlite() as other:
        for priority in (3, 4, 5):
            changed = await one.put("models/m", {"priority": priority})
            shown = await other.get("models/m")
            assert (shown.json["priority"], shown.headers["ETag"]) == (priority, changed.headers["ETag"])
        for strategy in ("priority", "least_busy", "weighted"):
            changed = await other.put("load-balancing", {"strategy": strategy})
            shown = await one.get("load-balancing")
            assert (shown.json["strategy"], shown.headers["ETag"]) == (strategy, changed.headers["ETag"])


async def test_while_the_database_is_away_what_is_known_is_shown(
    opened_on_sqlite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_on_sqlite() as admin:
        await admin.put("models/m", {"priority": 3})
        directory = admin.gateway.gateway.services[DIRECTORY]

        async def away() -> None:
            raise Unavailable("it is a test")

        monkeypatch.setattr(directory, "refresh", away)
        assert (await admin.get("models/m")).json["priority"] == 3
        assert (await admin.get("load-balancing")).status == 200
