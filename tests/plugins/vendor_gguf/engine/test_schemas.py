"""What the grammars of JSON schemas let through, judged by llama.cpp's own sampler of grammars."""

import ctypes
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gatehook_plugins.vendor_gguf.engine.errors import Invalid
from gatehook_plugins.vendor_gguf.engine.families import FUNCTION_TAGS, HERMES, LLAMA, MISTRAL, Family
from gatehook_plugins.vendor_gguf.engine.grammars import Rules
from gatehook_plugins.vendor_gguf.engine.requests import Format

llama: Any = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python: pip install 'gatehook[gguf]'")


class Judge:
    """A sampler, on the vocabulary of a real model."""

    def __init__(self, path: Path) -> None:
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.vocab_only = True
        self._model = llama.llama_model_load_from_file(str(path).encode(), params)
        self._vocab = llama.llama_model_get_vocab(self._model)

    def close(self) -> None:
        llama.llama_model_free(self._model)

    def accepts(self, gbnf: str, text: str) -> bool:
        """Whether the grammar lets a model write this text, and end there."""
        sampler = llama.llama_sampler_init_grammar(self._vocab, gbnf.encode(), b"root")
        assert sampler, f"llama.cpp does not take this grammar:\n{gbnf}"
        try:
            for token in self._tokens(text):
                if not self._allowed(sampler, token):
                    return False
                llama.llama_sampler_accept(sampler, token)
            return self._allowed(sampler, llama.llama_vocab_eos(self._vocab))
        finally:
            llama.llama_sampler_free(sampler)

    def _allowed(self, sampler: Any, token: int) -> bool:
        data = (llama.llama_token_data * 1)(llama.llama_token_data(token, 1.0, 0.0))
        array = llama.llama_token_data_array(data, 1, -1, False)
        llama.llama_sampler_apply(sampler, ctypes.byref(array))
        return bool(data[0].logit > -1e30)

    def _tokens(self, text: str) -> list[int]:
        raw = text.encode()
        tokens = (llama.llama_token * (len(raw) + 8))()
        count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, len(tokens), False, False)
        return list(tokens[:count])


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, None)
    judge = Judge(Path(__file__).parents[3] / "models" / "tiny-chat.gguf")
    yield judge
    judge.close()
    llama.llama_log_set(llama.llama_log_callback(), None)


