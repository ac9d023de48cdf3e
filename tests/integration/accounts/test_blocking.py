"""Nothing of accounts blocks the event loop, but the ledger's journal, for a moment when it turns to a new file."""

from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from gatehook import LEDGER, QUOTAS
from gatehook.testing import Reply, StubUpstream

OpenAccounts = Any
ALLOWED = {
    "gatehook_plugins/ledger/journal.py": {"_turn", "_clear"},
    # When they open a connection, these look for a file with passwords and for their own version.
    "asyncpg/connect_utils.py": {"_parse_connect_arguments"},
    "redis/utils.py": {"get_lib_version"},
}


@pytest.mark.parametrize("shared", [False, True], ids=["memory", "redis"])
async def test_no_request_with_accounts_on_blocks_the_loop(
    open_accounts: OpenAccounts, openai_wire: Any, request: pytest.FixtureRequest, shared: bool
) -> None:
    changes = {"redis": {"url": request.getfixturevalue("redis_url")}} if shared else {}
    replies = (openai_wire.text("hi"), openai_wire.stream(["h", "i"]), Reply(status=500))
    async with StubUpstream(*replies) as stub, open_accounts(openai_wire.deployment(stub), **changes) as accounts:
        with blockbuster_ctx(["gatehook", "gatehook_plugins"]) as blocking:
            for function in blocking.functions.values():
                for file, names in ALLOWED.items():
                    function.can_block_in(file, names)
            limits = {"rpm_limit": 2, "tpm_limit": 10**6, "concurrent_limit": 5, "token_quota": 10**6}
            key = await accounts.client("alice", **limits)
            statuses = [
                (await accounts.chat(key)).status,
                (await accounts.chat(key, stream=True)).status,
                (await accounts.chat(key)).status,
                (await accounts.chat("no-key-at-all-0123456789")).status,
            ]
            assert statuses == [200, 200, 429, 401]
            await accounts.done("PATCH", "/admin/users/alice", {"rpm_limit": None})
            assert [(await accounts.chat(key)).status for _ in range(3)] == [502, 502, 502]
            await administered(accounts)
            await accounts.gateway.services[LEDGER].flush()
            assert (await accounts.gateway.services[QUOTAS].used("alice"))["all"][0] == 36 - 5


async def administered(accounts: Any) -> None:
    """Every kind of change and look, while nothing may block."""
    made = await accounts.done("POST", "/admin/users/alice/keys", {})
    await accounts.done("POST", f"/admin/keys/{made['key_id']}/rotate", {"overlap_seconds": 60})
    await accounts.done("DELETE", f"/admin/keys/{made['key_id']}")
    model = {"model_id": "x", "vendor_type": "mock", "api_key": "some-vendor-key"}
    await accounts.done("POST", "/admin/models", model)
    await accounts.done("DELETE", "/admin/models/x")
    await accounts.done("POST", "/admin/usage/corrections", {"user_id": "alice", "tokens": -5, "reason": "x"})
    rooms = ("users", "keys", "models", "usage", "usage/requests", "audit", "users/alice/quota")
    others = ("/v1/models", "/api/llm/stats/usage", "/api/llm/stats/performance", "/api/llm/models", "/api/llm/health")
    for path in (*(f"/admin/{room}" for room in rooms), *others):
        await accounts.done("GET", path)
    assert (await accounts.call("GET", "/metrics", key=None)).status == 200
