"""URL templates: `https://api.example/users/{id}/posts?lang={lang}`, filled so that values stay in their places.

A value of the path is one segment or a part of one, a value of the query is one value; both are percent-encoded.
Neither can make another host, more or fewer segments, or another parameter.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from gatehook import InvalidRequest

__all__ = ["UrlTemplate", "as_text"]

_PLACE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SHAPE: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?#:\[\]]+)(?P<port>:\d{1,5})?(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?"
)
_HOST: Final = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_LONGEST: Final = 8000
"""Characters of an address; many servers refuse more."""


class UrlTemplate:
    """A template, read and found sound.

    Raises:
        ValueError: `text` is no template; the message says what it should be.
    """

    def __init__(self, text: str) -> None:
        self.names: tuple[str, ...] = tuple(dict.fromkeys(_PLACE.findall(text)))
        """The names of the arguments that it takes."""
        self.is_free = _PLACE.fullmatch(text) is not None
        """Whether all of the address is an argument."""
        self.query_names: frozenset[str] = frozenset()
        """The names of the parameters that stand in its query."""
        self.chooses_host = self.is_free
        """Whether an argument chooses the host, or a part of it."""
        if self.is_free:
            return
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("must be ASCII without spaces; write other letters as %XX, or as xn-- in a host")
        shape = _SHAPE.fullmatch(text)
        if shape is None or re.search(r"[{}]", _PLACE.sub("", text)) or "@" in shape["host"]:
            raise ValueError("must be an address such as 'https://host/path/{argument}?key={other}', or '{argument}'")
        self.chooses_host = _PLACE.search(shape["host"]) is not None
        self._origin = f"{shape['scheme']}://", shape["host"], shape["port"] or ""
        self._path = (shape["path"] or "/").split("/")[1:]
        self._query = (shape["query"] or "")[1:]
        names = [part.partition("=")[0] for part in self._query.split("&") if part]
        if any(_PLACE.search(name) for name in names):
            raise ValueError("the name of a query parameter must not be an argument")
        self.query_names = frozenset(names)

    def filled(self, arguments: Mapping[str, Any], query: Mapping[str, Any] | None = None) -> str:
        """The address.

        Args:
            arguments: for the places of the template; others are not looked at.
            query: further parameters, by names that are not in `query_names`.

        Raises:
            InvalidRequest: an argument is not there, or has a value that does not fit its place.
        """
        try:
            url = self._free(arguments) if self.is_free else self._filled(arguments)
            added = "&".join(_parameters(query or {}))
        except UnicodeEncodeError:  # half of a character that takes two
            raise InvalidRequest("an argument is not valid Unicode") from None
        if added:
            url += ("&" if "?" in url else "?") + added
        if len(url) > _LONGEST:
            raise InvalidRequest(f"the arguments make an address of more than {_LONGEST} characters")
        return url

    def _free(self, arguments: Mapping[str, Any]) -> str:
        (name,) = self.names
        return _scalar(arguments, name)

    def _filled(self, arguments: Mapping[str, Any]) -> str:
        scheme, host, port = self._origin
        host = _PLACE.sub(lambda place: _host_part(arguments, place[1]), host)
        path = "".join("/" + _segment(part, arguments) for part in self._path)
        query = _PLACE.sub(lambda place: quote(_scalar(arguments, place[1]), safe=""), self._query)
        return f"{scheme}{host}{port}{path}" + (f"?{query}" if query else "")


def as_text(value: Any) -> str | None:
    """A text, number or boolean as it is written in an address; None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def _scalar(arguments: Mapping[str, Any], name: str) -> str:
    text = as_text(arguments.get(name))
    if text is None:
        raise InvalidRequest(f"{name}: must be given, as a text or a number", param=name)
    return text


def _host_part(arguments: Mapping[str, Any], name: str) -> str:
    text = _scalar(arguments, name)
    if not _HOST.fullmatch(text):
        raise InvalidRequest(f"{name}: must be the name of a host, or a part of one", param=name)
    return text


def _segment(part: str, arguments: Mapping[str, Any]) -> str:
    """One segment of the path, filled in.

    Raises:
        InvalidRequest: servers might take it for two segments, or for "..".
    """

    def value(place: re.Match[str]) -> str:
        text = _scalar(arguments, place[1])
        if re.search(r"[/\\\x00-\x1f\x7f]", text):
            raise InvalidRequest(f"{place[1]}: must not hold '/', '\\' or control characters", param=place[1])
        return quote(text, safe="")

    filled = _PLACE.sub(value, part)
    if filled != part and filled in ("", ".", ".."):
        raise InvalidRequest(f"the arguments must not make a part of the path empty, '.' or '..', as in {part!r}")
    return filled


def _parameters(query: Mapping[str, Any]) -> list[str]:
    """`name=value` for each; a list gives several of the same name, None is left out."""
    pairs: list[str] = []
    for name, value in query.items():
        for one in value if isinstance(value, list) else [value]:
            if one is None:
                continue
            text = as_text(one)
            if text is None:
                raise InvalidRequest(f"{name}: must be a text, a number, or a list of them", param=name)
            pairs.append(f"{quote(name, safe='')}={quote(text, safe='')}")
    return pairs
