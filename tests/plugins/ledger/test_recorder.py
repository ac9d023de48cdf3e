"""What a row says of a request."""

from dataclasses import replace
from typing import Any

import pytest

from gatehook import Call, Document, Outcome, Principal, Target, Unavailable, Usage, encode
from gatehook.accounts import Pricing
from gatehook.catalog import LiveCatalog
from gatehook_plugins.ledger.recorder import Recorder, crashed
from gatehook_plugins.ledger.records import Intent, Row, line

PRICED = Target("gpt#1", "gpt", "openai", "gpt-2024", pricing=Pricing(1_000_000, 2_000_000))
UNPRICED = Target("raw#1", "raw", "openai", "raw")
ANN = Principal("ann", key_id="k1")


class Desk:
    """A recorder and what it wrote."""

    def __init__(self) -> None:
        self.intents: list[Intent] = []
        self.rows: list[Row] = []
        self.error: OSError | None = None
        self.enter = self.rows.append
        self.catalog = LiveCatalog([PRICED, UNPRICED])
        self.recorder = Recorder(self.catalog, self)

    def intend(self, intent: Intent) -> None:
        if self.error is not None:
            raise self.error
        self.intents.append(intent)

    def row(self, call: Call, status: Any = "complete", http_status: int = 200, **outcome: Any) -> Row:
        usage, pricing = outcome.get("usage"), call.target.pricing if call.target else None
        cost = usage.cost(pricing) if usage is not None and pricing is not None else None
        self.recorder.finished(call, Outcome(status, http_status, **outcome, cost=cost))
        return self.rows[-1]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def a_call(target: Target | None = PRICED, model: str = "gpt", principal: Principal = ANN) -> Call:
    body = {"model": model, "messages": [{"role": "user", "content": "x" * 4000}]}
    call = Call("chat", "openai", {}, principal=principal, model=model, body=Document(raw=encode(body)))
    call.target, call.attempts = target, 2
    return call


def test_who_what_and_how_it_ended(desk: Desk) -> None:
    usage = Usage(1000, 500, cached_tokens=100, reasoning_tokens=50)
    call = a_call()
    row = desk.row(call, usage=usage, duration=1.2344, first_token=0.5)
    assert (row.request_id, row.user_id, row.key_id) == (call.id, "ann", "k1")
    assert (row.operation, row.surface, row.model) == ("chat", "openai", "gpt")
    assert (row.deployment, row.vendor, row.attempts) == ("gpt#1", "openai", 2)
    assert (row.outcome, row.http_status, row.code, row.provenance) == ("complete", 200, "", "vendor")
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.reasoning_tokens) == (1000, 500, 100, 50)
    assert (row.input_cost, row.output_cost) == (1_000_000, 1_000_000)
    assert (row.latency, row.first_token) == (1234, 500)


@pytest.mark.parametrize(
    ("target", "status", "usage", "provenance", "costs"),
    [
        (PRICED, "complete", Usage(1000, 500, estimated=True), "estimated", (1_000_000, 1_000_000)),
        (PRICED, "partial", Usage(1000, 1), "vendor", (1_000_000, 2_000)),
        (UNPRICED, "complete", Usage(1000, 500), "vendor", (None, None)),
        (PRICED, "failed", None, "none", (0, 0)),
        (UNPRICED, "failed", None, "none", (0, 0)),
        (None, "rejected", None, "none", (0, 0)),
        (None, "cached", Usage(), "none", (0, 0)),
        (None, "cached", Usage(1000, 500), "none", (0, 0)),
    ],
)
def test_only_what_was_used_costs(
    desk: Desk, target: Target | None, status: str, usage: Usage | None, provenance: str, costs: tuple[int | None, ...]
) -> None:
    row = desk.row(a_call(target), status, usage=usage)
    assert (row.provenance, (row.input_cost, row.output_cost)) == (provenance, costs)
    assert row.deployment == ("" if target is None else target.key)
    if provenance == "none":
        assert row.tokens == 0


def test_an_anonymous_caller_has_rows_too(desk: Desk) -> None:
    call = a_call()
    call.principal = Call("chat", "openai", {}).principal
    assert desk.row(call).user_id == "anonymous"


def test_nobody_who_asked_for_nothing_has_none(desk: Desk) -> None:
    desk.recorder.finished(Call("chat", "openai", {}), Outcome("rejected", 401, code="invalid_api_key"))
    assert desk.rows == []


@pytest.mark.parametrize("model", ["m\0", "\ud83d", "m\x1b[2J", "x" * 300, "\u202e"])
async def test_whatever_a_client_asks_for_can_be_kept_and_shown(desk: Desk, model: str) -> None:
    call = a_call(None, model)
    call.body = Document({"messages": []})
    desk.recorder.admit(call)
    row = desk.row(call, "rejected", 404, code="model_not_found")
    for written in (row.model, desk.intents[-1].model):
        assert written.isprintable()
        assert 0 < len(written) <= 256
    assert line(row)


async def test_the_intent_tells_the_prompt_and_what_it_costs(desk: Desk) -> None:
    call = a_call()
    desk.recorder.admit(call)
    (intent,) = desk.intents
    assert (intent.request_id, intent.user_id, intent.key_id, intent.model) == (call.id, "ann", "k1", "gpt")
    assert 1000 <= intent.prompt_tokens <= 1050
    assert crashed(intent).input_cost == intent.prompt_tokens * 1000
    desk.recorder.admit(a_call(model="raw"))
    desk.recorder.admit(a_call(model="unknown"))
    assert [crashed(one).input_cost for one in desk.intents[1:]] == [None, None]


async def test_an_intent_tells_the_price_of_now(desk: Desk) -> None:
    desk.recorder.admit(a_call())
    desk.catalog.amend("test", lambda target: replace(target, pricing=Pricing(7, 7)))
    desk.recorder.admit(a_call())
    desk.catalog.feed("test", [Target("new#1", "new", "openai", "new", pricing=Pricing(3, 3))])
    desk.recorder.admit(a_call(model="new"))
    desk.catalog.feed("test", [])
    desk.recorder.admit(a_call(model="new"))
    assert [one.input_price for one in desk.intents] == [1_000_000, 7, 7, None]


async def test_prices_of_names_that_clients_made_up_are_not_remembered(desk: Desk) -> None:
    desk.catalog.feed("test", [Target("any#1", "any/*", "openai", "*", pricing=Pricing(3, 3))])
    for name in ("gpt", "any/thing", "any/other", "nothing"):
        desk.recorder.admit(a_call(model=name))
    assert [one.input_price for one in desk.intents] == [1_000_000, 3, 3, None]
    assert set(desk.recorder._prices) == {"gpt"}


async def test_what_cannot_be_written_down_is_refused(desk: Desk) -> None:
    desk.error = OSError(28, "No space left on device", "/secret/place")
    with pytest.raises(Unavailable) as caught:
        desk.recorder.admit(a_call())
    assert caught.value.code == "ledger_unavailable"
    assert "/secret" not in caught.value.message
