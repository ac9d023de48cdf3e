"""The SSE reader and writer, against the standard's text: every line end, every cut, every kind of line."""

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook.sse import COMMENT, DONE, Event, EventTooLarge, Reader, frame
from gatehook.testing import splits

BOM = b"\xef\xbb\xbf"
ENDS = (b"\n", b"\r\n", b"\r")

# What a line may hold: anything but line ends, often what the grammar cares for, and UTF-8 that cuts fall into.
LINE = st.lists(
    st.one_of(
        st.sampled_from(
            [b" ", b":", b"data", b"data:", b"event:", b"{", b'"', "é".encode(), "😀".encode(), BOM, b"\0"]
        ),
        st.binary(max_size=5).map(lambda some: some.replace(b"\n", b"").replace(b"\r", b"")),
    ),
    max_size=4,
).map(b"".join)

NOISE = st.one_of(
    LINE.map(lambda text: b":" + text),
    LINE.map(lambda text: b"id:" + text),
    LINE.map(lambda text: b"retry: " + text),
    st.sampled_from([b"dat: x", b"Data: x", b" data: x", b"datax", b"data ", b"event ", b"EVENT: y"]),
)


@dataclass
class Written:
    """A stream, the events its empty lines end, and what its end leaves."""

    body: bytes = b""
    events: list[Event] = field(default_factory=list)
    rest: list[Event] = field(default_factory=list)
    due: dict[int, int] = field(default_factory=dict)
    """Number of bytes to the number of events that must be out when those have arrived."""


@st.composite
def _block(draw: st.DrawFn) -> tuple[list[bytes], list[Event]]:
    """The lines of one event, and what they mean."""
    lines: list[bytes] = []
    data: list[bytes] = []
    name = b""
    for kind in draw(st.lists(st.sampled_from(["data", "bare", "event", "noise"]), max_size=5)):
        if kind == "data":
            value = draw(LINE)
            spaced = value.startswith(b" ") or draw(st.booleans())
            lines.append(b"data:" + b" " * spaced + value)
            data.append(value)
        elif kind == "bare":
            lines.append(b"data")
            data.append(b"")
        elif kind == "event":
            name = draw(LINE.filter(lambda text: not text.startswith(b" ")))
            lines.append(b"event:" + draw(st.sampled_from([b"", b" "])) + name)
        else:
            lines.append(draw(NOISE))
    return lines, [(name, b"\n".join(data))] if data else []


@st.composite
def written(draw: st.DrawFn) -> Written:
    """Any stream, its line ends mixed."""
    out = Written()

    def add(line: bytes) -> bytes:
        # An LF right after a CR would belong to it.
        after_cr = out.body.endswith(b"\r") and not line
        end: bytes = draw(st.sampled_from(ENDS[1:] if after_cr else ENDS))
        out.body += line + end
        return end

    for lines, events in draw(st.lists(_block(), max_size=4)):
        for line in lines:
            add(line)
        end = add(b"")
        out.events += events
        out.due[len(out.body) - (end == b"\r\n")] = len(out.events)
        for _ in range(draw(st.integers(0, 2))):
            add(b"")
    last, out.rest = draw(_block())
    for line in last:
        add(line)
    if draw(st.booleans()) and last:
        out.body = out.body.rstrip(b"\r\n")
    if out.body.startswith(BOM) or draw(st.booleans()):  # a first line that begins with one needs another before it
        out.body = BOM + out.body
        out.due = {place + len(BOM): count for place, count in out.due.items()}
    return out


def _read(pieces: Iterable[bytes], limit: int = 1 << 20) -> tuple[list[Event], list[Event]]:
    reader = Reader(limit)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events, reader.end()


def _bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


@given(written(), st.lists(st.integers(0, 10_000), max_size=6))
def test_any_stream_reads_the_same_wherever_it_is_cut(stream: Written, places: list[int]) -> None:
    body = stream.body
    borders = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    cut = [body[start:stop] for start, stop in itertools.pairwise(borders)]
    for pieces in ([body], cut, _bytewise(body)):
        assert _read(pieces) == (stream.events, stream.rest)


@given(written())
def test_no_event_is_held_back_once_its_empty_line_has_arrived(stream: Written) -> None:
    reader = Reader()
    out: list[Event] = []
    for arrived, byte in enumerate(_bytewise(stream.body), 1):
        out += reader.feed(byte)
        assert out == stream.events[: len(out)]
        assert len(out) >= stream.due.get(arrived, 0)


@pytest.mark.parametrize("end", ENDS, ids=["LF", "CRLF", "CR"])
def test_an_event_comes_out_with_the_very_byte_that_ends_it(end: bytes) -> None:
    reader = Reader()
    for count in range(3):
        assert reader.feed(b"data: %d" % count + end) == []
        # The LF of a CRLF adds nothing: CR alone ends the line.
        assert reader.feed(end[:1]) == [(b"", b"%d" % count)]
        assert reader.feed(end[1:]) == []


