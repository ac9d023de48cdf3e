"""The JSON and the queries of requests, as types."""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct
from multidict import MultiDict

from gatehook import InvalidRequest, fitted, read_as, read_object, read_open, read_query, unread


class Chat(Struct):
    model: str
    n: int | None = None


class Page(Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    purge: bool = False


class Talk(Struct, tag_field="role", tag="user"):
    content: str


class Rule(Struct, tag_field="role", tag="system"):
    content: str


class Talks(Struct):
    messages: list[Talk | Rule]


OPEN = msgspec.json.Decoder(Chat)


def test_what_a_type_does_not_name_may_be_there() -> None:
    assert read_open(b'{"model": "m", "more": {"x": 1}}', OPEN) == Chat("m")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"model": 1}', "model: expected `str`, got `int`"),
        (b"{}", "model: required, but missing"),
        (b"[]", "the body: expected `object`, got `array`"),
        (b"{", "the body is not valid JSON"),
        (b'{"model": "m", "more": "\xff"}', "the body is not valid JSON"),
        (b'{"model": "m", "\\ud800": 1}', "a lone surrogate"),
        (b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
    ],
)
def test_an_open_request_that_does_not_fit_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_open(body, OPEN)
    assert message.replace("`", "") in refused.value.message


def test_half_of_a_pair_is_no_fault_where_nobody_looks() -> None:
    assert read_open(b'{"model": "m", "more": "\\ud83d"}', OPEN) == Chat("m")


def test_a_query_is_read_as_its_type() -> None:
    assert read_query(MultiDict({"limit": "7", "purge": "true"}), Page) == Page(7, purge=True)
    assert read_query(MultiDict(), Page) == Page()


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([("limit", "x")], "limit"),
        ([("limit", "0")], "limit"),
        ([("limti", "7")], "limti"),
        ([("limit", "7"), ("limit", "8")], "limit"),
        ([("a" * 500, "7"), ("a" * 500, "8")], "a" * 64),
    ],
)
def test_a_query_that_does_not_fit_is_refused(given: list[tuple[str, str]], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_query(MultiDict(given), Page)
    assert refused.value.param == param


@pytest.mark.parametrize("read", [lambda body: read_as(body, dict[str, Any]), read_object])
@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b"nan", b"{'a': 1}"])
def test_what_is_no_object_is_refused(read: Any, body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the body"):
        read(body)


def test_a_value_that_does_not_fit_names_its_field() -> None:
    assert fitted({"model": "m", "n": 2, "more": 1}, Chat) == Chat("m", 2)
    with pytest.raises(InvalidRequest) as refused:
        fitted({"model": "m", "n": "2"}, Chat)
    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("role", "told"), [("usr", "; did you mean 'user'?"), ("bot", "; there are: user, system"), ("\\ud83d", "")]
)
@pytest.mark.parametrize("read", [read_as, lambda body, kind: read_open(body, msgspec.json.Decoder(kind))])
def test_an_unknown_kind_is_told_with_those_that_there_are(read: Any, role: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(b'{"messages": [{"role": "%b", "content": "x"}]}' % role.encode(), Talks)
    if told:
        assert refused.value.message == f"messages[0].role: invalid value {role!r}{told}"
        assert refused.value.param == "messages[0].role"


class Asked(Struct, forbid_unknown_fields=True):
    """Fields of certain words, beside others whose names are words of JSON Schema."""

    order: Literal["rising", "falling"] | None = None
    kinds: list[Literal["small", "large"]] = []
    level: Literal[1, 2] = 1
    properties: dict[str, int] | None = None
    type: Literal["a"] = "a"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"order": "up"}, "order: invalid value 'up'; there are: falling, rising"),
        ({"order": "risin"}, "order: invalid value 'risin'; did you mean 'rising'?"),
        ({"kinds": ["small", "medium"]}, "kinds[1]: invalid value 'medium'; there are: large, small"),
        ({"level": 3}, "level: invalid value 3; there are: 1, 2"),
        ({"type": "zz"}, "type: invalid value 'zz'; there are: a"),
    ],
)
def test_one_of_several_words_is_told_with_all_of_them(body: Any, told: str) -> None:
    raw = json.dumps(body).encode()
    reads: list[Any] = [lambda: read_as(raw, Asked), lambda: read_open(raw, msgspec.json.Decoder(Asked))]
    for read in reads:
        with pytest.raises(InvalidRequest) as caught:
            read()
        assert caught.value.message == told


