"""Plain regular expressions, rewritten so that the converter's rules for them match valid JSON strings only."""

import re

__all__ = ["MAX_REPEAT", "compiles", "plain_pattern"]

MAX_REPEAT = 256
"""The highest count in a grammar, where each repetition is written out."""

MAX_LENGTH = 256

_PLAIN = r"[A-Za-z0-9 _,:;@#%&!=<>~'/]"
_MARKS = r"[.+*?(){}|$/_:,-]"
_TOKEN = re.compile(
    rf"(?P<literal>{_PLAIN}|-)"
    rf"|\\(?P<mark>{_MARKS})"
    r"|(?P<kind>\\[dw])"
    rf"|\[(?P<negated>\^?)(?P<listed>(?:{_PLAIN}|{_MARKS}|\\[dw.\-/+*?()|$_:,])+)\]"
    r"|(?P<any>\.)"
    r"|(?P<group>\((?:\?:|(?!\?)))"
    r"|(?P<structure>[)|])"
    r"|(?P<times>[*+?]|\{(?P<least>\d{1,3})(?P<comma>,?)(?P<most>\d{0,3})\})"
)
_KINDS = {r"\d": "0-9", r"\w": "A-Za-z0-9_"}
_BREAKS_STRINGS = r'"\\\x00-\x1F'
"""Characters that may not stand in a JSON string as they are."""
_ANYTHING = f"[^{_BREAKS_STRINGS}]"


def plain_pattern(pattern: str) -> str | None:
    """The pattern in the converter's form, anchored at both ends; None if it uses more than plain syntax."""
    if len(pattern) > MAX_LENGTH or not compiles(pattern):
        return None
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begins : len(pattern) - ends]
    pieces: list[str] = []
    groups = [_Group()]
    at = 0
    while at < len(inner):
        token = _TOKEN.match(inner, at)
        if token is None or (piece := _piece(token)) is None or not _is_bounded(token, groups):
            return None
        pieces.append(piece)
        at = token.end()
    if not pieces:
        return None
    around = f"{_ANYTHING}*"
    return "^" + ("" if begins else around) + "(" + "".join(pieces) + ")" + ("" if ends else around) + "$"


class _Group:
    """What is known of a group of a pattern, as far as that has been read."""

    def __init__(self) -> None:
        self.last_needs_text = True
        """Whether the last part, which a count would repeat, does not match the empty text."""
        self.last_size = 1
        self.needs_text = False
        """Whether this alternative, as far as it was read, does not match the empty text."""
        self.every_one_does = True
        self.size = 1
        """How often its largest part is written out in a grammar."""

    def fold(self) -> None:
        """Go on to the next part."""
        self.needs_text = self.needs_text or self.last_needs_text
        self.size = max(self.size, self.last_size)
        self.last_needs_text, self.last_size = False, 1


def _is_bounded(token: re.Match[str], groups: list[_Group]) -> bool:
    """Whether a grammar of what was read so far is small and fast enough.

    Counts of counts multiply; and what matches the empty text matches, repeated, the same text in ever more ways.
    """
    group = groups[-1]
    if token["group"]:
        group.fold()
        groups.append(_Group())
        groups[-1].last_needs_text = False
    elif token["structure"] == "|":
        group.fold()
        group.every_one_does, group.needs_text = group.every_one_does and group.needs_text, False
    elif token["structure"] == ")":
        group.fold()
        groups.pop()
        if not groups:
            return False
        groups[-1].last_needs_text = group.every_one_does and group.needs_text
        groups[-1].last_size = group.size
    elif token["times"]:
        if token["times"] != "?" and not group.last_needs_text:
            return False
        group.last_needs_text = group.last_needs_text and token["times"][0] not in "*?" and token["least"] != "0"
        group.last_size *= max(int(token["least"] or 1), int(token["most"] or 1), 1)
    else:
        group.fold()
        group.last_needs_text = True
    return group.last_size <= MAX_REPEAT


def _piece(token: re.Match[str]) -> str | None:
    if literal := token["literal"] or token["mark"]:
        return f"[{literal}]"
    if kind := token["kind"]:
        return f"[{_KINDS[kind]}]"
    if listed := token["listed"]:
        return _listed(listed, negated=bool(token["negated"]))
    if token["any"]:
        return _ANYTHING
    if token["group"]:
        return "("
    if token["least"] and max(int(token["least"]), int(token["most"] or 0)) > MAX_REPEAT:
        return None
    return token["structure"] or token["times"]


def _listed(listed: str, *, negated: bool) -> str:
    for kind, characters in _KINDS.items():
        listed = listed.replace(kind, characters)
    dash = r"\-" in listed or listed.endswith("-")  # last of all it can be no part of a range
    listed = listed.replace(r"\-", "").replace("\\", "").removesuffix("-")
    return f"[{'^' if negated else ''}{listed}{_BREAKS_STRINGS if negated else ''}{'-' if dash else ''}]"


def compiles(pattern: str) -> bool:
    """Whether it is a valid regular expression; True without a look if it is too long."""
    if len(pattern) > MAX_LENGTH:
        return True
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
