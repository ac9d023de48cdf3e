"""What the socket says, sorted to the runs it is of; what nobody here asked about is left alone."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Progress, WebSocket
from gatehook_plugins.vendor_comfyui.listener import Listener
from gatehook_plugins.vendor_comfyui.progress import Meter

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
PROMPT: Any = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "2": {"class_type": "KSampler", "inputs": {"steps": 3}},
    "3": {"class_type": "SaveImage", "inputs": {}},
}

# One run as ComfyUI 0.12.1 told it, with an older client (no feature flags); the ids are shortened.
TOLD: list[Any] = [
    ("status", {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "c"}),
    ("status", {"status": {"exec_info": {"queue_remaining": 1}}}),
    ("execution_start", {"prompt_id": "p", "timestamp": 1795206959906}),
    ("execution_cached", {"nodes": [], "prompt_id": "p", "timestamp": 1795206959906}),
    ("executing", {"node": "1", "display_node": "1", "prompt_id": "p"}),
    ("executing", {"node": "2", "display_node": "2", "prompt_id": "p"}),
    ("progress", {"value": 1, "max": 3, "prompt_id": "p", "node": "2"}),
    JPEG,
    ("progress", {"value": 2, "max": 3, "prompt_id": "p", "node": "2"}),
    JPEG,
    ("progress", {"value": 3, "max": 3, "prompt_id": "p", "node": "2"}),
    ("executing", {"node": "3", "display_node": "3", "prompt_id": "p"}),
    ("executed", {"node": "3", "output": {"images": [{"filename": "pv_00001_.png"}]}, "prompt_id": "p"}),
    ("execution_success", {"prompt_id": "p", "timestamp": 1795206959972}),
    ("status", {"status": {"exec_info": {"queue_remaining": 0}}}),
    ("executing", {"node": None, "prompt_id": "p"}),
]


class Run:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Progress] = []
        self.over = self.running = 0
        self.meter = Meter(PROMPT, lambda node: f"node {node}", self.told.append)

    def heard(self, *, over: bool = False, running: bool = False) -> None:
        self.over += over
        self.running += running


async def nowhere(client_id: str) -> WebSocket:
    raise AssertionError


@pytest.fixture
def listener() -> Listener:
    return Listener(nowhere)


def say(listener: Listener, message: Any) -> None:
    """As if it came from the socket."""
    if isinstance(message, bytes):
        listener._hear(struct.pack(">II", 1, 1) + message)
    else:
        listener._hear(json.dumps({"type": message[0], "data": message[1]}))


def test_a_run_is_followed_from_its_start_to_its_end(listener: Listener) -> None:
    run = listener.runs["p"] = Run()
    for message in TOLD[:-1]:
        say(listener, message)
        assert not run.over, "success is told before the history is written"
    say(listener, TOLD[-1])
    assert run.over == 1
    assert listener.remaining == 0
    fractions = [one.fraction for one in run.told]
    assert fractions == sorted(fractions)
    assert next(one.message for one in run.told if "step" in one.message) == "node 2: step 1 of 3"
    assert fractions[-1] == pytest.approx(4 / 5)
    assert [one.preview for one in run.told if one.preview] == [JPEG, JPEG]


def test_a_preview_that_names_its_run_goes_there(listener: Listener) -> None:
    run, other = listener.runs["p"], listener.runs["q"] = Run(), Run()
    say(listener, ("executing", {"node": "1", "prompt_id": "p"}))
    about = json.dumps({"prompt_id": "q", "node_id": "2"}).encode()
    listener._hear(struct.pack(">II", 4, len(about)) + about + JPEG)
    assert [one.preview for one in other.told] == [JPEG]
    assert not any(one.preview for one in run.told)


def test_runs_of_others_and_of_no_name_are_left_alone(listener: Listener) -> None:
    run = listener.runs["p"] = Run()
    say(listener, ("executing", {"node": "2"}))  # after a reconnection
    say(listener, ("progress", {"value": 1, "max": 2, "node": "2", "prompt_id": "theirs"}))
    say(listener, ("execution_error", {"prompt_id": "theirs"}))
    say(listener, JPEG)
    assert (run.told, run.over, run.running) == ([], 0, 0)


@pytest.mark.parametrize("kind", ["execution_error", "execution_interrupted"])
def test_a_bad_end_is_an_end(listener: Listener, kind: str) -> None:
    run = listener.runs["p"] = Run()
    say(listener, (kind, {"prompt_id": "p", "node_id": "2"}))
    assert run.over == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["node", "nodes", "value", "max"]), inner)
    ),
    max_leaves=6,
)


@given(
    st.one_of(
        st.binary(),
        st.text(),
        st.builds(
            lambda kind, data: json.dumps({"type": kind, "data": {"prompt_id": "p", **data}}),
            st.sampled_from(["status", "executing", "progress", "execution_cached", "executed"]),
            st.dictionaries(st.sampled_from(["node", "nodes", "value", "max", "status"]), JSON),
        ),
        st.builds(lambda kind, rest: struct.pack(">I", kind) + rest, st.sampled_from([1, 3, 4]), st.binary()),
    )
)
def test_nothing_that_an_extension_sends_breaks_it(message: str | bytes) -> None:
    listener = Listener(nowhere)
    run = listener.runs["p"] = Run()
    listener._hear(message)
    assert all(0 <= one.fraction <= 1 for one in run.told)