class Word(msgspec.Struct, tag_field="type", tag="word"):
    """Text."""


class Shot(msgspec.Struct, tag_field="type", tag="shot"):
    """A picture."""


class Box(msgspec.Struct, tag_field="type", tag="box"):
    """Holds pictures; `sha256` ends like a place in a list."""

    holds: str | list[Shot] | None = None
    sha256: Literal["x", "y"] = "x"


class Asks(msgspec.Struct, tag_field="role", tag="asks"):
    """Says words."""

    says: list[Word]


class Shows(msgspec.Struct, tag_field="role", tag="shows"):
    """Says words, or shows boxes."""

    says: str | list[Word | Box]


class Scene(msgspec.Struct):
    """Unions in lists in unions."""

    turns: list[Asks | Shows]
    by_name: dict[str, Word | Shot] = {}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"turns": [{"role": "sings"}]}, "turns[0].role: invalid value 'sings'; there are: asks, shows"),
        (
            {"turns": [{"role": "shows", "says": [{"type": "hat"}]}]},
            "turns[0].says[0].type: invalid value 'hat'; there are: word, box",
        ),
        (
            {"turns": [{"role": "shows", "says": [{"type": "box", "holds": [{"type": "hat"}]}]}]},
            "turns[0].says[0].holds[0].type: invalid value 'hat'; there are: shot",
        ),
        (
            {"turns": [{"role": "shows", "says": [{"type": "box", "sha256": "q"}]}]},
            "turns[0].says[0].sha256: invalid value 'q'; there are: x, y",
        ),
        (
            {"turns": [], "by_name": {"a": {"type": "hat"}}},
            "by_name[...].type: invalid value 'hat'; there are: word, shot",
        ),
    ],
)
def test_the_words_told_are_those_of_the_very_place(body: Any, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_as(json.dumps(body).encode(), Scene)
    assert caught.value.message == told


def test_a_word_of_a_query_is_told_with_all_of_them() -> None:
    with pytest.raises(InvalidRequest, match=r"^order: invalid value 'up'; there are: falling, rising$"):
        read_query(MultiDict(order="up"), Asked)


def test_known_fields_are_told_to_the_last() -> None:
    fields = [f"a_field_whose_name_is_long_{place}" for place in range(20)]
    kind = msgspec.defstruct("Many", [(field, int, 0) for field in fields], forbid_unknown_fields=True)
    with pytest.raises(InvalidRequest) as caught:
        read_as(b'{"id": 1}', kind)
    assert caught.value.message == f"id: no such field; there are: {', '.join(fields)}"


def test_what_is_not_read_is_named() -> None:
    class Inner(msgspec.Struct, rename={"kind": "type"}):
        kind: str = "a"
        more: dict[str, Any] = {}

    class Outer(msgspec.Struct):
        one: Inner | None = None
        many: list[Inner] = []
        turns: list[Asks | Shows] = []
        text: str = ""

    given = {
        "one": {"type": "x", "lost": 0, "empty": {}, "more": {"any": {"thing": 1}}},
        "many": [{}, {"gone": True}],
        "turns": [{"role": "asks", "says": [], "lost": "x"}],
        "text": "t",
        "beyond": [1],
        "nothing": None,
    }
    assert list(unread(given, fitted(given, Outer))) == ["one.lost", "many.gone", "turns.lost", "beyond"]
    assert list(unread({"one": {"lost": 1}}, fitted(given, Outer), "at.")) == ["at.one.lost"]
