"""What is found, what is not, and that a text is the same wherever it is cut."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehook_guard.custom import custom
from gatehook_guard.detectors import KINDS, Detector
from gatehook_guard.scanner import Patterns, Scanner
from gatehook_guard.vault import PLACEHOLDER

ALL = Patterns([*KINDS.values(), custom("badge", r"B-\d{4,6}\b")], [PLACEHOLDER])
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/=\nabc\n-----END RSA PRIVATE KEY-----"


def replaced(detector: Detector, found: str) -> str:
    return f"<{detector.label}:{found}>"


def scanned(*pieces: str, patterns: Patterns = ALL) -> str:
    scanner = Scanner(patterns, replaced)
    return "".join(map(scanner.feed, pieces)) + scanner.rest()


FOUND = {
    "ann.o'neil+x@mail.example.co.uk": "EMAIL",
    "+49 (30) 1234-5678": "PHONE",
    "+14155552671": "PHONE",
    "(415) 555-2671": "PHONE",
    "4111 1111 1111 1111": "CARD",
    "378282246310005": "CARD",
    "5555-5555-5555-4444": "CARD",
    "DE89 3704 0044 0532 0130 00": "IBAN",
    "GB82WEST12345698765432": "IBAN",
    "192.168.1.254": "IP",
    "2001:db8::8a2e:370:7334": "IP",
    "fe80::1": "IP",
    "sk-proj-abcdefghijklmnopqrst": "API_KEY",
    "ghp_" + "a1" * 18: "API_KEY",
    "AKIAIOSFODNN7EXAMPLE": "API_KEY",
    "xoxb-1234567890-abcdef": "API_KEY",
    "sk_live_abcdefghij1234": "API_KEY",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN": "API_KEY",
    KEY: "PRIVATE_KEY",
    "B-12345": "BADGE",
}


@pytest.mark.parametrize("text", [text for text in FOUND if "'" not in text])
@pytest.mark.parametrize(("before", "after"), [("", ""), ("at ", "."), ("(", ")"), ("\n", "\n"), ("x: ", ", y")])
def test_what_is_found(text: str, before: str, after: str) -> None:
    assert scanned(before + text + after) == f"{before}<{FOUND[text]}:{text}>{after}"


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn
        "0000 0000 0000 0000",
        "DE89 3704 0044 0532 0130 02",  # modulo 97
        "version 1.2.3 of 10.0",
        "1.2.3.4.5",
        "300.1.1.1",
        "at 12:30:45",
        "std::vector",
        "a :: b",
        "user@localhost",
        "@everyone",
        "task-list of risk-factors",
        "sk-short",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "call 12345",
        "2026-11-21",
        "aB-12345x",
        "[EMAIL_0] [email_1] [X]",
    ],
)
def test_what_is_not(text: str) -> None:
    assert "<" not in scanned(text), scanned(text)


def test_a_card_before_other_digits_and_what_is_no_card_but_a_phone() -> None:
    assert scanned("4111 1111 1111 1111 12 times") == "<CARD:4111 1111 1111 1111> 12 times"
    assert scanned("555 123 4567") == "<PHONE:555 123 4567>"


def test_a_key_that_is_cut_or_endless_is_masked_as_far_as_it_is_known() -> None:
    cut = KEY[: KEY.index("abc")]
    assert scanned("x " + cut) == f"x <PRIVATE_KEY:{cut}>"
    endless = "-----BEGIN PRIVATE KEY-----" + "A" * 20000
    said = scanned(*(endless[start : start + 100] for start in range(0, len(endless), 100)))
    assert said.startswith("<PRIVATE_KEY:")
    assert said == scanned(endless)


FRAGMENTS = st.sampled_from([
    *FOUND, "4111", " ", "1111 ", "-----BEGIN", " PRIVATE KEY-----", "-----END PRIVATE KEY-----", "a@", "b.com", ".",
    "sk-", "1.2.3.4", "::", "fe80", "[EMAIL_1]", "[EMA", "IL_2]", "B-", "123456", "DE89", "+", "word", "-", "\n", "é",
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(FRAGMENTS, st.text("a1@.-[ ]_E:+B", max_size=6)), max_size=8), st.data())
def test_a_text_is_the_same_wherever_it_is_cut(fragments: list[str], data: st.DataObject) -> None:
    text = "".join(fragments)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert scanned(*pieces) == scanned(text)


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAGMENTS, max_size=6))
def test_letter_by_letter_too(fragments: list[str]) -> None:
    text = "".join(fragments)
    assert scanned(*text) == scanned(text)


def test_ordinary_words_are_held_no_longer_than_the_next_begins() -> None:
    scanner = Scanner(Patterns(list(KINDS.values())), replaced)
    said = [scanner.feed(word) for word in ("Hello", " there", ", my", " friend", ", yes\n")]
    assert said == ["", "Hello ", "there, ", "my ", "friend, yes\n"]


@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, "a." * 50_000, "a@" * 50_000, "1 " * 50_000, "1" * 100_000, "A1" * 50_000, "f:" * 50_000,
     "-----BEGIN " * 9_000, "sk-" * 33_000, "eyJaaaaaaaa." * 8_000, "(555) " * 16_000, "[A" * 50_000, "-" * 100_000],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    begun = time.thread_time()  # the time that others take of the machine does not count
    for start in range(0, len(text), 8192):
        (scanner := Scanner(ALL, replaced)).feed(text[start : start + 8192])
        scanner.rest()
    assert time.thread_time() - begun < 5


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a+)+b", "more than 512"),
        ("(a{1,9}){1,9}b", "groups"),
        ("(?:ab){2}", "groups"),
        ("a{0,50}a{0,50}a{0,50}b", "ways"),
        ("a*", "match the empty text"),
        (".{1,600}", "more than 512"),
        (r"(a)\1", "groupref"),
        ("a(?=b)", "assert"),
        ("^a", "at is not allowed"),
        ("(a", "not a regular expression"),
        ("(?i)ab", "flags"),
        ("(?P<g0>ab)", "names"),
        ("a{99999999999}", "not a regular expression"),
    ],
)
def test_patterns_that_could_stop_the_gateway_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        custom("mine", pattern)


def test_a_custom_pattern_needs_a_plain_name() -> None:
    with pytest.raises(ValueError, match="lower-case"):
        custom("My-Name", "a")
    assert custom("staff_id", r"\bS\d{5}\b|T[A-Z]{2,3}").longest == 6
