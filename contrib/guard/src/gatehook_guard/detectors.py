"""What is looked for. Every pattern is of bounded length, begins where a word does, and can be matched in one pass.

A detector also tells of which characters its matches are made. So in a stream it is known what may still become one,
and everything else is let through at once.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["KINDS", "Detector", "iban_length", "luhn_length"]


def _whole(text: str) -> int:
    return len(text)


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of thing to find.

    Attributes:
        label: names it in placeholders, as EMAIL in [EMAIL_1].
        pattern: a regular expression.
        tail: matches, at the end of a text, what may be the beginning of a match, from where that begins.
            None: whatever stands there may be.
        longest: the most characters of a match.
        accepted: how many characters of a match count; 0: none, it only looked like one.
    """

    label: str
    pattern: str
    tail: re.Pattern[str] | None
    longest: int
    accepted: Callable[[str], int] = _whole


def _run(characters: str, longest: int) -> re.Pattern[str]:
    """A run of these characters at the end of a text."""
    return re.compile(rf"[{characters}]{{1,{longest}}}\Z")


def luhn_length(text: str) -> int:
    """How many characters of `text`, digits in groups, are a card's number: 13 to 19 digits, by their Luhn checksum."""
    return _accepted(text, 13, 19, _luhn)


def iban_length(text: str) -> int:
    """How many characters of `text` are an International Bank Account Number (ISO 13616, checksum modulo 97)."""
    return _accepted(text, 15, 34, _mod97)


def _accepted(text: str, least: int, most: int, is_right: Callable[[str], bool]) -> int:
    """The length of the longest beginning that ends where a group does and is right; 0 if none is."""
    letters = "".join(filter(str.isalnum, text))
    count = len(letters)
    for place in range(len(text) - 1, -1, -1):
        if text[place].isalnum():
            ends = place + 1 == len(text) or not text[place + 1].isalnum()
            if ends and least <= count <= most and is_right(letters[:count]):
                return place + 1
            count -= 1
        if count < least:
            break
    return 0


_DOUBLED: Final = {str(digit): sum(divmod(2 * digit, 10)) for digit in range(10)}


def _luhn(digits: str) -> bool:
    total = sum(map(int, digits[::-2])) + sum(map(_DOUBLED.__getitem__, digits[-2::-2]))
    return total % 10 == 0 and len(set(digits)) > 1  # a row of zeros is no card


def _mod97(iban: str) -> bool:
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


def _ip(text: str) -> int:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return 0
    return 0 if address.is_unspecified else len(text)


_ALNUM: Final = "A-Za-z0-9"
_PEM: Final = "-----"
_LONGEST_KEY: Final = 8192

# These are tried only where neither a letter nor a digit stands before (see scanner.Patterns): inside of words, where
# most of the time would be spent, nothing begins.
_HOST: Final = rf"(?:[{_ALNUM}](?:[{_ALNUM}\-]{{0,61}}[{_ALNUM}])?\.){{1,8}}[A-Za-z]{{2,24}}"
_EMAIL: Final = rf"[{_ALNUM}._%+\-]{{1,64}}+@{_HOST}(?![{_ALNUM}])"
_PHONE: Final = (
    rf"(?:(?<!\+)\+[1-9](?:[ .\-/()]{{0,2}}\d){{6,14}}|\(?\d{{3}}\)?[ .\-]\d{{3}}[ .\-]\d{{4}})(?![{_ALNUM}])"
)
_CARD: Final = rf"\d(?:[ \-]?\d){{12,18}}(?![{_ALNUM}])"
_IBAN: Final = rf"[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]){{11,30}}(?![{_ALNUM}])"
_BYTE: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IP: Final = (
    rf"(?:(?<!\.)(?:{_BYTE}\.){{3}}{_BYTE}(?!\.?[{_ALNUM}])"
    rf"|(?<![:.])(?:[0-9A-Fa-f]{{1,4}}|:)(?::[0-9A-Fa-f]{{0,4}}){{2,7}}(?![{_ALNUM}:]))"
)
_API_KEY: Final = (
    r"(?:sk-[A-Za-z0-9_\-]{16,200}|[rps]k_(?:live|test)_[A-Za-z0-9]{10,200}|gh[opsur]_[A-Za-z0-9]{30,255}"
    r"|github_pat_[A-Za-z0-9_]{20,255}|xox[abprs]-[A-Za-z0-9\-]{10,200}|A[KS]IA[0-9A-Z]{16}|AIza[A-Za-z0-9_\-]{30,50}"
    r"|glpat-[A-Za-z0-9_\-]{16,64}|hf_[A-Za-z0-9]{20,64}"
    r"|eyJ[A-Za-z0-9_\-]{8,1500}\.[A-Za-z0-9_\-]{8,1500}\.[A-Za-z0-9_\-]{8,500})"
)
_BEGIN: Final = rf"{_PEM}BEGIN [A-Z ]{{0,32}}PRIVATE KEY{_PEM}"
_END: Final = rf"{_PEM}END [A-Z ]{{0,32}}PRIVATE KEY{_PEM}"
_PRIVATE_KEY: Final = rf"{_BEGIN}(?:[\s\S]{{0,{_LONGEST_KEY}}}?{_END}|[\s\S]{{0,{_LONGEST_KEY}}})"
_KEY_BEGUN: Final = re.compile(
    rf"{_BEGIN}(?:(?!{_END})[\s\S]){{0,{_LONGEST_KEY + 60}}}\Z"
    rf"|{_PEM}BEGIN [A-Z ]{{0,48}}-{{0,4}}\Z|-{{1,5}}(?:BEGIN)?\Z|{_PEM}B(?:E(?:GI?)?)?\Z"
)

KINDS: Final[Mapping[str, Detector]] = {
    "private_key": Detector("PRIVATE_KEY", _PRIVATE_KEY, _KEY_BEGUN, 2 * 60 + _LONGEST_KEY),
    "api_key": Detector("API_KEY", _API_KEY, _run(r"A-Za-z0-9_.\-", 3600), 3600),
    "email": Detector("EMAIL", _EMAIL, _run(r"A-Za-z0-9._%+@\-", 640), 640),
    "iban": Detector("IBAN", _IBAN, _run(r"A-Z0-9 ", 68), 68, iban_length),
    "card": Detector("CARD", _CARD, _run(r"0-9 \-", 40), 40, luhn_length),
    "ip": Detector("IP", _IP, _run(r"0-9A-Fa-f:.", 48), 48, _ip),
    "phone": Detector("PHONE", _PHONE, _run(r"0-9+ .\-/()", 48), 48),
}
"""In the order in which they are tried at one place."""
