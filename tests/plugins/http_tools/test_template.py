"""URL templates: values stay in their places, whatever they are."""

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from gatehook import InvalidRequest
from gatehook_plugins.http_tools.template import UrlTemplate

VALUES = st.one_of(
    st.text(max_size=20),
    st.text("./\\%?#@:&=;+ \r\n\t\x00é", max_size=8),
    st.sampled_from(["..", ".", "%2e%2e", "%2F", "//evil.example", "a/../b", "x\r\nHost: evil", "\ud800", "?a=b", "#"]),
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False),
)


def sent(url: str) -> tuple[str, str, list[str], list[tuple[str, str]]]:
    """What goes out: scheme, host with port, segments of the path, parameters."""
    address = URL(url, encoded=True)
    assert address.raw_fragment == ""
    assert re.fullmatch(r"[!-~]*", str(address)), "ASCII without spaces and control characters"
    parts = urlsplit(str(address))
    query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    return parts.scheme, parts.netloc, parts.path.split("/"), query


@given(first=VALUES, second=VALUES, asked=VALUES, extra=st.one_of(VALUES, st.lists(VALUES, max_size=3)))
def test_no_argument_can_change_the_host_the_depth_of_the_path_or_add_a_parameter(
    first: Any, second: Any, asked: Any, extra: Any
) -> None:
    template = UrlTemplate("https://api.example:8443/v1/{first}/x-{second}.json?q={asked}&fixed=1")
    try:
        url = template.filled({"first": first, "second": second, "asked": asked}, {"extra": extra})
    except InvalidRequest:
        return
    scheme, host, segments, query = sent(url)
    assert (scheme, host) == ("https", "api.example:8443")
    assert [segments[0], segments[1], len(segments)] == ["", "v1", 4]
    assert not {".", "..", ""} & {unquote(one) for one in segments[1:]}
    assert not any("/" in unquote(one) or "\\" in unquote(one) for one in segments)
    names = [name for name, _ in query]
    assert names == ["q", "fixed", *["extra"] * (len(extra) if isinstance(extra, list) else 1)]
    assert query[1] == ("fixed", "1")
    if isinstance(asked, str):
        assert query[0][1] == asked


@given(value=st.text(min_size=1, max_size=20))
def test_a_value_arrives_as_it_was_or_is_refused(value: str) -> None:
    try:
        url = UrlTemplate("http://h/{a}").filled({"a": value})
    except InvalidRequest:
        return
    assert unquote(sent(url)[2][1]) == value


@given(value=st.one_of(VALUES, st.from_regex(r"[a-z.]{1,9}", fullmatch=True)))
def test_an_argument_in_the_host_is_a_name_and_nothing_else(value: Any) -> None:
    try:
        url = UrlTemplate("https://{host}.api.example/path").filled({"host": value})
    except InvalidRequest:
        return
    scheme, host, segments, query = sent(url)
    assert (scheme, segments, query) == ("https", ["", "path"], [])
    assert host.endswith(".api.example")
    assert re.fullmatch(r"[A-Za-z0-9.-]+", host)


@pytest.mark.parametrize(
    "text",
    [
        "", "api.example/x", "ftp://h/x", "https:///x", "https://h/#x", "https://u:p@h/", "https://{a}@h/", "https://h:{p}/",
        "https://h/{", "https://h/{}", "https://h/{a b}", "https://h/x y", "https://h/ü", "{a}{b}", "x{a}",
        "https://h/?{name}=1", "https://h/\n", "https://h:99999999/",
    ],
)  # fmt: skip
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        UrlTemplate(text)


@pytest.mark.parametrize(
    ("text", "names", "chooses_host"),
    [
        ("https://h", (), False),
        ("http://[::1]:80/{a}", ("a",), False),
        ("https://h/{a}/{b}/{a}?c={c}", ("a", "b", "c"), False),
        ("https://{region}.api.example/{a}", ("region", "a"), True),
        ("{url}", ("url",), True),
    ],
)
def test_a_template_tells_what_it_takes_and_who_chooses_the_host(
    text: str, names: tuple[str, ...], chooses_host: bool
) -> None:
    template = UrlTemplate(text)
    assert (template.names, template.chooses_host) == (names, chooses_host)


@pytest.mark.parametrize("value", [None, [], {}, ["a"]])
def test_what_has_no_place_in_an_address_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="a: must be given, as a text or a number"):
        UrlTemplate("https://h/{a}").filled({"a": value})
    with pytest.raises(InvalidRequest, match="b: must be a text"):
        UrlTemplate("https://h/").filled({}, {"b": {"x": 1}})


def test_a_list_is_several_parameters_and_nothing_is_none() -> None:
    url = UrlTemplate("https://h/x").filled({}, {"a": [1, "b c", True], "n": None, "f": 1.5})
    assert url == "https://h/x?a=1&a=b%20c&a=true&f=1.5"


def test_an_address_has_an_end() -> None:
    with pytest.raises(InvalidRequest, match="more than 8000 characters"):
        UrlTemplate("https://h/?q={a}").filled({"a": "x" * 9000})
