"""The journal: what was written is read back, whatever happened to the files' ends; and whose files they are."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook.accounts import UsageRow
from gatehook_plugins.ledger.journal import Estate, Journal, Place
from gatehook_plugins.ledger.records import Damage, Intent, Record, line, records

MakeRow = Callable[..., UsageRow]
MakeIntent = Callable[..., Intent]

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
    written: list[Intent | UsageRow] = [an_intent(1), a_row(1, model="mödel"), an_intent(2)]
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
    journal = Journal(tmp_path, "b", segment_bytes=2000)
    journal.intend(an_intent(999))
    rows = [a_row(number) for number in range(30)]
    places = [journal.enter(row) for row in rows]
    numbers = segments(tmp_path)
    assert len(numbers) > 3
    for row, place in zip(rows, places, strict=True):
        journal.booked(row, place)
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


def test_a_full_disk_leaves_no_half_line(
    tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "b")
    journal.intend(an_intent(1))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:20]))
        with pytest.raises(OSError, match="No space left"):
            journal.enter(a_row(1))
    journal.intend(an_intent(2))
    journal.close()
    assert left_by(tmp_path) == [an_intent(1), an_intent(2)]


def test_a_device_that_takes_nothing_is_an_error_until_it_does(tmp_path: Path, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b")
    file, journal._file = journal._file, os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError) as caught:  # noqa: PT011  # whatever its words, its number tells
        journal.intend(an_intent(1))
    assert caught.value.errno == errno.ENOSPC
    os.close(journal._file)
    journal._file = file
    journal.intend(an_intent(2))
    journal.close()
    assert left_by(tmp_path) == [an_intent(2)]


def test_a_segment_that_cannot_be_begun_is_put_off(
    tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=500)
    journal.intend(an_intent(100))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *rest: (_ for _ in ()).throw(OSError(errno.EMFILE, "too many files")))
        places = [journal.enter(a_row(number)) for number in range(5)]
    assert {place.segment for place in places} == {1}
    assert journal.enter(a_row(9)).segment == 2
    journal.close()
    assert len(left_by(tmp_path)) == 8, "the request under way is in both"


def test_rows_are_read_back_piece_by_piece(tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=3000)
    rows = [a_row(number) for number in range(50)]
    places = []
    for row in rows:
        journal.intend(an_intent(row.attempts))
        places.append(journal.enter(row))
    for row, place in list(zip(rows, places, strict=True))[:10]:
        journal.booked(row, place)
    found: list[tuple[UsageRow, Place]] = []
    place = places[10]
    while place != journal.end:
        some, place = journal.read(place, 7)
        assert len(some) <= 7
        found += some
    assert found == list(zip(rows, places, strict=True))[10:]
    journal.close()


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
