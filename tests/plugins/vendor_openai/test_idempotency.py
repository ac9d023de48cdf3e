"""The key by which a server knows a request that is made again: the same for each attempt, another for all else."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from gatehook import Attempt, Call, Document, Principal, Target
from gatehook.testing import Replay, ReplayEgress, Reply, StubUpstream, serving
from gatehook_plugins.vendor_openai.vendor import OpenAIVendor

HEADER: Final = "Idempotency-Key"
ANSWER: Final = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "up",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
}
BODY: Final = json.dumps(ANSWER).encode()


def call(text: str = "Hello", who: str = "ann", **fields: Any) -> Call:
    one = Call("chat", "openai", fields.pop("headers", {}), principal=Principal(who), model="m", **fields)
    one.body = Document({"model": "m", "messages": [{"role": "user", "content": text}]})
    return one


def target(number: int = 1, header: str = HEADER, **fields: Any) -> Target:
    options = {"idempotency_header": header} if header else {}
    where = {"name": "m", "vendor": "openai", "model": "up", "base_url": "http://vendor.test/v1", "options": options}
    return Target(f"m#{number}", **(where | fields))


async def keys(*attempts: tuple[Call, Target], defaults: Sequence[Mapping[str, Any]] = ()) -> list[str | None]:
    """What one vendor sends with each of these."""
    egress = ReplayEgress(Replay(BODY))
    vendor = OpenAIVendor(egress)
    for place, (one, to) in enumerate(attempts):
        egress._replays = [Replay(BODY)]
        await vendor.complete(Attempt(one, to, defaults=defaults[place] if defaults else {}))
    return [sent.headers.get(HEADER) for sent in egress.requests]


async def test_it_is_the_same_whenever_one_request_is_tried_at_one_server_and_another_for_the_next() -> None:
    one, other = call(), call()
    found = await keys((one, target()), (one, target()), (one, target(2)), (other, target()), (one, target()))
    assert found[0] == found[1] == found[2] == found[4] != found[3]
    assert re.fullmatch(r"[0-9a-f]{32}", str(found[0]))


async def test_there_is_none_unless_the_deployment_asks_for_it_also_when_that_changes() -> None:
    one = call()
    found = await keys((one, target(header="")), (one, target()), (one, target(header="")), (one, target()))
    assert (found[0], found[2], found[1]) == (None, None, found[3])


async def test_what_is_sent_to_another_place_or_is_another_body_has_another() -> None:
    one = call()
    found = await keys((one, target()), (one, target(base_url="http://other.test/v1")), (one, target(model="up2")))
    found += await keys((one, target()), (one, target()), defaults=[{"temperature": 1}, {"temperature": 2}])
    options = {"idempotency_header": HEADER, "max_tokens_field": "max_tokens"}
    found += await keys((one, target(options=options)))
    one.body = Document({**one.payload, "messages": []})  # the next round
    found += await keys((one, target()))
    assert len(set(found)) == len(found)


async def test_a_client_s_own_is_kept_to_for_that_client_alone() -> None:
    given: dict[str, Any] = {"headers": {HEADER: "mine"}}
    asked = [call(**given), call(**given), call(who="bob", **given), call(text="else", **given)]
    asked += [call(headers={HEADER: "other"}), call(headers={HEADER: ""})]
    found = await keys(*((one, target()) for one in asked))
    assert found[0] == found[1]
    assert len(set(found)) == len(found) - 1
    assert "mine" not in found


async def test_a_job_that_is_made_again_is_the_same_request() -> None:
    found = await keys(*((call(reservation=name), target()) for name in ("job-1", "job-1", "job-2")))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_retry_and_the_next_deployment_there_send_the_same(stream: bool) -> None:
    event = {**ANSWER, "object": "chat.completion.chunk"}
    event["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]
    events = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()
    good = Reply(body=events, headers={"Content-Type": "text/event-stream"}) if stream else Reply(body=BODY)
    bad = Reply(status=500, body=b"{}")
    async with StubUpstream(bad, bad, good, good) as stub:
        model = f'[[models]]\nname = "m"\nvendor = "openai"\nmodel = "up"\nbase_url = "{stub.url}/v1"\n'
        model += f'options = {{ idempotency_header = "{HEADER}" }}\n'
        second = 'api_key = "of-another-project"\n'
        settings = "[failover]\nretries = 1\n[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_openai]\n"
        async with serving(settings + model + model + second) as served, ClientSession() as session:
            for _ in range(2):
                body = {**call().payload, "stream": stream}
                async with session.post(f"{served.url}/v1/chat/completions", json=body) as answer:
                    assert answer.status == 200
                    await answer.read()
    first, second, third, next_request = [sent.headers[HEADER.lower()] for sent in stub.requests]
    assert first == second == third != next_request


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"idempotency_header": "Idempotency Key"}, "no header's name"),
        ({"idempotency_header": "authorization"}, "sent already"),
        ({"idempotency_header": "Content-Length"}, "sent already"),
        ({"idempotency_header": "x-once", "headers": {"X-Once": "1"}}, "sent already"),
        ({"idempotency_header": True}, "str"),
    ],
)
def test_a_wrong_name_is_told_before_serving(options: Any, fault: str) -> None:
    (told,) = OpenAIVendor(ReplayEgress()).check(target(options=options))
    assert told.startswith("options")
    assert fault in told


def test_the_usual_name_is_right() -> None:
    assert OpenAIVendor(ReplayEgress()).check(target()) == []