def answer(schema: Any) -> str:
    rules = Rules()
    rules.add_format(msgspec.convert({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, Format))
    return rules.text()


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
TREE = {
    "$ref": "#/$defs/node_1",
    "$defs": {
        "node_1": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node_1"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
}
SAME_NAMES = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/a/items"}, "b": {"$ref": "#/$defs/b/items"}},
    "required": ["a", "b"],
    "$defs": {"a": {"items": {"type": "integer"}}, "b": {"items": {"type": "boolean"}}},
}

GOOD_AND_BAD: list[tuple[Any, list[Any], list[Any]]] = [
    (PERSON, [{"name": "A"}, {"name": "A", "age": 3}], [{}, {"name": 1}, {"name": "A", "more": 1}]),
    ({"type": ["object", "null"], "properties": PERSON["properties"]}, [None, {}, {"age": 1}], [{"x": 1}, 3]),
    ({"type": ["string", "null"], "enum": ["a", None]}, ["a", None], ["b", 1]),
    (
        {"enum": ['quo"te', "back\\slash", "line\nbreak", "é", "😀", 1.5, {"a": [1]}]},
        ['quo"te', "line\nbreak", "é", "😀", {"a": [1]}],
        ["x"],
    ),
    ({"const": "\t"}, ["\t"], ["t"]),
    (TREE, [{"value": 1, "next": {"value": 2, "next": None}}], [{"value": 1}, {"value": 1, "next": {"value": "x"}}]),
    (SAME_NAMES, [{"a": 1, "b": True}], [{"a": 1, "b": 1}, {"a": True, "b": True}]),
    (
        {
            "anyOf": [{"$ref": "#/properties"}, {"type": "array", "items": {"$ref": "#"}}],
            "properties": {"type": "string"},
        },
        [[[]], [["a"]]],
        [],
    ),
    (
        {"allOf": [{"$ref": "#/$defs/color"}], "description": "x", "$defs": {"color": {"enum": ["red"]}}},
        ["red"],
        [{}, "blue"],
    ),
    (
        {"allOf": [PERSON, {"properties": {"id": {"type": "integer"}}, "required": ["id"]}]},
        [{"name": "A", "id": 1}],
        [{"name": "A"}],
    ),
    ({"type": "object", "properties": {"a": {"type": "integer"}}, "anyOf": [{"required": ["a"]}]}, [{"a": 1}], [{}]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"x": 1, "y": 2}], [{"x": "1"}]),
    ({"type": "object", "properties": {"a": {}}, "additionalProperties": True}, [{"a": [1]}, {"b": "x"}, {}], [3]),
    ({"type": "object", "required": ["a"]}, [{"a": None}, {"a": 1, "b": 2}], [{}]),
    (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        [[1], [1, 2]],
        [[], [1, 2, 3], ["a"]],
    ),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}]}, [[1, None]], [[1], [None, 1]]),
    ({"type": "array", "items": {}}, [[], [1, "a", {"b": None}]], [{}]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "é😀a"], ["a", "abcd"]),
    ({"type": "string", "maxLength": 100_000}, ["", "x" * 300], [1]),
    ({"type": "string", "format": "date"}, ["2026-11-21"], ["2026-13-01", "today"]),
    ({"type": "string", "format": "email"}, ["a@b.c"], [1]),
    (
        {"type": "string", "pattern": r"^\d{3}-[A-Z]+\.(?:com|org)$"},
        ["123-AB.com"],
        ["12-AB.com", "123-AB.net", "123-AB-com"],
    ),
    ({"type": "string", "pattern": "b+"}, ["b", "abba"], ["aa", ""]),
    ({"type": "string", "pattern": "^[^a-]+$"}, ["b c", "é"], ["a", "-", ""]),
    ({"type": "string", "pattern": r"^(?!a).*$"}, ["x"], [1]),
    ({"type": "string", "pattern": "^[a]]$"}, ["a]"], [1]),
    ({"type": "string", "pattern": "^a{2}}$"}, ["aa}"], [1]),
    ({"type": "array", "items": {}, "maxItems": 10**6}, [[], [1] * 9], [1]),
    ({}, ["a", {}], []),
    ({"type": "number"}, [1, -2.5, 1e9], ["1"]),
    (
        {
            "properties": {
                "a-b": {"type": "object", "properties": {"c": {"type": "integer"}}},
                "a": {"type": "object", "properties": {"b-c": {"type": "string"}}},
            }
        },
        [{"a-b": {"c": 1}, "a": {"b-c": "x"}}],
        [{"a-b": {"c": "x"}}],
    ),
    (
        {"properties": {"string": {"type": "integer"}, "root": {"type": "string"}, "char": {"type": "boolean"}}},
        [{"string": 1, "root": "a"}],
        [{"string": "a"}],
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad"), GOOD_AND_BAD, ids=lambda value: json.dumps(value)[:40])
def test_a_schema_s_grammar_lets_through_what_fits_and_nothing_else(
    judge: Judge, schema: Any, good: list[Any], bad: list[Any]
) -> None:
    gbnf = answer(schema)
    for value in good:
        assert judge.accepts(gbnf, json.dumps(value, ensure_ascii=False)), value
    for value in bad:
        assert not judge.accepts(gbnf, json.dumps(value, ensure_ascii=False)), value


def test_what_is_let_through_is_valid_json(judge: Judge) -> None:
    for schema in ({"type": "string"}, {"type": "string", "pattern": "^.*$"}, {"type": "string", "maxLength": 9}, {}):
        for broken in ('"a\nb"', '"a"b"', '"a\\x"', '"', "{", '"a" b'):
            assert not judge.accepts(answer(schema), broken), (schema, broken)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (deep(150), "nested more than 32 levels"),
        ({"anyOf": [{"type": "string", "maxLength": 256}] * 100}, "too large"),
        ({"enum": ["x" * 1_000_000]}, "too large"),
        ({"properties": {f"p{at}": {"type": "string"} for at in range(200)}}, "128 optional"),
        ({"properties": {"p" * 300: {}}}, "cannot be called"),
        ({"type": "string", "minLength": 100_000}, "counts to 256"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems is above maxItems"),
        ({"type": "array", "minItems": "3"}, "expected a count"),
        ({"type": "strng"}, "expected one of"),
        ({"type": "string", "pattern": "^[$"}, "no regular expression"),
        ({"type": ["string", 3]}, "expected one of"),
        ({"type": []}, "at least one"),
        ({"enum": []}, "at least one"),
        ({"anyOf": "x"}, "expected a list"),
        ({"properties": []}, "expected an object"),
        ({"properties": {"a": False}}, "#/properties/a: expected a schema"),
        ({"$ref": "#/$defs/missing"}, "there is no"),
        ({"$ref": "https://example.com/schema"}, "into the same schema"),
        ({"$ref": {}}, "into the same schema"),
        ({"$ref": "#"}, "nothing else"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}}, "nothing else"),
        ({"allOf": [{"$ref": "#"}]}, "circle|levels|large"),
        ({"allOf": [{"anyOf": [{}]}, {"anyOf": [{}]}]}, "alternatives on both sides"),
    ],
)
def test_a_schema_no_grammar_can_be_made_of_is_refused_by_name_at_once(schema: Any, words: str) -> None:
    started = time.process_time()
    with pytest.raises(Invalid, match=words) as refused:
        answer(schema)
    assert refused.value.param == "response_format.json_schema.schema"
    assert time.process_time() - started < 0.5
    rules = Rules()
    with pytest.raises(Invalid) as refused:
        rules.add_calls(
            HERMES, [{"name": "f", "parameters": PERSON}, {"name": "g", "parameters": schema}], several=True
        )
    assert refused.value.param == "tools[1].function.parameters"


