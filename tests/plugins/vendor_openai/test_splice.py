"""Changes to JSON text: equal to decode, change and encode; and no other byte is touched where that is possible."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook_plugins.vendor_openai.splice import has_two_models, with_member, with_model, without

TRICKY = st.sampled_from(
    [
        "model",
        '"model"',
        '"model":',
        '\\"model\\":',
        'model":"x"',
        "modèl",
        "\ud800",
        "stream_options",
        "}",
        "{",
        "\\",
        "",
    ]
)
TEXT = TRICKY | st.text(max_size=8)
KEYS = st.sampled_from(["model", '"model', "stream_options", "a", "", 'x"model"', "\\", "\ud83d"]) | st.text(max_size=6)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


@st.composite
def json_texts(draw: st.DrawFn, value: Any) -> bytes:
    """One JSON spelling of `value`: with or without spaces, escapes, or escaped ASCII letters."""
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")])),
        indent=draw(st.sampled_from([None, 1])),
    )
    if draw(st.booleans()):
        letter = draw(st.sampled_from("odelm"))
        text = text.replace(f"m{letter}", f"m\\u{ord(letter):04x}").replace('"model"', '"\\u006dodel"')
    edge = draw(st.sampled_from(["", " ", "\n", "\r\n\t "]))
    try:
        return (edge + text + edge).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


@given(st.data(), OBJECTS, TEXT, TEXT)
def test_with_model_gives_what_decode_change_and_encode_give(
    data: st.DataObject, rest: Any, old: str, new: str
) -> None:
    members = list({**rest, "model": old}.items())
    value = dict(data.draw(st.permutations(members)))
    raw = data.draw(json_texts(value))
    changed = json.loads(with_model(raw, old, new))
    assert changed == {**value, "model": new}
    assert list(changed) == list(value)


@given(st.data(), OBJECTS, st.sampled_from(["model", "stream_options", "a"]), VALUES)
def test_with_member_gives_what_decode_change_and_encode_give(
    data: st.DataObject, value: Any, name: str, new: Any
) -> None:
    raw = data.draw(json_texts(value))
    changed = json.loads(with_member(raw, name, new))
    assert changed == {**value, name: new}
    assert list(changed) == list({**value, name: new})


@given(st.data(), OBJECTS, st.sampled_from(["model", "stream_options", "a"]))
def test_without_takes_out_one_member_only(data: st.DataObject, value: Any, name: str) -> None:
    raw = data.draw(json_texts(value))
    assert json.loads(without(raw, name)) == {key: one for key, one in value.items() if key != name}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"zz":1.0,"model":"old","n":123456789012345678901234567890,"a":1,"a":2}',
        b'{ "model" :\r\n\t"old" , "x": 1E5, "y": -0.0, "z": 0.10 }\n',
        b'{"model":"old","content":"\\u00e9 \\ud83d and \\"model\\": no key"}',
        b'{"logit_bias":{"50256":-100},"model":"old"}',
    ],
)
def test_every_byte_but_the_model_stays(raw: bytes) -> None:
    assert with_model(raw, "old", "new/name") == raw.replace(b'"old"', b'"new/name"', 1)


@pytest.mark.parametrize(
    ("raw", "changed"),
    [
        (
            b'{"a":1.0,"b":123456789012345678901234567890}',
            b'{"a":1.0,"b":123456789012345678901234567890,"m":{"x":true}}',
        ),
        (b'{ "a": "}" }\r\n', b'{ "a": "}" ,"m":{"x":true}}'),
        (b'{"a":1,"a":2}', b'{"a":1,"a":2,"m":{"x":true}}'),
        (b"{}", b'{"m":{"x":true}}'),
        (b"{ \n }", b'{"m":{"x":true}}'),
        (b'{"m":null,"z":1}', b'{"m":{"x":true},"z":1}'),
        (b'{"\\u006d":1}', b'{"m":{"x":true}}'),
    ],
)
def test_a_member_is_appended_in_place_or_replaced(raw: bytes, changed: bytes) -> None:
    assert with_member(raw, "m", {"x": True}) == changed


@pytest.mark.parametrize(
    "raw",
    [
        b'{"choices":[{"model":"old"}]}',
        b'{"choices":[{"model":""}]}',
        b'{"\\"model":"old"}',
        b'{"a":{"\\"model":"old"},"m\\u006fdel":"old"}',
        b'{"model":null,"b":{"x":1}}',
        b'{"mode\\u006C":"old","b":{"model":"old"}}',
        b'{"model":"a","model":"old"}',
    ],
)
def test_a_nested_or_look_alike_model_is_never_taken_for_the_top_level_one(raw: bytes) -> None:
    changed = json.loads(with_model(raw, json.loads(raw).get("model"), "new"))
    assert changed == {**json.loads(raw), "model": "new"}


@pytest.mark.parametrize(
    ("raw", "two"),
    [
        (b'{"model":"a"}', False),
        (b'{"model":"a","x":{"model":"b"}}', False),
        (b'{"x":[{"model":1,"model":2}],"model":"a"}', False),
        (b'{"model":"a","model":"a"}', True),
        (b'{"mod\\u0065l":"a","model":"a"}', True),
        (b'{"\\u006dodel":"a"}', False),
    ],
)
def test_a_model_named_twice_is_found(raw: bytes, two: bool) -> None:
    assert has_two_models(raw) is two
