import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from gatehook import Egress, GatewayError, InvalidRequest, Retry, encode
from gatehook.config.settings import EgressSettings
from gatehook.testing import Replay, ReplayEgress, Reply, StubUpstream, attempt
from gatehook_plugins.vendor_anthropic import VendorAnthropic
from gatehook_plugins.vendor_anthropic.profile import Defaults
from gatehook_plugins.vendor_anthropic.vendor import Anthropic

CHAT = {"model": "claude", "messages": [{"role": "user", "content": "Hello"}]}
MESSAGE = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + encode(data) + b"\n\n"


EVENTS = [
    event({"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 1}}}),
    event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}),
    event({"type": "content_block_stop", "index": 0}),
    event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
    event({"type": "message_stop"}),
]


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("", "https://api.anthropic.com/v1/messages"),
        ("https://proxy.test", "https://proxy.test/v1/messages"),
        ("https://proxy.test/", "https://proxy.test/v1/messages"),
        ("https://proxy.test/v1", "https://proxy.test/v1/messages"),
        ("https://proxy.test/v1/", "https://proxy.test/v1/messages"),
        ("https://proxy.test/anthropic", "https://proxy.test/anthropic/v1/messages"),
    ],
)
async def test_the_address_is_the_targets_or_the_vendors_own(ask: Any, base: str, url: str) -> None:
    assert (await ask(base_url=base)).url == url


async def test_the_plugins_base_url_is_used_where_the_target_has_none(ask: Any) -> None:
    run = await ask(defaults=Defaults(base_url="https://eu.test"))
    assert run.url == "https://eu.test/v1/messages"


async def test_the_headers(ask: Any) -> None:
    run = await ask(api_key=SecretStr("k-1"))
    assert run.headers == {"Content-Type": "application/json", "anthropic-version": "2023-06-01", "x-api-key": "k-1"}
    assert "x-api-key" not in (await ask()).headers


async def test_version_and_beta_come_from_the_settings_and_from_the_models_options(ask: Any) -> None:
    defaults = Defaults(version="2026-10-21", beta=("a-1",))
    run = await ask(defaults=defaults)
    assert (run.headers["anthropic-version"], run.headers["anthropic-beta"]) == ("2026-10-21", "a-1")
    run = await ask(defaults=defaults, options={"version": "2023-06-01", "beta": ["b-2", "a-1"]})
    assert (run.headers["anthropic-version"], run.headers["anthropic-beta"]) == ("2023-06-01", "a-1,b-2")
    assert (await ask(options={"beta": "c-3"})).headers["anthropic-beta"] == "c-3"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"thinking": "budgets"}, "thinking"),
        ({"samplign": True}, "samplign"),
        ({"default_max_tokens": "9"}, "max_tokens"),
    ],
)
async def test_wrong_options_are_told_and_another_deployment_may_be_tried(ask: Any, options: Any, told: str) -> None:
    with pytest.raises(GatewayError, match=told) as caught:
        await ask(options=options)
    assert (caught.value.status, caught.value.retry) == (500, Retry.NEXT)


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"thinking": "budget", "beta": ["a"]}, []),
        ({"thinking": "budgets"}, ["options: thinking: invalid value 'budgets'; did you mean 'budget'?"]),
        ({"samplign": True}, ["options: samplign: no such field; did you mean 'sampling'?"]),
    ],
)
def test_wrong_options_are_told_before_serving(options: Any, faults: list[str]) -> None:
    assert Anthropic(ReplayEgress(), Defaults()).check(attempt(CHAT, options=options).target) == faults


async def test_a_target_that_changed_under_its_key_is_seen() -> None:
    egress = ReplayEgress(Replay(encode(MESSAGE)))
    vendor = Anthropic(egress, Defaults())
    for base in ("https://one.test", "https://two.test"):
        await vendor.complete(attempt(CHAT, base_url=base))
    assert [request.path for request in egress.requests] == [
        "https://one.test/v1/messages",
        "https://two.test/v1/messages",
    ]


def test_the_plugin_gives_one_vendor_with_its_settings() -> None:
    class Gateway:
        egress = ReplayEgress(Replay(b""))

    settings = VendorAnthropic.Settings.model_validate({"forward_user": True, "beta": ["a"], "version": "2026-10-21"})
    (vendor,) = VendorAnthropic(settings).register_vendors(Gateway())  # type: ignore[arg-type]
    assert vendor.name == "anthropic"
    assert vendor.operations == {"chat", "completions"}
    assert vendor.parameters["chat"]["user"].disposition == "mapped"


async def test_a_real_socket_is_used_again_after_a_stream_and_closed_when_the_client_leaves() -> None:
    egress = Egress(EgressSettings())
    vendor = Anthropic(egress, Defaults())
    whole = Reply.of_events(EVENTS, pause=0.005)
    async with egress.lifespan(), StubUpstream(whole, whole, Reply.of_events(EVENTS[:3], end="silence")) as stub:

        def one() -> Any:
            return vendor.stream(attempt(CHAT | {"stream": True}, base_url=stub.url))

        for _ in range(2):
            text = [chunk.data async for batch in one() for chunk in batch]
            assert len(text) == 4
            assert stub.open == 1
        source = one()
        async for batch in source:
            if any(chunk.content for chunk in batch):
                break
        await source.aclose()
        await stub.closed_early.wait()


async def test_a_vendor_that_holds_the_line_after_the_end_holds_nobody_up() -> None:
    egress = Egress(EgressSettings())
    async with egress.lifespan(), StubUpstream(Reply.of_events(EVENTS, end="silence")) as stub:
        async with asyncio.timeout(5):
            vendor = Anthropic(egress, Defaults())
            chunks = [
                c async for batch in vendor.stream(attempt(CHAT | {"stream": True}, base_url=stub.url)) for c in batch
            ]
            assert chunks[-2].finished
            await stub.closed_early.wait()


async def test_a_plain_answer_over_a_real_socket() -> None:
    egress = Egress(EgressSettings())
    async with egress.lifespan(), StubUpstream(Reply.of_json(MESSAGE)) as stub:
        completion = await Anthropic(egress, Defaults()).complete(attempt(CHAT, base_url=stub.url))
        assert completion.data["choices"][0]["message"]["content"] == "Hi"
        assert stub.requests[0].path == "/v1/messages"


async def test_text_completions_are_chats_of_one_message(ask: Any) -> None:
    given = {
        "prompt": ["Say hi"],
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "stop": "\n\nQ:",
        "echo": False,
        "n": 1,
    }
    run = await ask(given, operation="completions")
    assert run.body == {
        "model": "upstream-model",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hi"}]}],
        "temperature": 0,
        "top_p": 0.5,
        "stop_sequences": ["\n\nQ:"],
    }
    assert run.completion.data["object"] == "text_completion"
    assert run.choice == {"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "stop"}


@pytest.mark.parametrize("given", [{"echo": True}, {"logprobs": 0}, {"best_of": 2}, {"suffix": "x"}, {"n": 2}])
async def test_what_a_chat_cannot_do_for_a_text_completion_is_refused(ask: Any, given: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask({"prompt": "x", **given}, operation="completions")
    assert caught.value.param in given
    assert caught.value.retry is Retry.NEXT


async def test_a_streamed_text_completion(stream: Any) -> None:
    run = await stream(b"".join(EVENTS), {"prompt": "x"}, operation="completions")
    assert {chunk.data["object"] for chunk in run.chunks} == {"text_completion"}
    choices = [choice for chunk in run.chunks for choice in chunk.data["choices"]]
    assert "".join(choice["text"] for choice in choices) == "Hi"
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert run.chunks[-1].usage_only
