"""The values that travel: ids that never meet, totals that add up, and no secret in any repr."""

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage
from pydantic import SecretStr

from gatehook.accounts import Usage
from gatehook.jsonio import Document
from gatehook.model import (
    ANONYMOUS,
    Attempt,
    Call,
    Chunk,
    Completion,
    Credential,
    Frames,
    Outcome,
    Principal,
    Target,
    ToolCall,
    Verdict,
)

SECRET = "s3cr3t-Zq81-never-shown"


def call(**rest: Any) -> Call:
    return Call("chat", "test", rest.pop("headers", {}), **rest)


def test_ids_are_unique_over_many() -> None:
    ids = [call().id for _ in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 36 and one.startswith("req_") and int(one[4:], 16) >= 0 for one in ids)


def test_ids_made_later_sort_later_but_for_the_256_that_share_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**18, 10**19, 10**6))
    monkeypatch.setattr("gatehook.model.time.time_ns", lambda: next(clock))
    ids = [call().id for _ in range(256 * 8)]
    pools = [ids[start : start + 256] for start in range(256, len(ids), 256)]  # one may have been begun before
    borders = [sorted(pool) for pool in pools]
    assert all(len({one[:16] for one in pool}) <= 2 for pool in pools)
    assert all(one[0] < other[0] for one, other in pairwise(borders))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_workers_forked_from_one_process_never_share_an_id() -> None:
    program = """
import os
from gatehook.model import Call
ids = lambda: [Call("chat", "test", {}).id for _ in range(600)]
ids()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, " ".join(ids()).encode())
    os._exit(0)
os.close(write)
mine = ids()
theirs = b""
while piece := os.read(read, 1 << 16):
    theirs += piece
print(len(set(mine) | set(theirs.decode().split())))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "1200"


def test_calls_share_nothing_that_can_change() -> None:
    one, other = call(), call()
    one.state["plugin"] = 1
    one.answer_headers["X"] = "1"
    one.body = Document({"a": 1})
    assert (other.state, other.answer_headers, other.payload) == ({}, {}, {})


def test_a_call_is_itself_only() -> None:
    one = call(id="req_1", started=0.0)
    assert one != call(id="req_1", started=0.0)
    assert len({one, call(id="req_1", started=0.0)}) == 2


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_totals_are_prompt_plus_completion_whatever_the_parts(
    prompt: int, completion: int, cached: int, written: int, reasoning: int
) -> None:
    usage = Usage(prompt, completion, cached, written, reasoning)
    assert usage.total_tokens == prompt + completion
    data = usage.as_openai()
    parsed = CompletionUsage.model_validate(data)
    assert (parsed.prompt_tokens, parsed.completion_tokens, parsed.total_tokens) == (
        prompt,
        completion,
        prompt + completion,
    )
    assert data["prompt_tokens_details"]["cached_tokens"] == cached
    assert data["completion_tokens_details"]["reasoning_tokens"] == reasoning
    assert data["prompt_tokens_details"].get("cache_write_tokens", 0) == written


@pytest.mark.parametrize(
    "value",
    [
        Target("m#1", "m", "v", "u", api_key=SecretStr(SECRET), options={"headers": {"X-Key": SECRET}}),
        Credential(SECRET, {"Authorization": f"Bearer {SECRET}", "X-API-Key": SECRET}),
        call(headers={"Authorization": f"Bearer {SECRET}"}, body=Document({"user": SECRET})),
        call(target=Target("m#1", "m", "v", "u", api_key=SecretStr(SECRET)), state={"auth": SECRET}),
        Attempt(
            call(headers={"X-API-Key": SECRET}, body=Document({"messages": SECRET})),
            Target("m#1", "m", "v", "u", api_key=SecretStr(SECRET)),
            {"messages": SECRET},
        ),
        Completion({"content": SECRET}),
        Chunk({"content": SECRET}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_secret_is_in_a_repr(value: object) -> None:
    for text in (repr(value), str(value), f"{value}", f"{[value]!r}", f"{value!a}"):
        assert SECRET not in text
        assert type(value).__name__ in text


def test_a_targets_key_is_given_in_clear_when_asked_for() -> None:
    assert Target("m#1", "m", "v", "u", api_key=SecretStr(SECRET)).secret() == SECRET
    assert Target("m#1", "m", "v", "u").secret() == ""


def test_a_principal_may_use_what_it_names_or_everything() -> None:
    assert ANONYMOUS.may_use("anything")
    assert not ANONYMOUS.admin
    some = Principal("u", models=frozenset({"a"}))
    assert (some.may_use("a"), some.may_use("b"), some.may_use("")) == (True, False, False)
    assert not Principal("u", models=frozenset()).may_use("a")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Principal("u"), "admin"),
        (Target("m#1", "m", "v", "u"), "api_key"),
        (Usage(), "prompt_tokens"),
        (Credential("", {}), "token"),
        (ToolCall("i", "n", "{}"), "name"),
        (Verdict("deny"), "kind"),
        (Outcome("complete", 200), "status"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_travel_do_not_change_on_the_way(value: object, field: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, field, True)


def test_an_attempt_hands_out_what_the_table_let_through() -> None:
    one = call(body=Document({"model": "m", "seed": 1}))
    target = Target("m#1", "m", "v", "u")
    assert Attempt(one, target).payload == {"model": "m", "seed": 1}
    assert Attempt(one, target, {}).payload == {}


def test_what_an_attempt_drops_is_told_once_and_in_order() -> None:
    attempt = Attempt(call(), Target("m#1", "m", "v", "u"))
    for name in ("seed", "user", "seed"):
        attempt.drop(name)
    assert attempt.dropped == ["seed", "user"]


def test_an_attempt_notes_no_more_than_could_be_told() -> None:
    attempt = Attempt(call(), Target("m#1", "m", "v", "u"))
    for number in range(3000):  # each is compared with all before it
        attempt.drop(f"messages[{number}].name")
    assert len(attempt.dropped) == 1000


def test_a_framed_batch_is_taken_apart_once_and_only_when_looked_at() -> None:
    split: list[bytes] = []

    def chunks(data: bytes) -> list[Chunk]:
        split.append(data)
        return [Chunk({"n": n}) for n in range(3)]

    batch = Frames(b"data: x", chunks, contents=2, finished=True, usage=Usage(1, 2))
    assert (batch.data, batch.contents, batch.finished, split) == (b"data: x", 2, True, [])
    assert len(batch) == 3
    assert [chunk.data["n"] for chunk in batch] == [0, 1, 2]
    assert (batch[1].data, [chunk.data["n"] for chunk in batch[1:]]) == ({"n": 1}, [1, 2])
    assert split == [b"data: x"]
