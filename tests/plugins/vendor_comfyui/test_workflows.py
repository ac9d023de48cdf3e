"""Workflows are checked before anything is sent: their shape, their inputs, and what clients give."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import InvalidRequest, Target
from gatehook.testing import attempt
from gatehook_plugins.vendor_comfyui.asked import read_images
from gatehook_plugins.vendor_comfyui.metadata import without_metadata
from gatehook_plugins.vendor_comfyui.options import Options
from gatehook_plugins.vendor_comfyui.vendor import ComfyVendor
from gatehook_plugins.vendor_comfyui.workflow import Input, Workflow, load

GOOD: Any = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 0}},
    "2": {"class_type": "Text", "inputs": {"text": "a dog", "strength": 0.5, "on": True, "from": ["1", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "made"}},
}
PROMPT = {"prompt": "2.text"}


def faults(tmp_path: Path, workflow: Any, /, **options: Any) -> list[str]:
    """What `gatehook check` says."""
    text = workflow if isinstance(workflow, str) else json.dumps(workflow)
    (tmp_path / "w.json").write_text(text)
    target = Target(
        "m#1", "m", "comfyui", "m", base_url="http://a:1", options={"workflow": "w.json", "inputs": PROMPT, **options}
    )
    return list(ComfyVendor(None, None, None, tmp_path).check(target))  # type: ignore[arg-type]


def without(node: str, key: str) -> Any:
    return {**GOOD, node: {name: value for name, value in GOOD[node].items() if name != key}}


def test_a_sound_workflow_has_no_faults(tmp_path: Path) -> None:
    assert faults(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object of nodes"),
        ({}, "expected an object of nodes"),
        ({"nodes": [], "links": []}, "Export (API)"),
        ({**GOOD, "5": "text"}, "node '5': expected an object"),
        (without("1", "class_type"), "node '1': class_type is missing"),
        (without("1", "inputs"), "node '1': inputs is missing"),
        ({**GOOD, "5": {"class_type": "X", "inputs": {"a": ["77", 0]}}}, "a: comes from node '77'"),
        (
            {
                **GOOD,
                "5": {"class_type": "X", "inputs": {"a": ["6", 0]}},
                "6": {"class_type": "X", "inputs": {"a": ["5", 0]}},
            },
            "nodes wait for each other: ",
        ),
        ({**GOOD, "9": {"class_type": "SaveImageWebsocket", "inputs": {}}}, "use SaveImage or PreviewImage"),
    ],
)
def test_a_broken_workflow_is_told(tmp_path: Path, workflow: Any, words: str) -> None:
    assert any(words in fault for fault in faults(tmp_path, workflow)), faults(tmp_path, workflow)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workflow": "nowhere.json"}, "workflow 'nowhere.json': cannot be read: No such file"),
        ({"inputs": {}}, "inputs: prompt: say which node gets it"),
        ({"inputs": {"prompt": "7.text"}}, "there is no node '7'"),
        ({"inputs": {"prompt": "text"}}, "there is no node ''"),
        ({"inputs": {"prompt": "2.txt"}}, "node '2' has no 'txt', but: text, strength, on, from"),
        ({"inputs": {"prompt": "2.from"}}, "gets its value from node '1'"),
        ({"inputs": {**PROMPT, "size": "1.width"}}, "another meaning"),
        ({"inputs": {**PROMPT, "x": {"node": ["1.width", "2.text"]}}}, "places of different types"),
        ({"inputs": {**PROMPT, "w": {"node": "1.width", "max": 32}}}, "the workflow's own value 64 does not suit"),
        ({"inputs": {**PROMPT, "w": {"node": []}}}, "node is empty"),
        ({"inputs": {**PROMPT, "w": {"nod": "1.width"}}}, "options: inputs[...].nod: no such field"),
        ({"outputs": ["8"]}, "outputs: there is no node '8'"),
        ({"pol": 1}, "options: pol: no such field; did you mean 'poll'?"),
    ],
)
def test_options_that_do_not_suit_the_workflow_are_told(tmp_path: Path, options: Any, words: str) -> None:
    found = faults(tmp_path, GOOD, **options)
    assert any(words in fault for fault in found), found


def test_a_deployment_without_an_address_is_told(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(GOOD))
    target = Target("m#1", "m", "comfyui", "m", options={"workflow": "w.json", "inputs": PROMPT})
    assert ["base_url" in fault for fault in ComfyVendor(None, None, None, tmp_path).check(target)] == [True]  # type: ignore[arg-type]


def workflow(tmp_path: Path, **inputs: Any) -> Workflow:
    (tmp_path / "w.json").write_text(json.dumps(GOOD))
    return load(msgspec.convert({"workflow": "w.json", "inputs": {**PROMPT, **inputs}}, Options), tmp_path)


@pytest.mark.parametrize(
    ("name", "place", "good", "bad"),
    [
        ("width", "1.width", [1, 2**40], ["1", 1.5, True, None, [], float("nan")]),
        ("strength", "2.strength", [1, 0.5], ["1", True, float("inf")]),
        ("on", "2.on", [True, False], [1, "true"]),
        ("negative", "2.text", ["", "x"], [1, "x" * 100_001, ["x"]]),
    ],
)
def test_values_must_be_of_the_type_that_stands_there(
    tmp_path: Path, name: str, place: str, good: list[Any], bad: list[Any]
) -> None:
    made = workflow(tmp_path, **{name: place})
    one = next(one for key, one in made.inputs.items() if key != "prompt")
    for value in good:
        assert one.read(value) == value
    for value in bad:
        with pytest.raises(InvalidRequest):
            one.read(value)


def test_choices_are_all_that_is_allowed(tmp_path: Path) -> None:
    made = workflow(tmp_path, colour={"node": "1.color", "type": "text", "choices": ["red", "blue"]})
    assert made.inputs["colour"].read("red") == "red"
    with pytest.raises(InvalidRequest, match="red, blue"):
        made.inputs["colour"].read("green")


@given(st.integers() | st.floats(allow_nan=True), st.integers(-100, 100), st.integers(0, 100))
def test_nothing_beyond_its_bounds_is_ever_let_through(value: float, low: int, width: int) -> None:
    one = Input("x", [("1", "x")], "float", low, low + width)
    if not one.misfit(value):
        assert low <= value <= low + width


def test_one_value_goes_to_several_places_and_the_workflow_itself_is_not_changed(tmp_path: Path) -> None:
    made = workflow(tmp_path, side={"node": ["1.width", "1.height"]})
    filled = made.filled({"side": 8, "prompt": "x"}, "tag")
    assert filled["1"]["inputs"] == {"width": 8, "height": 8, "color": 0}
    assert filled["9"]["inputs"]["filename_prefix"] == "made_tag"
    assert made.filled({}, "t")["1"]["inputs"]["width"] == 64
    assert made.nodes["9"]["inputs"]["filename_prefix"] == "made"


@given(st.integers(0, 9), st.integers(0, 5), st.integers(0, 5), st.integers(1, 10))
def test_seeds_of_several_runs_stay_within_the_bounds(start: int, low: int, width: int, times: int) -> None:
    made = Workflow(GOOD, {
        "prompt": Input("prompt", [("2", "text")], "text"),
        "seed": Input("seed", [("1", "color")], "int", low, low + width),
    })  # fmt: skip
    seed = low + start % (width + 1)
    asked = read_images(attempt({"prompt": "p", "n": times, "seed": seed}, operation="images"), made)
    seeds = [asked.round(number, made)["seed"] for number in range(times)]
    assert seeds[0] == seed
    assert all(low <= one <= low + width for one in seeds)
    assert len(set(seeds)) == min(times, width + 1)


@pytest.mark.parametrize("field", ["negative", "negative_prompt"])
@pytest.mark.parametrize("declared", ["negative", "negative_prompt"])
def test_the_negative_prompt_has_two_names(tmp_path: Path, field: str, declared: str) -> None:
    made = workflow(tmp_path, **{declared: "2.text"})
    asked = read_images(attempt({"prompt": "p", field: "ugly"}, operation="images"), made)
    assert asked.values["negative_prompt"] == "ugly"


def test_a_strict_deployment_refuses_what_it_has_no_place_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cfg"):
        read_images(attempt({"prompt": "p", "cfg": 7}, operation="images", strict=True), workflow(tmp_path))


# --- metadata ------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


KINDS = st.sampled_from([b"IHDR", b"IDAT", b"IEND", b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"acTL", b"gAMA"])


@given(st.lists(st.tuples(KINDS, st.binary(max_size=20))))
def test_texts_leave_a_png_and_all_else_stays(parts: list[tuple[bytes, bytes]]) -> None:
    signature = b"\x89PNG\r\n\x1a\n"
    whole = signature + b"".join(chunk(kind, data) for kind, data in parts)
    left = signature + b"".join(chunk(kind, data) for kind, data in parts if kind[1:] not in (b"EXt", b"TXt", b"XIf"))
    assert without_metadata(whole) == left


@given(st.binary())
def test_what_is_no_sound_png_is_left_as_it_is(data: bytes) -> None:
    assert without_metadata(data) == data
    broken = b"\x89PNG\r\n\x1a\n" + data
    assert without_metadata(broken) in (broken, b"\x89PNG\r\n\x1a\n") or len(data) >= 12
