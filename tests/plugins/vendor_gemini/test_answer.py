"""Plain answers of Gemini, as OpenAI's."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from pydantic import SecretStr

from gatehook import Attempt, Completion, Retry, UpstreamError, Usage
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_gemini.vendor import Gemini

USER = {"role": "user", "content": "hello"}


async def answered(response: Any, raw: bytes | None = None, **asked: Any) -> tuple[Completion, Attempt]:
    one = attempt({"model": "public", "messages": [USER], **asked}, model="gemini-2.5-flash", vendor="gemini")
    replay = Replay(json.dumps(response).encode() if raw is None else raw)
    answer = await Gemini(ReplayEgress(replay)).complete(one)
    assert replay.closed
    ChatCompletion.model_validate(answer.data, strict=True)
    return answer, one


def candidate(*parts: dict[str, Any], reason: str | None = "STOP", **rest: Any) -> dict[str, Any]:
    finish = {"finishReason": reason} if reason else {}
    return {"content": {"role": "model", "parts": list(parts)}, **finish, **rest}


async def choice(*parts: dict[str, Any], reason: str | None = "STOP", **rest: Any) -> dict[str, Any]:
    answer, _ = await answered({"candidates": [candidate(*parts, reason=reason, **rest)]})
    (only,) = answer.data["choices"]
    found: dict[str, Any] = only
    return found


def function(name: str = "look", **call: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, **call}}


async def test_the_answer_has_openais_shape_under_the_public_name() -> None:
    answer, _ = await answered(
        {
            "candidates": [candidate({"text": "Hel"}, {"text": "lo"})],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
            "modelVersion": "gemini-2.5-flash-001",
            "responseId": "x",
        }
    )
    assert answer.data["model"] == "public"
    assert answer.data["id"].startswith("chatcmpl-")
    assert answer.data["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer.usage == Usage(3, 2)


async def test_words_and_calls_are_both_kept_and_a_stop_is_tool_calls() -> None:
    found = await choice({"text": "Let me see."}, function(args={"a": "é"}, id="fc-1"), function("other"))
    calls = found["message"]["tool_calls"]
    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["content"] == "Let me see."
    assert calls[0] == {
        "id": "fc-1",
        "type": "function",
        "function": {"name": "look", "arguments": '{"a":"é"}'},
        "extra_content": {"google": {"function_call_id": "fc-1"}},
    }
    assert calls[1]["function"] == {"name": "other", "arguments": "{}"}
    assert calls[1]["id"].startswith("call_")
    assert "extra_content" not in calls[1]


async def test_calls_alone_have_null_content() -> None:
    assert (await choice(function()))["message"]["content"] is None


async def test_calls_cut_by_the_token_limit_are_not_called_whole() -> None:
    assert (await choice(function(), reason="MAX_TOKENS"))["finish_reason"] == "length"


async def test_thoughts_are_reasoning_and_not_text() -> None:
    message = (await choice({"text": "Hm. ", "thought": True}, {"text": "So.", "thought": True}, {"text": "42"}))[
        "message"
    ]
    assert (message["reasoning_content"], message["content"]) == ("Hm. So.", "42")


async def test_signatures_go_to_the_client_with_what_they_sign() -> None:
    message = (await choice({"text": "42"}, {**function(), "thoughtSignature": "Y2FsbA=="}))["message"]
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "Y2FsbA=="}}
    assert "extra_content" not in message


async def test_an_empty_text_still_carries_its_signature() -> None:
    message = (await choice({"text": "42"}, {"text": "", "thoughtSignature": "dGV4dA=="}))["message"]
    assert (message["content"], message["extra_content"]) == ("42", {"google": {"thought_signature": "dGV4dA=="}})
    message = (await choice({"thoughtSignature": "dGV4dA=="}))["message"]
    assert (message["content"], message["extra_content"]) == ("", {"google": {"thought_signature": "dGV4dA=="}})


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTINUATION", "length"),
        *(
            (reason, "content_filter")
            for reason in (
                "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
                "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR", "ESCALATION",
            )
        ),
    ],
)  # fmt: skip
async def test_finish_reasons(reason: str, finish: str) -> None:
    assert (await choice({"text": "a"}, reason=reason))["finish_reason"] == finish


@pytest.mark.parametrize(
    ("reason", "signal"),
    [
        ("OTHER", "finish_reason.OTHER"),
        ("NEW\r\nX-Evil: 1", "finish_reason.NEWXEvil1"),
        (None, "finish_reason.missing"),
    ],
)
async def test_an_unknown_finish_reason_is_a_stop_with_a_signal(reason: str | None, signal: str) -> None:
    answer, one = await answered({"candidates": [candidate({"text": "a"}, reason=reason)]})
    assert answer.data["choices"][0]["finish_reason"] == "stop"
    assert one.dropped == [signal]


@pytest.mark.parametrize(
    ("reason", "retry"),
    [
        ("MALFORMED_FUNCTION_CALL", Retry.SAME),
        ("TOO_MANY_TOOL_CALLS", Retry.NEXT),
        ("UNEXPECTED_TOOL_CALL", Retry.SAME),
        ("MALFORMED_RESPONSE", Retry.SAME),
        ("MISSING_THOUGHT_SIGNATURE", Retry.NEXT),
    ],
)
async def test_a_broken_answer_is_an_error_and_no_stop(reason: str, retry: Retry) -> None:
    with pytest.raises(UpstreamError, match=f"gemini: .*{reason}") as caught:
        await answered({"candidates": [{"finishReason": reason, "content": {}}]})
    assert caught.value.retry is retry


@pytest.mark.parametrize("candidates", [{}, {"candidates": []}, {"candidates": None}])
async def test_a_blocked_prompt_is_a_filtered_choice(candidates: dict[str, Any]) -> None:
    feedback = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    answer, _ = await answered({**candidates, **feedback})
    (only,) = answer.data["choices"]
    assert (only["finish_reason"], only["message"]["content"]) == ("content_filter", "")
    assert answer.usage == Usage(4, 0)


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": {"role": "model"}}, {"content": {"parts": []}}])
async def test_thinking_that_ate_the_whole_cap_is_an_empty_answer_cut_short(content: dict[str, Any]) -> None:
    counts = {"promptTokenCount": 5, "thoughtsTokenCount": 64, "totalTokenCount": 69}
    answer, _ = await answered({"candidates": [{**content, "finishReason": "MAX_TOKENS"}], "usageMetadata": counts})
    (only,) = answer.data["choices"]
    assert (only["finish_reason"], only["message"]["content"]) == ("length", "")
    assert answer.usage == Usage(5, 64, reasoning_tokens=64)


async def test_several_candidates_are_choices_in_order() -> None:
    both = [candidate({"text": "b"}, index=1), candidate({"text": "a"})]
    answer, _ = await answered({"candidates": both})
    assert [(one["index"], one["message"]["content"]) for one in answer.data["choices"]] == [(0, "a"), (1, "b")]


async def test_log_probabilities() -> None:
    result = {
        "chosenCandidates": [{"token": "é", "logProbability": -0.5, "tokenId": 7}, {"token": "!"}],
        "topCandidates": [
            {"candidates": [{"token": "é", "logProbability": -0.5}, {"token": "e", "logProbability": -2}]}
        ],
    }
    found = await choice({"text": "é!"}, logprobsResult=result)
    first = {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]}
    assert found["logprobs"] == {
        "content": [
            {**first, "top_logprobs": [first, {"token": "e", "logprob": -2, "bytes": [0x65]}]},
            {"token": "!", "logprob": 0, "bytes": [0x21], "top_logprobs": []},
        ],
        "refusal": None,
    }


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({}, None),
        ({"trafficType": "ON_DEMAND", "totalTokenCount": 9}, None),
        ({"promptTokenCount": 7, "totalTokenCount": 900}, Usage(7)),
        (
            {
                "promptTokenCount": 10,
                "cachedContentTokenCount": 4,
                "toolUsePromptTokenCount": 2,
                "candidatesTokenCount": 3,
                "thoughtsTokenCount": 5,
            },
            Usage(12, 8, cached_tokens=4, reasoning_tokens=5),
        ),
    ],
)
async def test_usage(counts: dict[str, int], usage: Usage | None) -> None:
    answer, _ = await answered({"candidates": [candidate({"text": "a"})], "usageMetadata": counts})
    assert answer.usage == usage
    assert answer.data["usage"] == (usage and usage.as_openai())
    assert usage is None or answer.data["usage"]["total_tokens"] == usage.prompt_tokens + usage.completion_tokens


async def test_usage_that_was_not_told_is_null() -> None:
    answer, _ = await answered({"candidates": [candidate({"text": "a"})]})
    assert (answer.usage, answer.data["usage"]) == (None, None)


async def test_parts_without_a_place_are_told() -> None:
    sound = {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}
    sketch = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thought": True}
    answer, one = await answered({"candidates": [candidate(sound, {"executableCode": {}}, sketch, {"future": 1})]})
    assert one.dropped == ["answer.inlineData", "answer.executableCode"]
    assert "images" not in answer.data["choices"][0]["message"]


async def test_what_tools_of_googles_own_did_and_where_words_are_from_is_told_as_lost() -> None:
    parts: list[dict[str, Any]] = [
        {"toolCall": {"toolType": "X"}},
        {"toolResponse": {"toolType": "X"}, "thoughtSignature": "s"},
    ]
    cited = candidate(*parts, {"text": "So."}, citationMetadata={"citations": [{"uri": "https://a.example"}]})
    answer, one = await answered({"candidates": [cited]})
    assert answer.data["choices"][0]["message"]["content"] == "So."
    assert one.dropped == ["answer.toolCall", "answer.toolResponse", "answer.citationMetadata"]


async def test_why_an_answer_was_broken_off_is_told_without_secrets() -> None:
    secret = "k" * 30
    cut = candidate(reason="UNEXPECTED_TOOL_CALL", finishMessage=f"It called list_files. {secret} " + "x" * 5000)
    response = json.dumps({"candidates": [cut]}).encode()
    one = attempt({"model": "public", "messages": [USER]}, vendor="gemini", api_key=SecretStr(secret))
    with pytest.raises(UpstreamError, match=r"\(UNEXPECTED_TOOL_CALL\): It called list_files\.") as caught:
        await Gemini(ReplayEgress(Replay(response))).complete(one)
    assert secret not in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("reason", ["SAFETY", "MODEL_ARMOR"])
async def test_why_an_answer_was_filtered_is_the_refusal(reason: str) -> None:
    found = await choice({"text": "Well"}, reason=reason, finishMessage="It violates a policy.")
    assert (found["message"]["content"], found["message"]["refusal"]) == ("Well", "It violates a policy.")
    found = await choice({"text": "Well"}, reason="STOP", finishMessage="Model generated words.")
    assert found["message"]["refusal"] is None


async def test_why_a_prompt_was_blocked_is_the_refusal() -> None:
    feedback = {"blockReason": "MODEL_ARMOR", "blockReasonMessage": "The prompt violates a policy."}
    answer, _ = await answered({"promptFeedback": feedback})
    (only,) = answer.data["choices"]
    assert (only["finish_reason"], only["message"]["refusal"]) == ("content_filter", "The prompt violates a policy.")


async def test_pictures_are_shown_as_data_uris() -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "AA+/"}, "thoughtSignature": "s"}
    words = {"text": "A cat:", "thoughtSignature": "t"}
    answer, one = await answered({"candidates": [candidate(words, picture)]})
    message = answer.data["choices"][0]["message"]
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA+/"}}
    assert message["content"] == "A cat:"
    assert message["images"] == [shown | {"extra_content": {"google": {"thought_signature": "s"}}}]
    assert message["extra_content"] == {"google": {"thought_signature": "t"}}
    assert one.dropped == []


async def test_who_asks_for_one_call_at_a_time_gets_the_first() -> None:
    response = {"candidates": [candidate({"text": "a"}, function("one"), function("two"))]}
    answer, one = await answered(response, parallel_tool_calls=False)
    (choice,) = answer.data["choices"]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["one"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a", "tool_calls")
    assert one.dropped == ["answer.tool_calls"]


async def test_a_lone_surrogate_in_arguments_survives() -> None:
    part = b'{"functionCall":{"name":"f","args":{"x":"\\ud83d"}}}'
    raw = b'{"candidates":[{"content":{"parts":[%b]},"finishReason":"STOP"}]}' % part
    answer, _ = await answered(None, raw)
    assert answer.data["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"x":"\\ud83d"}'


@pytest.mark.parametrize(
    "response",
    [
        [],
        "hello",
        None,
        {},
        {"candidates": []},
        {"candidates": {}},
        {"candidates": ["x"]},
        {"candidates": [candidate(index="0")]},
        {"candidates": [candidate(index=True)]},
        {"candidates": [candidate(index=-1)]},
        {"candidates": [{"content": [], "finishReason": "STOP"}]},
        {"candidates": [candidate({"inlineData": {"mimeType": "image/png", "data": 'AA"><script>'}})]},
        {"candidates": [candidate({"inlineData": "a picture"})]},
        {"candidates": [{"content": {"parts": {}}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": ["x"]}, "finishReason": "STOP"}]},
        {"candidates": [candidate({"text": 5})]},
        {"candidates": [candidate({"text": "a", "thoughtSignature": 5})]},
        {"candidates": [candidate({"functionCall": "x"})]},
        {"candidates": [candidate({"functionCall": {}})]},
        {"candidates": [candidate({"functionCall": {"name": "f", "args": []}})]},
        {"candidates": [candidate({"functionCall": {"name": "f", "id": 5}})]},
        {"candidates": [{"content": {}, "finishReason": 1}]},
        {"candidates": [candidate({"text": "a"}, logprobsResult=[])]},
        {"candidates": [candidate({"text": "a"}, logprobsResult={"chosenCandidates": [1]})]},
        {"candidates": [candidate({"text": "a"}, logprobsResult={"chosenCandidates": [{"logProbability": "x"}]})]},
        {"candidates": [candidate({"text": "a"}, logprobsResult={"chosenCandidates": [{}], "topCandidates": [1]})]},
        {"candidates": [candidate({"text": "a"})], "usageMetadata": []},
        {"candidates": [candidate({"text": "a"})], "usageMetadata": {"promptTokenCount": "5"}},
        {"promptFeedback": "x"},
        {"promptFeedback": {}},
        {"error": {"code": 500, "message": "boom"}},
        {"error": "boom"},
        [{"error": {"message": "boom"}}],
    ],
)
async def test_an_unexpected_shape_is_an_upstream_error_naming_the_vendor(response: Any) -> None:
    with pytest.raises(UpstreamError, match=r"^gemini: "):
        await answered(response)


@pytest.mark.parametrize("raw", [b"<html>Sorry</html>", b"", b'{"candidates": [', b"\xff"])
async def test_a_200_that_is_no_json_is_an_upstream_error(raw: bytes) -> None:
    with pytest.raises(UpstreamError, match="gemini: the answer is not JSON"):
        await answered(None, raw)