def schemas() -> st.SearchStrategy[Any]:
    leaves = st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer"},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["a", '"', 2]},
            {"type": ["null", "number"]},
        ]
    )
    names = st.sampled_from(["a", "b", "a-b", "a_b", "string", 'q"', "é", "item", "0"])

    def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        objects = st.dictionaries(names, inner, max_size=4).flatmap(
            lambda properties: st.fixed_dictionaries(
                {
                    "type": st.just("object"),
                    "properties": st.just(properties),
                    "required": st.lists(st.sampled_from(sorted(properties)), unique=True)
                    if properties
                    else st.just([]),
                    "additionalProperties": st.just(False),
                }
            )
        )
        arrays = inner.map(lambda items: {"type": "array", "items": items, "maxItems": 3})
        return objects | arrays | st.lists(inner, min_size=1, max_size=3).map(lambda them: {"anyOf": them})

    return st.recursive(leaves, grown, max_leaves=8)


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values that fit one of the schemas above, properties in their order."""
    if "anyOf" in schema:
        return st.one_of([values(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "object":
            names = sorted(schema["properties"], key=lambda name: name not in schema["required"])  # as the grammar does
            given = [values(schema["properties"][name]).map(lambda value: [value]) for name in names]
            maybe = [
                one if name in schema["required"] else one | st.just([]) for name, one in zip(names, given, strict=True)
            ]
            return st.tuples(*maybe).map(
                lambda drawn: {name: one[0] for name, one in zip(names, drawn, strict=True) if one}
            )
        case "array":
            return st.lists(values(schema["items"]), max_size=3)
        case "string":
            return st.text(max_size=5).filter(lambda text: text.isprintable())
        case "integer":
            return st.integers(-999, 999)
        case "boolean":
            return st.booleans()
        case ["null", "number"]:
            return st.none() | st.integers(0, 9)
    return st.none()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_value_of_any_schema_is_let_through(judge: Judge, data: st.DataObject) -> None:
    schema = data.draw(schemas())
    value = data.draw(values(schema))
    Draft202012Validator(schema).validate(value)
    assert judge.accepts(answer(schema), json.dumps(value, ensure_ascii=False))


WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
PING: dict[str, Any] = {"name": "ping", "parameters": {"type": "object", "properties": {}}}


def written(family: Family, *calls: tuple[str, str]) -> str:
    pieces = []
    for name, arguments in calls:
        before, after = family.around(name)
        pieces.append(f"{before}{arguments}{after}")
    return family.open + family.between.join(pieces) + family.close


@pytest.mark.parametrize("family", [HERMES, MISTRAL, LLAMA, FUNCTION_TAGS], ids=["hermes", "mistral", "llama", "tags"])
def test_a_forced_call_is_written_in_the_familys_own_way(judge: Judge, family: Family) -> None:
    paris, ping = ("get_weather", '{"city": "Paris"}'), ("ping", "{}")
    for several in (True, False):
        rules = Rules()
        rules.add_calls(family, [WEATHER, PING], several=several)
        text = rules.text()
        assert judge.accepts(text, written(family, paris))
        assert judge.accepts(text, written(family, paris, ping)) is several
        assert not judge.accepts(text, written(family, ("get_weather", '{"city": 3}')))
        assert not judge.accepts(text, written(family, ("unknown", "{}")))
        assert not judge.accepts(text, "Hello")


@pytest.mark.parametrize(
    "pattern",
    [
        "^((a?){1,99}){1,99}$",
        "^((((a?){1,9}){1,9}){1,9}){1,9}$",
        "^((((a{1,99}){1,99}){1,99}){1,99})$",
        "^(a*)*$",
        "^(a|b?)+$",
        "^(|a)*$",
    ],
)
def test_a_pattern_that_fits_in_ever_more_ways_is_left_out(judge: Judge, pattern: str) -> None:
    started = time.process_time()
    assert judge.accepts(answer({"type": "string", "pattern": pattern}), json.dumps("a" * 40))
    assert time.process_time() - started < 1


def test_ordinary_repetitions_are_held_to(judge: Judge) -> None:
    gbnf = answer({"type": "string", "pattern": r"^(\d+,)*\d{1,3}(x|y)+(-[a-z]+)?$"})
    assert judge.accepts(gbnf, '"1,22,333xy-ab"')
    assert not judge.accepts(gbnf, '"1,x"')
    assert not judge.accepts(gbnf, '"12"')
