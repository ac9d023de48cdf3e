from typing import Any

import pytest

from gatehook import Call, Chunk, InvalidRequest, Retry, StreamBuilder, Usage, completion, dropped, mapped, refused
from gatehook.legacy import as_chat, chunk_from_chat, completions_table, from_chat


def call(*, include_usage: bool = False) -> Call:
    one = Call(operation="completions", surface="test", headers={})
    one.model, one.include_usage = "public", include_usage
    return one


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
def test_a_prompt_becomes_one_user_message_and_the_rest_stays(prompt: Any) -> None:
    payload = {"model": "m", "prompt": prompt, "max_tokens": 0, "stop": ["a"]}
    assert as_chat(payload) == {
        "model": "m",
        "max_tokens": 0,
        "stop": ["a"],
        "messages": [{"role": "user", "content": "Once"}],
    }
    assert "prompt" in payload


@pytest.mark.parametrize("prompt", [None, "", [], [""], ["a", "b"], [1, 2], [[1, 2]], [[1], [2]], 5, [None], {"a": 1}])
def test_any_other_prompt_is_refused_so_that_another_deployment_may_be_tried(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^prompt: ") as caught:
        as_chat({"prompt": prompt})
    assert (caught.value.param, caught.value.retry) == ("prompt", Retry.NEXT)


def test_a_missing_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        as_chat({})


def test_the_table_takes_shared_parameters_from_the_chats_and_adds_its_own() -> None:
    chat = {
        "model": mapped("m"),
        "seed": dropped("no"),
        "n": refused("no", unless=(1,)),
        "messages": mapped("m"),
        "tools": mapped("t"),
    }
    table = completions_table(chat)
    assert table["seed"] is chat["seed"]
    assert table["n"] is chat["n"]
    assert not {"messages", "tools", "temperature"} & set(table)
    assert table["prompt"].disposition == "mapped"


@pytest.mark.parametrize(("name", "harmless"), [("echo", False), ("suffix", ""), ("best_of", 1)])
def test_what_a_chat_cannot_do_is_refused_unless_it_asks_for_nothing(name: str, harmless: Any) -> None:
    rule = completions_table({})[name]
    assert rule.disposition == "refused"
    assert rule.harmless(harmless)


def test_no_log_probabilities_are_harmless_not_even_none_beside_the_tokens_own() -> None:
    assert not completions_table({})["logprobs"].harmless(0)


def test_a_whole_answer() -> None:
    one = call()
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": "A"}, "logprobs": None, "finish_reason": "stop"},
        {"index": 1, "message": {"role": "assistant", "content": None}, "logprobs": None, "finish_reason": "length"},
    ]
    answer = from_chat(one, completion(one, choices, Usage(1, 2)))
    assert answer.usage == Usage(1, 2)
    assert answer.data["usage"]["total_tokens"] == 3
    assert (answer.data["object"], answer.data["model"]) == ("text_completion", "public")
    assert answer.data["id"] == "cmpl-" + one.id.removeprefix("req_")
    assert answer.data["choices"] == [
        {"index": 0, "text": "A", "logprobs": None, "finish_reason": "stop"},
        {"index": 1, "text": "", "logprobs": None, "finish_reason": "length"},
    ]


def test_a_streamed_answer_keeps_the_marks_of_each_chunk() -> None:
    one = call(include_usage=True)
    chat = StreamBuilder(one)
    before = [chat.open(), chat.reasoning("hm"), chat.text("A"), chat.finish("stop"), chat.usage(Usage(1, 2))]
    after: list[Chunk] = [chunk_from_chat(one, chunk) for chunk in before]
    assert [[c["text"] for c in chunk.data["choices"]] for chunk in after] == [[""], [""], ["A"], [""], []]
    assert [chunk.content for chunk in after] == [False, False, True, False, False]
    assert [chunk.finished for chunk in after] == [False, False, False, True, False]
    assert [chunk.usage_only for chunk in after] == [False, False, False, False, True]
    assert after[-1].usage == Usage(1, 2)
    assert after[2].data["usage"] is None
    assert after[3].data["choices"][0]["finish_reason"] == "stop"
    assert {(chunk.data["id"], chunk.data["object"]) for chunk in after} == {
        ("cmpl-" + one.id.removeprefix("req_"), "text_completion")
    }