@pytest.mark.parametrize("end", ENDS, ids=["LF", "CRLF", "CR"])
def test_every_single_cut_of_an_ordinary_stream(end: bytes) -> None:
    lines = [
        BOM + b": hello",
        b"event: d",
        'data: {"é": "😀"}'.encode(),
        b"data: 2",
        b"",
        b"data: [DONE]",
        b"",
        b"",
    ]
    for pieces in splits(end.join(lines)):
        assert _read(pieces) == ([(b"d", '{"é": "😀"}\n2'.encode()), (b"", b"[DONE]")], [])


def test_an_lf_that_follows_a_cr_in_the_next_read_is_no_line_of_its_own() -> None:
    assert _read([b"data: a\r", b"\ndata: b\r", b"", b"\n", b"\r\n"]) == ([(b"", b"a\nb")], [])
    assert _read([b"data: a\r", b"\n\ndata: b\r", b"\r"]) == ([(b"", b"a"), (b"", b"b")], [])


def test_a_byte_order_mark_counts_only_at_the_very_start() -> None:
    assert _read([BOM[:1], b"", BOM[1:2], BOM[2:], b"data: a\n\n" + BOM + b"data: b\n\n"]) == ([(b"", b"a")], [])
    assert _read([BOM[:2], b"data: a\n\n"]) == ([], [])
    assert _read([b"d", b"ata: a\n\n"]) == ([(b"", b"a")], [])


def test_an_event_without_data_is_none_and_its_name_does_not_stick() -> None:
    assert _read([b"event: ping\n\ndata: x\n\n: note\n\nid: 3\n\ndata\n\n"]) == ([(b"", b"x"), (b"", b"")], [])


def test_only_one_space_after_the_colon_is_taken() -> None:
    assert _read([b"data:x\n\ndata:  x \n\ndata::x\n\n"]) == ([(b"", b"x"), (b"", b" x "), (b"", b":x")], [])


def test_the_end_gives_the_unterminated_event_once() -> None:
    reader = Reader()
    assert reader.feed(b"data: 1\n\nevent: e\ndata: 2") == [(b"", b"1")]
    assert reader.end() == [(b"e", b"2")]
    assert reader.end() == []


@pytest.mark.parametrize("left", [b"", b"\n", b"\r\n\r\n", b": note", b"event: e\n", BOM, BOM[:2]])
def test_the_end_gives_nothing_where_nothing_was_begun(left: bytes) -> None:
    assert _read([left]) == ([], [])


LIMIT = 60


@given(written(), st.lists(st.integers(0, 10_000), max_size=4))
def test_the_limit_does_not_disturb_events_within_it(stream: Written, places: list[int]) -> None:
    reader = Reader(limit=len(stream.body))
    borders = [0, *sorted(place % (len(stream.body) + 1) for place in places), len(stream.body)]
    events = [event for start, stop in itertools.pairwise(borders) for event in reader.feed(stream.body[start:stop])]
    assert events == stream.events


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("before", [b"", b"data: small\n\n"])
def test_an_event_over_the_limit_is_refused_wherever_it_is_cut(before: bytes, terminated: bool) -> None:
    body = before + b"data: " + b"x" * LIMIT + b"\n\n" * terminated
    for pieces in splits(body):
        with pytest.raises(EventTooLarge, match="larger than 60 bytes"):
            _read(pieces, limit=LIMIT)


def test_the_limit_is_for_one_event_not_for_the_stream() -> None:
    event = b"data: " + b"x" * (LIMIT - 10) + b"\n\n"
    for pieces in splits(event * 4):
        events, _ = _read(pieces, limit=LIMIT)
        assert len(events) == 4
    assert len(Reader(limit=LIMIT).feed(event * 1000)) == 1000


def test_lines_that_never_end_in_an_event_are_limited_too() -> None:
    with pytest.raises(EventTooLarge):
        _read(itertools.repeat(b": ping\n", 1000), limit=1000)


def test_a_large_event_in_many_pieces_takes_time_in_proportion() -> None:
    # Joining at every piece would copy 8 MB a thousand times over: seconds, not milliseconds.
    reader = Reader()
    start = time.process_time()
    reader.feed(b"data: ")
    for _ in range(8000):
        assert reader.feed(b"x" * 1024) == []
    [(name, data)] = reader.feed(b"\n\n")
    assert (name, len(data)) == (b"", 8000 * 1024)
    assert time.process_time() - start < 2


@given(st.binary(max_size=40) | LINE, st.from_regex(r"\A[a-z_.]*\Z"))
def test_what_frame_writes_the_reader_reads(data: bytes, name: str) -> None:
    framed = frame(data, name)
    assert framed.endswith(b"\n\n")
    expected = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for pieces in ([framed], _bytewise(framed)):
        assert _read(pieces) == ([(name.encode(), expected)], [])


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_framed_events_stay_apart(datas: list[bytes]) -> None:
    events, rest = _read([b"".join(COMMENT + frame(data) for data in datas) + DONE])
    assert len(events) == len(datas) + 1
    assert events[-1] == (b"", b"[DONE]")
    assert rest == []
