"""Text completions, embeddings, several choices, and plain objects: what a rewriter makes of each."""

import json
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import Call, Chunk, Completion, Document, Usage
from gatehook.testing import Reply, StubUpstream, serving
from gatehook_guard import GuardPlugin
from gatehook_guard.detectors import KINDS
from gatehook_guard.guard import Guard, Policy
from gatehook_guard.vault import PLACEHOLDER, Vault

MAIL = "ann@example.org"
SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_openai]
[plugins.guard]
[[models]]
name = "m"
vendor = "openai"
base_url = "URL/v1"
"""


async def post(reply: Reply, path: str, body: dict[str, Any]) -> tuple[Any, bytes]:
    async with StubUpstream(reply) as stub:
        async with (
            serving(SETTINGS.replace("URL", stub.url), plugins={"guard": GuardPlugin}) as served,
            ClientSession(served.url) as session,
            session.post(path, json={"model": "m", **body}) as answer,
        ):
            data = await answer.read()
        return stub.requests[0].json, data


async def rewriter(request: dict[str, Any], operation: str = "chat") -> tuple[Call, Any]:
    call = Call(operation, "test", {})
    call.body = Document(request)
    return call, await Guard(tuple(KINDS.values()), Policy()).transform(call)


async def test_text_completions_streamed_and_whole() -> None:
    head = {"id": "x", "object": "text_completion", "created": 1, "model": "m"}
    texts = [("Hi [EM", None), ("AIL_1] from eve@exa", None), ("mple.org", "stop")]
    chunks = [
        {**head, "choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}]}
        for text, reason in texts
    ]
    body = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
    sent, data = await post(Reply.of_events(body), "/v1/completions", {"prompt": [f"I am {MAIL}"], "stream": True})
    assert sent["prompt"] == ["I am [EMAIL_1]"]
    events = [json.loads(event[6:]) for event in data.split(b"\n\n") if event[6:7] == b"{"]
    assert "".join(event["choices"][0]["text"] for event in events) == f"Hi {MAIL} from [EMAIL_2]"
    whole = {**head, "choices": [{"index": 0, "text": "Hi [EMAIL_1]", "finish_reason": "stop"}]}
    _, data = await post(Reply.of_json(whole), "/v1/completions", {"prompt": f"I am {MAIL}"})
    assert json.loads(data)["choices"][0]["text"] == f"Hi {MAIL}"


async def test_embeddings_are_made_of_masked_texts_and_come_back_as_they_are() -> None:
    vectors = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "m"}
    sent, data = await post(Reply.of_json(vectors), "/v1/embeddings", {"input": [MAIL, "plain"]})
    assert sent["input"] == ["[EMAIL_1]", "plain"]
    assert json.loads(data)["data"] == vectors["data"]


async def test_a_request_without_a_find_goes_out_byte_by_byte_as_it_came() -> None:
    call, _ = await rewriter({"messages": [{"role": "user", "content": "hello"}]})
    before = call.body
    assert await Guard(tuple(KINDS.values()), Policy()).transform(call) is not None
    assert call.body is before
    call, found = await rewriter({"input": [[1, 2], [3]], "prompt": None, "messages": "no list"})
    assert call.answer_headers == {}
    assert found is not None


async def test_choices_are_texts_of_their_own_and_the_usage_stays() -> None:
    _, change = await rewriter({"messages": [{"role": "user", "content": MAIL}]})

    def chunk(index: int, text: str, reason: str | None = None) -> Chunk:
        choice = {"index": index, "delta": {"content": text}, "finish_reason": reason}
        return Chunk({"id": "x", "choices": [choice]}, content=bool(text), finished=reason is not None)

    usage = Chunk({"id": "x", "choices": [], "usage": {}}, usage=Usage(1, 2), usage_only=True)
    given = [chunk(0, "a [EMA"), chunk(1, "b [EMA"), chunk(0, "IL_1]", "stop"), chunk(1, "IL_1]", "stop"), usage]
    said = {0: "", 1: ""}
    for one in given:
        for new in change.chunks([one]):
            for choice in new.data["choices"]:
                said[choice["index"]] += choice["delta"].get("content", "")
            assert new is usage or new.finished == (new.data["choices"][0]["finish_reason"] is not None)
    assert said == {0: f"a {MAIL}", 1: f"b {MAIL}"}
    assert change.rest() == []
    whole = Completion({"choices": [], "results": [{"document": {"text": "[EMAIL_1]"}}]}, usage=Usage(1, 2))
    new = change.completion(whole)
    assert new.data["results"][0]["document"]["text"] == MAIL
    assert new.usage == Usage(1, 2)


async def test_what_is_held_at_the_end_of_a_stream_without_an_end_is_given_out() -> None:
    _, change = await rewriter({"messages": [{"role": "user", "content": MAIL}]})
    choice = {"index": 0, "delta": {"content": "bye ann"}, "finish_reason": None}
    change.chunks([Chunk({"id": "x", "choices": [choice]}, content=True)])
    (rest,) = change.rest()
    assert rest.data["choices"][0]["delta"] == {"content": "ann"}
    assert rest.data["id"] == "x"


def test_a_vault_numbers_by_label_and_gives_each_value_one_placeholder() -> None:
    vault = Vault(frozenset({"[EMAIL_2]"}))
    made = [vault.mask("EMAIL", one) for one in ("a", "b", "a")] + [vault.mask("IP", "c")]
    assert made == ["[EMAIL_1]", "[EMAIL_3]", "[EMAIL_1]", "[IP_1]"]
    assert vault.value("[EMAIL_3]") == "b"
    assert vault.value("[EMAIL_2]") is None
    assert vault.counts == {"EMAIL": 2, "IP": 1}
    assert vault.placeholders == {"[EMAIL_1]", "[EMAIL_2]", "[EMAIL_3]", "[IP_1]"}
    assert PLACEHOLDER.longest >= len("[" + "A" * 31 + "_999999]")


async def test_every_field_that_holds_text_is_masked_and_keys_with_dots_mix_nothing_up() -> None:
    asked = {
        "suffix": f"for {MAIL}",
        "prediction": {"type": "content", "content": [{"type": "text", "text": MAIL}]},
        "safety_identifier": MAIL,
        "negative_prompt": MAIL,
        "metadata": {"a.b": MAIL, "a": {"b": "plain"}, "c": {"d": "plain"}, "c.d": MAIL},
    }
    call, _ = await rewriter(asked, "completions")
    assert call.payload == json.loads(json.dumps(asked).replace(MAIL, "[EMAIL_1]"))
    assert call.answer_headers == {"X-Guard-Masked": "email=1"}


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("before", ["\n", "\t", "\x1f", '"', "\\", "/", "\u201c", "é", "\N{E-MAIL SYMBOL}"])
async def test_values_in_arguments_are_looked_at_as_they_are_meant(before: str, ascii_only: bool) -> None:
    def arguments(value: str) -> str:
        return json.dumps({"x": value}, ensure_ascii=ascii_only)

    def turn(text: str, **more: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": text}}], **more}

    value = f"Hi{before}{MAIL}{before}4111111111111111{before}bye"
    call, change = await rewriter({"messages": [turn(arguments(value), role="assistant")]})
    sent = call.payload["messages"][0]["tool_calls"][0]["function"]["arguments"]
    masked = value.replace(MAIL, "[EMAIL_1]").replace("4111111111111111", "[CARD_1]")
    assert json.loads(sent) == {"x": masked}
    found = change.completion(
        Completion({"choices": [{"message": turn(arguments(f"{masked}{before}eve@example.org"))}]})
    )
    (made,) = found.data["choices"][0]["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"x": f"{value}{before}[EMAIL_2]"}
    said = ""
    for letter in arguments(masked):
        choice = {"index": 0, "delta": turn(letter), "finish_reason": None}
        for chunk in change.chunks([Chunk({"id": "x", "choices": [choice]}, content=True)]):
            said += chunk.data["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]
    for chunk in change.rest():
        said += chunk.data["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(said) == {"x": value}


@pytest.mark.parametrize("text", ['{"x": "\\', '{"x": "\\u00', '{"x": "\\q\\u12zz', "\\ud83d"])
async def test_arguments_that_are_no_json_come_out_as_they_went_in(text: str) -> None:
    _, change = await rewriter({"messages": []})
    call = {"function": {"name": "f", "arguments": text}}
    found = change.completion(Completion({"choices": [{"message": {"tool_calls": [call]}}]}))
    (made,) = found.data["choices"][0]["message"]["tool_calls"]
    assert made["function"]["arguments"] == text
