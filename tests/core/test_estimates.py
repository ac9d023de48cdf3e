"""What a call will use, told before: never more than the bound, and not absurdly far from what is expected."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Call, Document, Group, Operation, Target, encode, estimate, expected_prompt
from gatehook.estimates import has_pictures, look_again

WORDS = st.text(max_size=400)


def call(operation: Operation = "chat", **body: Any) -> Call:
    made = Call(operation, "openai", {})
    made.body = Document(raw=encode({"model": "m", **body}))
    return made


def target(max_tokens: int | None = None, context_window: int | None = None) -> Target:
    return Target("m#1", "m", "v", "u", max_tokens=max_tokens, context_window=context_window)


def say(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@given(st.lists(WORDS, max_size=5), st.none() | st.integers(1, 10_000))
def test_no_tokeniser_makes_more_of_it_than_the_bound(texts: list[str], limit: int | None) -> None:
    # A token holds at least one byte of text; each message costs a few more.
    messages = [message for text in texts for message in say(text)]
    made = estimate(call(messages=messages, max_tokens=limit), [target()])
    assert made.prompt_most >= sum(len(text.encode()) + 8 for text in texts)
    assert 0 < made.prompt <= made.prompt_most
    assert made.completion <= made.completion_most == (limit or 16_384)
    assert (made.tokens, made.most) == (made.prompt + made.completion, made.prompt_most + made.completion_most)


@given(st.lists(st.sampled_from([b"{", b"}", b"[", b"text"]), max_size=50))
def test_each_object_may_take_some_tokens_more(parts: list[bytes]) -> None:
    raw = b"".join(parts)
    made = Call("chat", "openai", {}, choices=1, body=Document(raw=raw))
    assert estimate(made, [target()]).prompt_most == len(raw) + 16 * raw.count(b"{")


def test_plain_english_is_expected_at_about_four_bytes_a_token() -> None:
    made = estimate(call(messages=say("word " * 4_000)), [target()])
    assert 4_500 < made.prompt < 5_500


@pytest.mark.parametrize(
    ("body", "deployments", "most"),
    [
        ({"max_tokens": 7}, [target(100)], 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, [target(100)], 9),
        ({}, [target(100), target(300)], 300),
        ({}, [target(100), target(None)], 16_384),
        ({}, [target(None, 2_000)], 2_000),
        ({"n": 3, "max_tokens": 10}, [target()], 30),
        ({"max_tokens": "many", "n": "all"}, [target()], 16_384),
        ({}, [], 16_384),
    ],
)
def test_an_answer_is_bounded_by_who_says_so(body: dict[str, Any], deployments: list[Target], most: int) -> None:
    assert estimate(call(messages=say("x"), **body), deployments).completion_most == most


def test_a_prompt_is_never_expected_to_be_larger_than_every_window() -> None:
    made = estimate(call(messages=say("x" * 100_000)), [target(None, 1_000)])
    assert (made.prompt, made.prompt_most) == (1_000, 1_000)


def test_embeddings_have_no_answer() -> None:
    made = estimate(call("embeddings", input=["some words"] * 10), [target()])
    assert (made.completion, made.completion_most) == (0, 0)
    assert made.prompt > 10


def test_a_picture_counts_as_a_picture_and_not_by_its_bytes() -> None:
    picture = "data:image/png;base64," + base64.b64encode(bytes(1_000_000)).decode()
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": picture}}]
    made = estimate(call(messages=say(parts)), [target()])
    assert 1_000 <= made.prompt < 1_200
    assert 6_000 <= made.prompt_most < 6_500


def test_a_picture_that_a_model_has_made_counts_as_one_and_asks_nobody_to_see_it() -> None:
    made = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4_000_000}}
    drawn = {"role": "assistant", "content": "Here it is.", "images": [made, made]}
    one = call(messages=[*say("draw it"), drawn, *say("now in blue")])
    size = estimate(one, [target()])
    assert 2_000 <= size.prompt < 2_200
    assert 12_000 <= size.prompt_most < 12_600
    assert not has_pictures(one)


@pytest.mark.parametrize("address", ["https://example.com/cat.png", "data:image/png;base64," + "A" * 9_000])
def test_all_that_stands_beside_a_picture_counts(address: str) -> None:
    picture = say([{"type": "image_url", "image_url": {"url": address}}])
    tools = [{"type": "function", "function": {"name": "f", "description": "word " * 2_000}}]
    made = estimate(call(messages=picture, tools=tools), [target()])
    assert 3_500 <= made.prompt < 4_000
    assert made.prompt_most >= 16_000


def test_a_picture_whose_name_is_written_in_escapes_is_one() -> None:
    plain, escaped = call(messages=say([{"type": "image_url", "image_url": "https://example.com/cat.png"}])), call()
    escaped.body = Document(raw=plain.body.raw.replace(b"image_url", rb"\u0069mage\u005furl"))
    assert estimate(escaped, [target()]).prompt_most > 6_000


@pytest.mark.parametrize("name", ["max_tokens", rb"max\u005ftokens".decode()])
def test_what_only_the_whole_body_tells_is_read_from_it(name: str) -> None:
    made = call(messages=say("x"))
    made.body = Document(raw=b'{"text": "\\ud83d", "%s": 7, "n": 2}' % name.encode())
    assert estimate(made, [target()]).completion_most == 14


def test_a_body_with_one_list_is_not_decoded_to_look_for_pictures() -> None:
    made = Call("chat", "openai", {}, choices=1, body=Document(raw=b'{"messages": ["image_url" and no JSON'))
    assert not has_pictures(made)
    assert estimate(made, [target()]).prompt_most < 6_000


def test_a_document_counts_by_its_bytes() -> None:
    parts = [{"type": "file", "file": {"file_data": "x" * 50_000}}]
    assert estimate(call(messages=say(parts)), [target()]).prompt_most > 50_000


@pytest.mark.parametrize(
    "messages",
    [None, "text", [1], [{"content": [None, {"type": "image_url"}]}], {"image_url": 1}, [{"images": {"image_url": 1}}]],
)
def test_what_no_surface_has_looked_at_breaks_nothing(messages: Any) -> None:
    assert estimate(call(messages=messages, extra='"image_url"'), []).prompt_most >= 0


def test_a_call_is_estimated_once_for_the_same_deployments() -> None:
    one, short, long = call(messages=say("x")), [target(10)], [target(10), target(1_000)]
    assert estimate(one, short) is estimate(one, short) is one.size
    assert estimate(one, long).completion_most == 1_000
    assert estimate(one, short).completion_most == 10


@pytest.mark.parametrize("operation", ["chat", "embeddings", "images"])
def test_so_is_one_of_any_operation(operation: Operation) -> None:
    one, group = call(operation, messages=say("x"), input="x", prompt="x"), Group([target()])
    assert estimate(one, group) is estimate(one, group)


def test_what_has_changed_is_estimated_by_its_body() -> None:
    one = call(messages=say("x"))
    one.choices, one.max_tokens = 1, 10
    assert estimate(one, []).completion_most == 10
    one.body = Document({"messages": say("x"), "max_tokens": 70, "n": 2})
    look_again(one)
    assert (estimate(one, []).completion_most, one.max_tokens, one.choices) == (140, 70, 2)
    one.body = Document({"messages": say("x")})
    look_again(one)
    assert estimate(one, []).images == 1
    assert one.max_tokens is None


@pytest.mark.parametrize("told", [None, 1])
def test_each_of_several_prompts_is_answered_however_it_has_changed(told: int | None) -> None:
    one = call("completions", prompt=["a", "b", [1, 2]], n=2, best_of=3, max_tokens=10)
    one.choices = told
    look_again(one)
    assert estimate(one, []).completion_most == 3 * 3 * 10
    one = call("completions", prompt=[1, 2, 3], max_tokens=10)
    assert estimate(one, []).completion_most == 10


def test_a_request_for_no_text_is_none_however_it_has_changed() -> None:
    one = call(messages=say("x"), max_tokens=70)
    one.choices = 0
    look_again(one)
    assert (estimate(one, []).completion_most, one.choices) == (0, 0)


def test_pictures_are_estimated_by_the_piece() -> None:
    made = estimate(call("images", prompt="a cat", n=3), [target()])
    assert made.images == 3
    assert 0 < made.completion < made.completion_most
    bounded = estimate(call("images", prompt="a cat", n=2), [target(max_tokens=10)])
    assert bounded.completion_most == 20
    assert estimate(call(messages=say("a cat"), n=2), [target()]).images == 2


@pytest.mark.parametrize("asked_before", [False, True])
def test_the_expected_prompt_is_that_of_the_estimate(asked_before: bool) -> None:
    group = Group([target(None, 1_000)])
    for size in (0, 400, 100_000):
        one = call(messages=say("x" * size))
        if asked_before:
            estimate(one, group)
        assert expected_prompt(one, group) == estimate(one, group).prompt


@pytest.mark.parametrize(("operation", "name"), [("embeddings", "input"), ("completions", "prompt")])
@pytest.mark.parametrize(
    ("given", "most"),
    [("x" * 9_000, 1_000), (["x" * 9_000], 1_000), (["x" * 3_000] * 3, 3_000), ([[7] * 4_000] * 2, 2_000),
     ([7] * 4_000, 1_000)],
)  # fmt: skip
def test_each_of_several_prompts_has_a_context_window_for_itself(
    operation: Operation, name: str, given: Any, most: int
) -> None:
    assert estimate(call(operation, **{name: given}), [target(None, 1_000)]).prompt_most == most
