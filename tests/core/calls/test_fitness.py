from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Call, Group, InvalidRequest, Operation, Ranking, Target, encode
from gatehook.calls.fitness import fitting
from gatehook.calls.stages import routed
from gatehook.errors import WrongResultError
from gatehook.jsonio import Document

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def target(number: int, **fields: Any) -> Target:
    return Target(f"m#{number}", "m", "mock", "m", **fields)


def call(content: Any = "hello", operation: Operation = "chat", **body: Any) -> Call:
    said = {"messages": [{"role": "user", "content": content}], **body} if operation == "chat" else body
    return Call(operation, "test", {}, model="m", body=Document(raw=encode(said)))


def keys(made: Call, *targets: Target) -> list[str]:
    return [one.key for one in fitting(made, targets)]


def refusal(made: Call, *targets: Target) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        fitting(made, targets)
    return caught.value


def test_where_nothing_is_told_the_targets_themselves_are_given() -> None:
    targets = (target(1), target(2))
    assert fitting(call([PICTURE], tools=TOOLS, max_tokens=10**9), targets) is targets


@pytest.mark.parametrize("fields", [{}, {"context_window": 100}])
async def test_a_group_goes_through_itself_only_where_none_tells_its_limits(fields: dict[str, Any]) -> None:
    group = Group([target(1), target(2, **fields)])
    given = await routed([_Giving(group)], call())
    assert (given is group) == (not fields)
    assert list(given) == list(group)


@pytest.mark.parametrize("wrong", [(1,), Group([1]), [None], Group([None, target(1)]), "m"])  # type: ignore[list-item]
async def test_what_a_router_gives_has_to_be_targets(wrong: Any) -> None:
    with pytest.raises(WrongResultError):
        await routed([_Giving(wrong)], call())


class _Giving:
    """A router that gives these for every model."""

    def __init__(self, targets: Any) -> None:
        self.targets = targets

    async def route(self, call: Call) -> Sequence[Target] | None:
        given: Sequence[Target] = self.targets
        return given


def test_pictures_pass_over_who_cannot_see() -> None:
    blind, seeing, silent = target(1, capabilities=("chat",)), target(2, capabilities=("vision",)), target(3)
    assert keys(call([PICTURE]), blind, seeing, silent) == ["m#2", "m#3"]
    assert keys(call("no picture: image_url"), blind, seeing) == ["m#1", "m#2"]
    error = refusal(call([PICTURE]), blind)
    assert (error.status, error.code, error.param) == (400, "unsupported_capability", "messages")
    assert "the model 'm' has the capability 'vision'" in error.message


@pytest.mark.parametrize("offer", [{"tools": TOOLS}, {"functions": [{"name": "f"}]}])
def test_tools_pass_over_who_has_none(offer: Any) -> None:
    without, having = target(1, capabilities=("chat",)), target(2, capabilities=("tools",))
    assert keys(call(**offer), without, having) == ["m#2"]
    assert refusal(call(**offer), without).param == "tools"
    assert keys(call("tools and functions", tools=[]), without) == ["m#1"]


def test_an_escaped_key_offers_tools_too() -> None:
    made = call()
    made.body = Document(raw=b'{"messages": [], "\\u0074ools": [{"type": "function"}]}')
    assert refusal(made, target(1, capabilities=("chat",))).code == "unsupported_capability"


def test_longer_answers_than_a_deployment_gives_pass_it_over() -> None:
    short, long = target(1, max_tokens=100), target(2, max_tokens=1000)
    assert keys(call(max_tokens=100), short, long) == ["m#1", "m#2"]
    assert keys(call(max_completion_tokens=101), short, long) == ["m#2"]
    assert (
        "max_tokens: 1001 is more than the model 'm' can answer with (100)"
        in refusal(call(max_tokens=1001), short, long).message
    )


def test_a_prompt_goes_where_it_is_expected_to_find_room() -> None:
    small, large = target(1, context_window=1_000), target(2, context_window=100_000)
    text = "word " * 1_000  # 1,250 tokens as expected, 312 at least
    assert keys(call(text), small, large) == ["m#2"]
    assert keys(call(text), small, target(3)) == ["m#3"]
    assert keys(call(text), small) == ["m#1"]  # it may be shorter than expected: the vendor knows
    assert keys(call("short"), small, large) == ["m#1", "m#2"]


def test_prompt_and_answer_share_the_window() -> None:
    small, large = target(1, context_window=1_000), target(2, context_window=100_000)
    assert keys(call("word " * 500, max_tokens=900), small, large) == ["m#2"]
    assert keys(call("word " * 500, max_tokens=100), small, large) == ["m#1", "m#2"]


def test_a_prompt_that_surely_is_too_long_is_refused() -> None:
    error = refusal(call("x" * 16_100), target(1, context_window=1_000), target(2, context_window=900))
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert keys(call("x" * 15_900), target(1, context_window=1_000)) == ["m#1"]
    assert (
        refusal(call(operation="completions", prompt="x" * 16_100), target(1, context_window=1_000)).param == "prompt"
    )


def test_of_several_prompts_each_has_its_own_window() -> None:
    narrow = target(1, context_window=1_000)
    assert keys(call(operation="completions", prompt=["x" * 9_000] * 20), narrow) == ["m#1"]
    assert keys(call(operation="completions", prompt=["x" * 3_000] * 20), narrow, target(2)) == ["m#1", "m#2"]
    assert refusal(call(operation="completions", prompt=["x", "x" * 16_100]), narrow).param == "prompt"


def test_media_are_not_counted_as_text() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}}
    assert keys(call([PICTURE, sound]), target(1, context_window=1_000), target(2)) == ["m#1", "m#2"]


def test_embeddings_are_not_measured_each_input_has_its_own_window() -> None:
    made = call(operation="embeddings", input=["x" * 10_000] * 10)
    assert keys(made, target(1, context_window=100, max_tokens=5)) == ["m#1"]


@given(
    windows=st.lists(st.none() | st.integers(1, 400), min_size=1, max_size=5),
    size=st.integers(0, 5_000),
    answer=st.integers(0, 300),
)
def test_none_is_refused_that_could_fit_and_the_order_stays(windows: list[int | None], size: int, answer: int) -> None:
    targets = [target(number, context_window=window) for number, window in enumerate(windows)]
    made = call("x" * size, max_tokens=answer)
    try:
        found = fitting(made, targets)
    except InvalidRequest:
        assert all(window is not None and (size + 4) // 16 > window for window in windows)
    else:
        assert [one for one in targets if one in found] == list(found) != []


def test_of_a_ranking_only_the_first_is_looked_at_until_it_fails() -> None:
    able, blind, small, wide = target(1), target(2, capabilities=("chat",)), target(3, max_tokens=5), target(4)
    asked: list[bool] = []

    def others() -> list[Target]:
        asked.append(True)
        return [blind, small, wide]

    found = fitting(call([PICTURE], max_tokens=10), Ranking(able, others))
    assert found[0] is able
    assert not asked
    assert [one.key for one in found] == ["m#1", "m#4"]


def test_of_a_ranking_whose_first_cannot_serve_the_next_one_does() -> None:
    blind, able = target(1, capabilities=("chat",)), target(2, capabilities=("vision",))
    assert [one.key for one in fitting(call([PICTURE]), Ranking(blind, lambda: [able]))] == ["m#2"]
    with pytest.raises(InvalidRequest, match="vision"):
        fitting(call([PICTURE]), Ranking(blind, lambda: [blind]))
