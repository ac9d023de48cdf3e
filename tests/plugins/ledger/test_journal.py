"""The journal: what was written is read back, whatever happened to the files' ends; and whose files they are."""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook_plugins.ledger.journal import SEGMENT_BYTES, Estate, Journal, Place
from gatehook_plugins.ledger.records import Damage, Intent, Record, Row, line, records

MakeRow = Callable[..., Row]
MakeIntent = Callable[..., Intent]
FullDisk = Callable[[], AbstractContextManager[None]]

everything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def read(path: Path) -> list[Record]:
    return [record for record, _ in records(path)]


def left_by(directory: Path) -> list[Record]:
    """What an adopter finds."""
    found: list[Record] = []
    for estate in Estate.claimed(directory):
        found += estate.records()
        estate.close()
    return found


def segments(directory: Path) -> list[int]:
    return sorted(int(path.stem.rpartition("-")[2]) for path in directory.glob("*.journal"))


@everything
@given(user=texts, model=texts, tokens=st.integers(-(10**15), 10**15), cost=st.none() | st.integers(0, 10**15))
def test_a_line_says_what_was_written(
    tmp_path: Path, a_row: MakeRow, user: str, model: str, tokens: int, cost: int | None
) -> None:
    row = a_row(1, user_id=user, model=model, prompt_tokens=tokens, input_cost=cost)
    path = tmp_path / "x"
    path.write_bytes(line(row))
    assert read(path) == [row]
    assert line(row).count(b"\n") == 1


def test_a_file_cut_at_any_byte_gives_the_lines_before_the_cut(
    tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent
) -> None:
    written: list[Intent | Row] = [an_intent(1), a_row(1, model="mödel"), an_intent(2)]
    whole = b"".join(map(line, written))
    ends = [len(b"".join(map(line, written[:count]))) for count in range(4)]
    path = tmp_path / "x"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert read(path) == written[: sum(end <= cut for end in ends[1:])]


@everything
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_byte_costs_the_lines_it_touches_and_never_makes_up_one(
    tmp_path: Path, a_row: MakeRow, place: int, byte: int
) -> None:
    rows = [a_row(number) for number in range(5)]
    whole = bytearray(b"".join(map(line, rows)))
    whole[place % len(whole)] = byte
    path = tmp_path / "x"
    path.write_bytes(whole)
    found = [record for record in read(path) if not isinstance(record, Damage)]
    assert len(found) >= 3
    assert all(record in rows for record in found)


def test_what_a_dead_process_wrote_is_all_there(tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b")
    journal.intend(an_intent(1))
    journal.intend(an_intent(2))
    journal.enter(a_row(1))
    assert left_by(tmp_path) == [], "it lives"
    journal.close()
    assert left_by(tmp_path) == [an_intent(1), an_intent(2), a_row(1)]
    (estate,) = Estate.claimed(tmp_path)
    assert (estate.owner, estate.book) == (journal.owner, "b")
    estate.close()


def test_only_its_owner_can_read_it(tmp_path: Path, a_row: MakeRow) -> None:
    directory = tmp_path / "new" / "journal"
    journal = Journal(directory, "b")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    journal.remove()
    assert list(directory.iterdir()) == []


def test_a_segment_goes_when_all_its_rows_are_booked(tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=1000)
    journal.intend(an_intent(999))
    rows = [a_row(number) for number in range(30)]
    for row in rows:
        journal.enter(row)
    numbers = segments(tmp_path)
    assert len(numbers) > 3
    journal.booked(1)
    assert segments(tmp_path) == numbers, "of the first only one row is booked"
    for _ in rows[1:]:
        journal.booked(1)
    assert segments(tmp_path) == numbers[-1:]
    assert not journal.is_settled
    journal.close()
    assert [one for one in left_by(tmp_path) if isinstance(one, Intent)] == [an_intent(999)], "carried along"


def test_a_segment_that_only_holds_requests_under_way_moves_on(tmp_path: Path, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=1000)
    for number in range(100):
        journal.intend(an_intent(number))
    assert len(segments(tmp_path)) == 1
    journal.close()
    assert {one.request_id for one in left_by(tmp_path) if isinstance(one, Intent)} == {
        an_intent(number).request_id for number in range(100)
    }


def test_on_a_full_disk_no_request_is_made_but_those_under_way_can_end(
    tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent, full_disk: FullDisk, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=250)
    journal.intend(an_intent(1))
    with full_disk():
        journal.intend(an_intent(2))
        journal.intend(an_intent(3))
        for number in range(4, 9):
            with pytest.raises(OSError, match="No space left"):
                journal.intend(an_intent(number))
        journal.enter(a_row(1))
        assert journal.end.segment == 1
        assert segments(tmp_path) == [1]
    journal.intend(an_intent(100))
    journal.enter(a_row(2))
    assert journal.end.segment > 1
    journal.close()
    found = left_by(tmp_path)
    assert [one for one in found if isinstance(one, Row)] == [a_row(1), a_row(2)]
    assert an_intent(2) in found
    assert an_intent(100) in found
    assert len(caplog.messages) == 2, "when it begins, and when it is over"


def test_a_row_for_which_there_is_no_room_at_all_is_an_error(
    tmp_path: Path, a_row: MakeRow, full_disk: FullDisk
) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=500)
    rows = [a_row(number) for number in range(1000)]
    entered = []
    with full_disk(), contextlib.suppress(OSError):
        for row in rows:
            journal.leave(row)
            entered.append(row)
    assert not journal.waiting
    journal.close()
    assert 100 < len(entered) < 1000
    assert left_by(tmp_path) == entered, "no half line"


