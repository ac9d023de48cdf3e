"""Runs say of every row the same as a list of the rows' segments would."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gatehook_plugins.ledger.runs import Runs

segments = st.none() | st.integers(1, 4)
places = st.integers(0, 30)
steps = st.lists(st.tuples(segments, st.integers(0, 5)) | st.tuples(places, places, st.just("drop")), max_size=30)


@given(steps)
def test_whatever_comes_and_goes(taken: list[tuple[int, int] | tuple[int, int, str]]) -> None:
    runs, rows, now = Runs(), list[int | None](), None
    runs.begin(0, now)
    for step in taken:
        if len(step) == 3:
            place = min(step[0], len(rows))
            count = min(step[1], len(rows) - place)
            gone = Counter(rows[place : place + count])
            del rows[place : place + count]
            assert runs.drop(place, count) == gone
        else:
            now, count = step
            runs.begin(len(rows), now)
            rows += [now] * count
        assert {one for one in (None, 1, 2, 3, 4) if one in runs} == {*rows, now}


def test_many_rows_of_one_segment_are_one_run() -> None:
    runs = Runs()
    for place in range(100):
        runs.begin(place, 1)
    assert len(runs._runs) == 1