def test_a_journal_that_cannot_be_begun_leaves_no_files(tmp_path: Path, full_disk: FullDisk) -> None:
    with full_disk(), pytest.raises(OSError, match="No space left"):
        Journal(tmp_path, "b")
    assert list(tmp_path.iterdir()) == []


def test_what_was_half_copied_when_the_process_died_is_left_out(tmp_path: Path, a_row: MakeRow) -> None:
    """A copy may begin anywhere: a line may have its end, but zeros before."""
    whole, half = line(a_row(1)), line(a_row(2))
    path = tmp_path / "x"
    for start in range(1, len(half)):
        path.write_bytes(whole + bytes(start) + half[start:] + bytes(5000))
        assert read(path) == [a_row(1)]
        path.write_bytes(whole + half[:start] + bytes(5000))
        assert read(path) == [a_row(1)]
    path.write_bytes(bytes(100) + whole + half)
    assert read(path) == [Damage(0), a_row(2)], "something follows: the file was damaged"


def test_a_journal_that_is_left_takes_no_more_of_the_disk_than_it_needs(tmp_path: Path, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b")
    (path,) = tmp_path.glob("*.journal")
    assert path.stat().st_blocks * 512 >= SEGMENT_BYTES, "taken before it is written to"
    journal.intend(an_intent(1))
    journal.close()
    assert path.read_bytes() == line(an_intent(1))


def test_rows_are_read_back_piece_by_piece(tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=3000)
    rows = [a_row(number) for number in range(50)]
    entered = []
    for row in rows:
        journal.intend(an_intent(row.attempts))
        journal.leave(row)
        entered.append((row, journal.end.segment))
    found: list[tuple[Row, int]] = []
    place = Place(1, 0)
    while place != journal.end:
        some, place = journal.read(place, journal.end, 7)
        assert len(some) <= 7
        found += some
    assert found == entered
    journal.take_back(found)
    assert journal.waiting == rows
    journal.booked(50)
    assert segments(tmp_path) == [journal.end.segment]
    journal.leave(a_row(50))
    assert journal.read(place, journal.end, 7)[0] == [(a_row(50), entered[-1][1])]
    assert journal.read(Place(1, 0), journal.end, 99)[0][-1][0] == a_row(50), "segments that are gone are passed over"
    journal.close()


def test_a_row_that_is_refused_stays_and_one_that_is_booked_later_goes(
    tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent, full_disk: FullDisk
) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=1000)
    journal.intend(an_intent(99))
    with full_disk():
        journal.keep(a_row(99))
    for number in range(20):
        journal.enter(a_row(number))
    last = journal.end.segment
    assert segments(tmp_path) == list(range(1, last + 1))
    journal.booked(15, 1)
    assert [row.request_id for row in journal.waiting] == [f"req_{number:06}" for number in (99, 15, 16, 17, 18, 19)]
    journal.booked(1)
    assert not journal._under_way, "its row is in the database, though not here"
    journal.refused(1)
    (kept, *_) = left = segments(tmp_path)
    assert 1 < kept <= left[-1] == last
    journal.booked(4)
    assert segments(tmp_path) == sorted({kept, last})
    assert not journal.is_settled
    journal.close()
    assert a_row(15) in left_by(tmp_path)


def test_what_is_closed_is_not_written_to(tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b")
    journal.close()
    with pytest.raises(RuntimeError, match="closed"):
        journal.enter(a_row(1))
    with pytest.raises(RuntimeError, match="closed"):
        journal.intend(an_intent(1))
    assert segments(tmp_path) == [1]
    assert left_by(tmp_path) == []


def test_the_reserve_is_for_rows_only(
    tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent, full_disk: FullDisk
) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=1000)
    with full_disk():
        journal.intend(an_intent(0, model="m" * 800))
        journal.enter(a_row(1))  # more than is left of the room
        assert journal.end.offset > 1000
        with pytest.raises(OSError, match="No space left"):
            journal.intend(an_intent(2))
        journal.enter(a_row(3))
        with pytest.raises(OSError, match="No space left"):
            journal.intend(an_intent(4))
    journal.close()
    assert left_by(tmp_path) == [an_intent(0, model="m" * 800), a_row(1), a_row(3)]


def test_only_one_takes_over(tmp_path: Path, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b")
    journal.intend(an_intent(1))
    journal.close()
    (first,) = Estate.claimed(tmp_path)
    assert list(Estate.claimed(tmp_path)) == []
    first.close()
    (second,) = Estate.claimed(tmp_path)
    second.remove()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from gatehook_plugins.ledger.journal import Journal\n"
    code += "j = Journal(Path(sys.argv[1]), 'b'); print(j.owner, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        assert list(Estate.claimed(tmp_path)) == []
        process.kill()
        process.wait()
    (estate,) = Estate.claimed(tmp_path)
    assert estate.owner == owner
    estate.close()


def test_damaged_segments_are_told_and_kept(tmp_path: Path, a_row: MakeRow, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path, "b")
    journal.enter(a_row(1))
    journal.enter(a_row(2))
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    path.write_bytes(path.read_bytes().replace(b"req_000001", b"req_000009"))
    (estate,) = Estate.claimed(tmp_path)
    found = list(estate.records())
    assert isinstance(found[0], Damage)
    assert found[1:] == [a_row(2)]
    assert "damaged" in caplog.text
    estate.remove()
    estate.close()
    assert [kept.suffix for kept in tmp_path.iterdir()] == [".damaged"]
